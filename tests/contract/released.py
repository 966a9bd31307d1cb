"""Models whose weights show what an update released, or who took part in it."""

import keras
import numpy as np
from scipy import stats

import keras_dp
from keras_dp.optimizers import DPSGD
from tests.kinds import L

SIGNIFICANCE = 1e-9
"""With some thirty unseeded samples in a run the tests of laws fail by chance once in 1e7 runs."""


def has_law(sample, stddev):
    """Whether a sample is centred normal with this deviation, and not with 2/3 or 3/2 of it."""
    return [fits(sample, stddev * scale) for scale in (2 / 3, 1, 3 / 2)] == [False, True, False]


def fits(sample, stddev):
    """Whether neither its shape nor the sum of its squares is unlike that of centred normals."""
    sample = np.ravel(sample).astype(np.float64) / stddev
    law = stats.chi2(sample.size)
    tail = min(law.cdf(squares := np.sum(sample**2)), law.sf(squares))
    return min(tail, stats.kstest(sample, "norm").pvalue) > SIGNIFICANCE


def related(one, other):
    """Whether two samples are correlated by more than six standard errors."""
    return abs(np.corrcoef(np.ravel(one), np.ravel(other))[0, 1]) > 6 / np.sqrt(np.size(one))


class Noise:
    """A model without gradients: what its two weights take up in an update is noise alone.

    Args:
        units: Each weight has four times as many numbers.
        compiling: Arguments of `compile`.
        settings: Arguments of `DPSGD`.
    """

    size, batch_size = 64, 16

    def __init__(self, units=10_000, compiling=None, **settings):
        inputs = keras.Input((4,))
        self.layers = [L.Dense(units, use_bias=False) for _ in range(2)]
        outputs = L.Add()([layer(inputs) for layer in self.layers])
        self.model = keras_dp.DPModel(inputs, outputs)
        settings = {"clip_norm": 0.5, "noise_multiplier": 2.0, **settings}
        self.model.compile(
            DPSGD(1.0, **settings),
            **{"loss": lambda y_true, y_pred: 0.0 * y_pred, **(compiling or {})},
        )

    def update(self):
        """Return the noise on the sums of both weights in one update of `fit`."""
        for layer in self.layers:
            layer.kernel.assign(np.zeros(layer.kernel.shape))
        x, y = np.ones((self.size, 4), "float32"), np.zeros((self.size, 1))
        self.model.fit(x, y, batch_size=self.batch_size, steps_per_epoch=1, verbose=0)
        return [-self.batch_size * layer.kernel.numpy() for layer in self.layers]


class Taken:
    """A model with a weight for each example, which counts how often it took part.

    The draws follow from a seed, so that tests of their law end the same every time.

    Args:
        size: Number of examples.
        sampling: How they are drawn.
        compiling: Arguments of `compile`.
    """

    def __init__(self, size, sampling="poisson", **compiling):
        inputs = keras.Input((size,))
        self.size = size
        self.layer = L.Dense(1, use_bias=False, kernel_initializer="zeros")
        self.model = keras_dp.DPModel(inputs, self.layer(inputs))
        self.model.compile(
            DPSGD(1.0, clip_norm=10.0, noise_multiplier=0.0, seed=0),
            loss=lambda y_true, y_pred: -y_pred,
            sampling=sampling,
            **compiling,
        )

    def fit(self, batch_size, updates):
        """Return how often each example took part in the updates of one `fit`."""
        self.layer.kernel.assign(np.zeros((self.size, 1)))
        x, y = np.eye(self.size, dtype="float32"), np.zeros((self.size, 1))
        self.model.fit(x, y, batch_size=batch_size, steps_per_epoch=updates, verbose=0)
        times = self.layer.kernel.numpy()[:, 0] * batch_size
        np.testing.assert_allclose(times, np.round(times), atol=1e-3)
        return np.round(times).astype(int)
