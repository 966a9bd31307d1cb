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
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx

from keras_dp.backend.torch.clipping.recording import mapped, tensors_of
from keras_dp.types import Tree

Program = Callable[..., Any]

_PROGRAMS: ContextVar[dict[Any, Program] | None] = ContextVar("programs", default=None)


@contextmanager
def kept_in(programs: dict[Any, Program]) -> Iterator[None]:
    """Look for programs here, and put new ones here."""
    token = _PROGRAMS.set(programs)
    try:
        yield
    finally:
        _PROGRAMS.reset(token)


def run(traced: Program, plain: Program, arguments: tuple[Any, ...]) -> Any:
    """Run a function by its compiled program.

    Args:
        traced: The function, a pure one of the tensors among its arguments; what it cannot do for
            any values of theirs it must raise.
        plain: The function to run where there is no program, as when `traced` cannot be compiled.
        arguments: Trees of tensors, with `None` for what is not there.
    """
    programs = _PROGRAMS.get()
    if programs is None:
        return plain(*arguments)
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


def is_traced() -> bool:
    """Whether a program is being traced, which knows no values."""
    return get_proxy_mode() is not None
