"""Clipped sums as compiled programs: traced once for each kind of arguments, then `torch.compile`.

A program keeps whatever Python computed while it was traced. So it is clipping alone that is
compiled: noise, which must be drawn anew for every update, is no part of it, and a loss that draws
random numbers by a generator, or looks at the value of a tensor, is refused by the tracing.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from keras_dp.backend.torch.clipping import Auto
from keras_dp.backend.torch.clipping.recording import mapped, tensors_of
from keras_dp.types import Tree

Program = Callable[..., Any]


class Kept:
    """What one function that clips, again and again, keeps from call to call.

    Attributes:
        auto: Whether the record covers its loss.
        programs: Its programs, by the kind of their arguments.
    """

    def __init__(self) -> None:
        self.auto = Auto()
        self.programs: dict[Any, Program] = {}


_KEPT: ContextVar[Kept | None] = ContextVar("kept", default=None)


@contextmanager
def keeping(kept: Kept) -> Iterator[None]:
    """Keep here what is found out inside."""
    token = _KEPT.set(kept)
    try:
        yield
    finally:
        _KEPT.reset(token)


def present() -> Kept:
    """Return what is kept; nothing is, for calls that are not part of a function of a backend."""
    return _KEPT.get() or Kept()


def run(traced: Program, plain: Program, arguments: tuple[Any, ...]) -> Any:
    """Run a function by its compiled program.

    Args:
        traced: The function, a pure one of the tensors among its arguments; what it cannot do for
            any values of theirs it must raise.
        plain: The function to run where there is no program, as when `traced` cannot be compiled.
        arguments: Trees of tensors, with `None` for what is not there.
    """
    kept = _KEPT.get()
    if kept is None:
        return plain(*arguments)
    programs = kept.programs
    kind = tuple((leaf.shape, leaf.dtype, leaf.device) for leaf in tensors_of(arguments))
    if kind not in programs:
        programs[kind] = _compiled(traced, arguments) or plain
    return programs[kind](*arguments)


def _compiled(function: Program, arguments: tuple[Any, ...]) -> Program | None:
    made: list[Any] = []

    def flat(*leaves: torch.Tensor) -> list[torch.Tensor]:
        result = function(*_filled(arguments, leaves))
        made.append(mapped(lambda leaf: isinstance(leaf, torch.Tensor) or leaf, result))
        return tensors_of(result)

    def program(*arguments: Any) -> Any:
        with torch.no_grad():
            found = iter(compiled(*(leaf.detach() for leaf in tensors_of(arguments))))
        return mapped(lambda leaf: next(found) if leaf is True else leaf, made[0])

    leaves = [leaf.detach() for leaf in tensors_of(arguments)]
    try:
        compiled = torch.compile(make_fx(flat)(*leaves), dynamic=False)
        program(*arguments)
    except Exception as error:
        warnings.warn(
            "`jit_compile=True` has no effect on the clipping of this model: PyTorch cannot "
            f"compile it. It runs uncompiled. {type(error).__name__}: {error}",
            stacklevel=2,
        )
        return None
    return program


def _filled(tree: Tree, leaves: Any) -> Any:
    given = iter(leaves)
    return mapped(lambda leaf: next(given) if isinstance(leaf, torch.Tensor) else leaf, tree)
