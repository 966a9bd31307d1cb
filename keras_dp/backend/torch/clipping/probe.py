"""A look at whether examples are apart: what one gives must not depend on another.

`torch.vmap` and the loop over examples keep them apart as far as PyTorch sees. It does not see what
Python keeps from one run to the next, nor what a `vmap` of a user's own does with the examples.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import numpy as np
import torch

from keras_dp.backend.torch.clipping.recording import mapped, tensors_of
from keras_dp.errors import NotPrivateError
from keras_dp.types import ClippedSum, Tree

TOLERANCE = 1e-4
"""Of a sum's norm. The same numbers are computed again in the same way, so they hardly differ."""


def check_apart(
    run: Callable[[Tree, torch.Tensor], ClippedSum], one: Tree, size: int, model: Any
) -> None:
    """Refuse a loss in which an example acts on what others give, or on what is run later.

    The clipped sum of some examples but the first is taken three times: as it is, with another
    first example, and with the former one again. All three must be equal. The values are made up;
    where the loss raises an error for them they are zeros, and the first example stays.

    Args:
        run: `run(examples, valid)` gives the clipped sum, and draws random numbers as it likes.
        one: Dict with `x`, `y` and `sample_weight`, leaves of shape `(1, ...)`, of which shapes
            and dtypes are used.
        size: Number of examples.
        model: The model whose layers may be named.

    Raises:
        NotPrivateError: where the sums are not equal.

    Privacy:
        An example that acts on others moves the sum by more than its own clipped gradient. Only
        what these values call forth is found.
    """
    before = _made_up(one, size)
    after = {name: mapped(_first_changed, leaves) for name, leaves in before.items()}
    held = _held(model)
    try:
        results = _runs(run, (before, after, before), size)
    except Exception:  # of the values, as far as is known: the trace ran zeros
        zeros = mapped(lambda a: None if a is None else torch.zeros_like(a), before)
        results = _runs(run, (zeros, zeros, zeros), size)
    first, changed, again = results
    if _equal(first, changed, 1) and _equal(first, again, 0):
        return
    keeping = sorted({name for name, kept in _held(model).items() if kept != held.get(name)})
    where = f" These hold tensors that were changed: {keeping}." if keeping else ""
    raise NotPrivateError(
        "An example's loss must depend on that example and the weights alone. When one example "
        f"was changed, or run before, others gave other gradients.{where} Keep no values between "
        "calls in attributes, lists or counters of a layer or a loss, let no "
        "`torch.autograd.Function.vmap` and no operator of your own mix examples, and draw random "
        "numbers by `keras.random`."
    )


def _runs(run: Any, batches: Any, size: int) -> list[ClippedSum]:
    position = keras.ops.arange(size, dtype="int32")
    found = []
    with _random_numbers() as reset:
        for rows in batches:
            reset()
            found.append(run({**rows, "position": position}, position > 0))
    return found


def _made_up(one: Tree, size: int) -> dict[str, Any]:
    """Return values from 0 to 1; whole numbers are 1 in `x`, and 0 elsewhere, as a class is."""
    generator = torch.Generator()
    generator.manual_seed(0)

    def rows(whole: int, leaf: Any) -> Any:
        if leaf is None:
            return None
        shape = (size, *leaf.shape[1:])
        if leaf.is_floating_point():
            return torch.rand(shape, generator=generator).to(leaf)
        return torch.full(shape, whole, dtype=leaf.dtype, device=leaf.device)

    names = ("x", "y", "sample_weight")
    return {name: mapped(partial(rows, int(name == "x")), one[name]) for name in names}


def _first_changed(leaf: Any) -> Any:
    if leaf is None or not (leaf.is_floating_point() or leaf.any()):
        return leaf
    changed = leaf.clone()
    changed[0] = (1 - leaf[0].float()).to(leaf.dtype)
    return changed


@contextmanager
def _random_numbers() -> Iterator[Callable[[], None]]:
    """Yield what begins all global random numbers anew; they go on as before in the end."""
    states = random.getstate(), np.random.get_state()

    def reset() -> None:
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)

    try:
        with torch.random.fork_rng():
            yield reset
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _equal(a: ClippedSum, b: ClippedSum, start: int) -> bool:
    """Compare sums, and norms and losses of the examples from one on."""
    return (
        _close(a.grads, b.grads)
        and _close([a.norms[start:]], [b.norms[start:]])
        and _close([a.losses[start:]], [b.losses[start:]])
    )


def _close(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    pairs = [(torch.nan_to_num(p), torch.nan_to_num(q)) for p, q in zip(a, b, strict=True)]
    apart = sum(float((p - q).square().sum()) for p, q in pairs)
    size = sum(float(p.square().sum() + q.square().sum()) for p, q in pairs)
    return apart <= TOLERANCE**2 * size


def _held(model: Any) -> dict[str, list[Any]]:
    """Return the tensors that layers, and modules inside, hold as attributes."""
    found: dict[str, list[Any]] = {}
    for layer in model._flatten_layers():
        inside = getattr(layer, "module", None)
        owners = [layer, *(inside.modules() if isinstance(inside, torch.nn.Module) else ())]
        found[layer.name] = [
            (id(tensor), tensor._version) for owner in owners for tensor in tensors_of(vars(owner))
        ]
    return found
