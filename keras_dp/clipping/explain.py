"""`explain`: which rule clips which weight, and what that costs."""

import sys
from collections.abc import Callable
from typing import Any

from keras_dp.backend import Report


def explain(
    model: Any,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    print_fn: Callable[[str], Any] | None = None,
) -> Report:
    """Print where each weight meets data, the rule chosen there, its FLOPs and its bytes.

    The first thing to look at when private training is slow: a row with many FLOPs or bytes and the
    rule `generic` or `pulled back` is the place.

    Args:
        model: A `DPModel` that is compiled.
        x: Inputs, as for `fit`; of the data only shapes and types are used.
        y: Targets.
        sample_weight: Weights of the examples.
        print_fn: Takes the table, by default `sys.stdout.write` with a line break.

    Returns:
        A `Report`, whose `rows` are the table's.

    Raises:
        NotPrivateError: for a model that cannot be trained privately.
        ValueError: when the model is not compiled.

    Privacy:
        Nothing is computed from the data, and nothing is charged to the ledger.

    Example:
        >>> import keras, keras_dp
        >>> model = keras_dp.DPSequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model.compile(keras_dp.optimizers.DPSGD(0.1, noise_multiplier=1.0), "mse")
        >>> import numpy as np
        >>> report = keras_dp.clipping.explain(
        ...     model, np.zeros((8, 4)), np.zeros((8, 2)), print_fn=lambda table: None)
        >>> [row.rule for row in report.rows]
        ['outer, product', 'written out']
    """
    if not hasattr(model, "clipping_report"):
        raise ValueError(
            "`model` must be a `keras_dp.DPModel`; `keras_dp.make_private(model)` makes one. "
            f"Received: {type(model).__name__}."
        )
    report: Report = model.clipping_report(x, y, sample_weight)
    (print_fn or (lambda text: sys.stdout.write(f"{text}\n")))(str(report))
    return report
