"""One private update as pure functions of arrays: clip, sum, noise once, optimizer.

The only place where a clipped sum becomes a privatized gradient.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt

from keras_dp import backend, noise
from keras_dp.clipping import clipped_sum
from keras_dp.types import NoisyGradient, Tree

State = tuple[list[Any], list[Any], list[Any], list[Any]]
"""Keras' training state: trainable, non-trainable, optimizer and metric variables."""


class Mechanism(NamedTuple):
    """What one update's clip and noise need, as array arguments of the compiled step.

    Attributes:
        clip_norm: Float, the bound on one example's gradient.
        noise_stddev: Float, standard deviation of the noise on the sum.
        batch_size: Float, the declared batch size that the noisy sum is divided by.
        key: uint32 array of shape `(2,)`, this update's secret noise key.
    """

    clip_norm: np.float32
    noise_stddev: np.float32
    batch_size: np.float32
    key: npt.NDArray[np.uint32]


class Microbatch(NamedTuple):
    """The examples on the device at one time.

    Attributes:
        data: `(x, y, sample_weight)`, each leaf with `microbatch_size` rows.
        offset: int32, position of the first row in the whole batch.
        valid: int32, how many rows are examples; the others are padding.
    """

    data: Tree
    offset: Any
    valid: Any


def accumulate(
    model: Any, state: State, sums: list[Any], microbatch: Microbatch, clip_norm: Any
) -> tuple[list[Any], list[Any]]:
    """Add a microbatch's clipped gradients to the sums, and its examples to the metrics.

    Args:
        model: A `DPModel` that is built and compiled.
        state: Its training state.
        sums: List of float32 arrays, the clipped sums so far.
        microbatch: The examples.
        clip_norm: Float, the bound on one example's gradient.

    Returns:
        The new sums and the new values of the metric variables.
    """
    params, non_trainable, _, metrics = state
    x, y, weight = microbatch.data
    rows = np.arange(_rows(x), dtype=np.int32)
    examples = {"x": x, "y": y, "sample_weight": weight, "position": rows + microbatch.offset}
    clip = clipped_sum(
        backend.example_loss(model, non_trainable, metrics),
        clip_norm=clip_norm,
        clipping=model.optimizer.clipping,
    )
    clipped = clip(params, examples, rows < microbatch.valid)
    sums = [total + new for total, new in zip(sums, clipped.grads, strict=True)]
    seen = {"x": x, "y": y, "sample_weight": weight, "losses": clipped.losses}
    results = {**seen, **{k: v for k, v in clipped.aux.items() if k != "non_trainable"}}
    penalty, _ = backend.regularization_gradient(model, params)
    return sums, backend.measure(model, metrics, results, microbatch.valid, penalty)


def finish(model: Any, advance: Any, state: State, sums: list[Any], mechanism: Mechanism) -> State:
    """Turn the clipped sums of one whole update into new weights.

    `w <- optimizer(w, (sums + noise) / batch_size + gradient of the weight regularizers)`.

    Args:
        model: A `DPModel` that is built and compiled.
        advance: The function that moves its non-trainable variables on, see `ExampleTrace`.
        state: Its training state.
        sums: The clipped sums over all examples of the update.
        mechanism: Noise, divisor and key of this update.

    Privacy:
        Noise is drawn here, once for an update, whatever the number of microbatches, and also
        when no example was drawn. The divisor is the declared batch size: the number of examples
        drawn is private.
    """
    params, non_trainable, optimizer_variables, metrics = state
    noisy = privatize(sums, mechanism)
    _, regularization = backend.regularization_gradient(model, params)
    gradient = [g + r for g, r in zip(noisy.values, regularization, strict=True)]
    advanced = advance(params, non_trainable) if non_trainable else []
    params, optimizer_variables = model.optimizer.stateless_apply(
        optimizer_variables, NoisyGradient(gradient), params
    )
    return params, advanced, optimizer_variables, metrics


def privatize(sums: list[Any], mechanism: Mechanism) -> NoisyGradient:
    """Return `(sums + noise) / batch_size`, in float32.

    Args:
        sums: The clipped sums over all examples of one update.
        mechanism: Noise, divisor and key of this update.
    """
    noisy = noise.add_noise(sums, mechanism.key, mechanism.noise_stddev)
    return NoisyGradient([total / mechanism.batch_size for total in noisy])


def update(
    model: Any, advance: Any, state: State, batch: Microbatch, mechanism: Mechanism
) -> State:
    """Make one whole update with the loop over microbatches inside.

    Args:
        model: A `DPModel` that is built and compiled.
        advance: See `finish`.
        state: Its training state.
        batch: All examples of the update, each leaf of shape `(microbatch_size, count, ...)` with
            example `j * microbatch_size + i` at `[i, j]`; `valid` is the number drawn.
            Microbatches beyond the last valid example are not run.
        mechanism: Clip, noise, divisor and key of this update.
    """
    size = _rows(batch.data[0])

    def body(position: Any, carry: tuple[list[Any], list[Any]]) -> tuple[list[Any], list[Any]]:
        sums, metrics = carry
        offset = position * size
        valid = keras.ops.minimum(batch.valid - offset, size)
        microbatch = Microbatch(backend.microbatch_at(batch.data, position), offset, valid)
        return accumulate(model, (*state[:3], metrics), sums, microbatch, mechanism.clip_norm)

    count = (batch.valid + size - 1) // size
    sums, metrics = backend.repeat(count, body, (backend.zeros_for(state[0]), state[3]))
    return finish(model, advance, (*state[:3], metrics), sums, mechanism)


def _rows(x: Tree) -> int:
    return int(next(leaf.shape[0] for leaf in keras.tree.flatten(x) if leaf is not None))
