"""LiRA: the likelihood ratio attack, with shadow models that were trained with and without."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt

from keras_dp import backend, validation
from keras_dp.auditing.canaries import generator
from keras_dp.auditing.tradeoff import Array
from keras_dp.sampling import ArraySource
from keras_dp.types import Tree

_LEAST_LOSS = 1e-12
_FEWEST = 2


class Shadows(NamedTuple):
    """What shadow models gave.

    Attributes:
        losses: Shape `(models, examples)`: each model's loss on each example.
        members: Same shape: whether the model was trained on the example.
    """

    losses: Array
    members: npt.NDArray[np.bool_]


def example_losses(model: keras.Model, x: Tree, y: Tree = None) -> Array:
    """Return a compiled model's loss on each example alone.

    Args:
        model: A `keras.Model`, private or not, that is compiled with a loss.
        x: Inputs.
        y: Targets.

    Raises:
        ValueError: when the model is not compiled.
    """
    if not model.compiled:
        raise ValueError("`model` must be compiled with a loss, which is what is computed.")
    source = ArraySource(x, y)
    losses = backend.example_losses(model, source.take(np.arange(source.size)))
    return np.asarray(losses, np.float64)


def train_shadows(
    train: Callable[[Tree, Tree], keras.Model],
    x: Tree,
    y: Tree,
    *,
    models: int = 16,
    seed: int | None = None,
) -> Shadows:
    """Train shadow models, each on a random half of the examples.

    Every example is in half of the models, chosen for each anew: as evenly as their number allows.

    Args:
        train: Makes and trains a model on the inputs and targets it is given, in the way of the
            model that is attacked, and returns it compiled.
        x: Inputs, from the same population as the attacked model's training data.
        y: Targets.
        models: Number of shadow models, at least 4, default 16.
        seed: `None` for the operating system's entropy, or an integer.

    Raises:
        ValueError: for fewer than 4 models.

    References:
        Carlini et al. 2022, section 4.
    """
    if validation.positive_int("models", models) < 2 * _FEWEST:
        raise ValueError(
            f"`models` must be at least {2 * _FEWEST}, {_FEWEST} with and {_FEWEST} without each "
            f"example. Received: {models}."
        )
    source = ArraySource(x, y)
    order = generator(seed, "shadows", 0).random((models, source.size)).argsort(axis=0)
    members = order < models // 2
    losses = []
    for chosen in members:
        own_x, own_y, _ = source.take(np.flatnonzero(chosen))
        losses.append(example_losses(train(own_x, own_y), x, y))
    return Shadows(np.stack(losses), members)


def lira_scores(losses: Any, shadows: Shadows, *, online: bool = True, logit: bool = True) -> Array:
    """Return for each example how much its loss speaks for membership.

    The loss is turned into `log(p / (1 - p))` with `p = exp(-loss)`, the probability of the right
    class under cross-entropy, which is nearly normal over models. Online: the log likelihood ratio
    of two normal distributions, that of the shadow models trained with the example and that of
    those without. Offline: by how many standard deviations it is above those without. Standard
    deviations are shared by all examples, which few shadow models need.

    Args:
        losses: The attacked model's loss on each example.
        shadows: Shadow models' losses on the same examples.
        online: Whether to use shadow models that were trained with an example, default true.
        logit: Whether losses are cross-entropies; otherwise they are taken as they are.

    Returns:
        Array of one score for each example, for `membership_report`.

    Raises:
        ValueError: for shapes that do not fit, losses that are no numbers, or examples that too few
            shadow models were trained with or without.

    Example:
        >>> from keras_dp import auditing
        >>> rng = np.random.default_rng(0)
        >>> members = np.tile([[True, False], [False, True]], (4, 1))
        >>> losses = np.where(members, 0.1, 1.0) + rng.random((8, 2)) / 9
        >>> shadows = auditing.Shadows(losses, members)
        >>> scores = auditing.lira_scores([0.12, 1.05], shadows)
        >>> bool(scores[0] > scores[1])
        True

    References:
        Carlini et al. 2022, Membership Inference Attacks From First Principles, algorithm 1.
    """
    observed, values, members = _checked(losses, shadows, online)
    if logit:
        observed, values = _confidence(observed), _confidence(values)
    else:
        observed, values = -observed, -values
    out_mean, out_std = _fit(values, ~members)
    if not online:
        return (observed - out_mean) / out_std
    in_mean, in_std = _fit(values, members)
    return _log_density(observed, in_mean, in_std) - _log_density(observed, out_mean, out_std)


def _checked(losses: Any, shadows: Shadows, online: bool) -> tuple[Array, Array, Any]:
    observed, values = np.asarray(losses, np.float64), np.asarray(shadows.losses, np.float64)
    members = np.asarray(shadows.members, np.bool_)
    if values.ndim != 2 or values.shape != members.shape or observed.shape != values.shape[1:]:
        raise ValueError(
            "`losses` must have one entry for each example, and the shadows' losses and members a "
            f"row of them for each model. Received shapes {observed.shape}, {values.shape} and "
            f"{members.shape}."
        )
    if not (np.isfinite(observed).all() and np.isfinite(values).all()):
        raise ValueError("Losses must be finite. Received NaN or infinity.")
    sides = (members, ~members) if online else (~members,)
    fewest = min(int(side.sum(0).min()) for side in sides)
    if fewest < _FEWEST:
        raise ValueError(
            f"Each example needs at least {_FEWEST} shadow models trained "
            f"{'with and without' if online else 'without'} it. The fewest: {fewest}."
        )
    return observed, values, members


def _confidence(losses: Array) -> Array:
    """Return `log(p / (1 - p))` for `p = exp(-loss)`, all digits kept."""
    losses = np.maximum(losses, _LEAST_LOSS)
    # log(p / (1 - p)) = -log(exp(loss) - 1) = -loss - log(1 - exp(-loss))
    return np.asarray(-losses - np.log(-np.expm1(-losses)), np.float64)


def _fit(values: Array, side: Any) -> tuple[Array, float]:
    """Return each example's mean over the models on one side, and the deviation of all."""
    counts = side.sum(0)
    means = np.where(side, values, 0.0).sum(0) / counts
    squares = np.where(side, (values - means) ** 2, 0.0).sum() / (counts - 1).sum()
    return means, float(max(np.sqrt(squares), _LEAST_LOSS))


def _log_density(values: Array, means: Array, deviation: float) -> Array:
    return np.asarray(-((values - means) ** 2) / (2 * deviation**2) - np.log(deviation))
