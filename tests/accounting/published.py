"""Published figures, and plans to account for: what the tests of the accounting share."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np

from keras_dp.plan import PrivacyPlan

VECTORS = json.loads(
    (Path(__file__).parents[1] / "data" / "vectors.json").read_text(encoding="utf-8")
)

ORDERS = {
    "tf": [1 + tenth / 10 for tenth in range(1, 100)] + list(range(12, 64)),
    "dm": [*np.linspace(1.01, 8, 50), *range(8, 64), *np.linspace(65, 512, 10)],
    "objax": [1.25, 1.5, 1.75, 2, 2.25, 2.5, 3, 3.5, 4, 4.5, *range(5, 21)],
    "int33": list(range(2, 34)),
}


def sizes(row):
    """Return `batch_size` and `dataset_size` of a row that gives them, or a sampling rate."""
    if "sampling_rate" in row:
        rate = Fraction(str(row["sampling_rate"]))
        return {"batch_size": rate.numerator, "dataset_size": rate.denominator}
    return {name: row[name] for name in ("batch_size", "dataset_size")}


def plan(**changes):
    settings = {
        "sampling": "poisson",
        "batch_size": 64,
        "dataset_size": 1000,
        "clip_norm": 1.0,
        "noise_multiplier": 1.0,
    }
    return PrivacyPlan(**{**settings, **changes})
