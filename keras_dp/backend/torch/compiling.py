"""What PyTorch compiles, which is clipping alone, and what it does at once."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from keras_dp.backend.torch.programs import Kept, keeping
from keras_dp.types import Tree


def compile_function(
    function: Callable[..., Any], *, donate: tuple[int, ...] = (), eager: bool = False
) -> Callable[..., Any]:
    """Return the function, which keeps what was found out and compiled while it runs.

    Nothing but the clipping of a model that asks for it is compiled, see `programs`.

    Args:
        function: A pure function of tensors.
        donate: Positions of arguments whose memory the result may take over.
        eager: Whether to leave it uncompiled.
    """
    del donate, eager
    kept = Kept()

    def run(*arguments: Any) -> Any:
        with keeping(kept):
            return function(*arguments)

    return run


def is_eager(model: Any) -> bool:
    """Whether a model is to be trained without compilation, as Keras does by default here."""
    return bool(model.run_eagerly or not model.jit_compile)


def wait(results: Tree) -> None:
    """Wait until the device has run what was asked of it."""
    del results
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Multiply float32 matrices in float32 inside, where accelerators would take fewer bits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def apply_gradients(
    optimizer: Any, optimizer_variables: list[Any], grads: list[Any], weights: list[Any]
) -> tuple[list[Any], list[Any]]:
    """Return the new weights and the new state of a Keras optimizer.

    Keras' optimizers for PyTorch write into the tensors that they get: they get copies.

    Args:
        optimizer: A `keras.optimizers.Optimizer` that is built.
        optimizer_variables: Values of its variables.
        grads: A gradient for each weight.
        weights: Values of the weights.
    """
    with torch.no_grad():
        state, values = (
            [value.detach().clone() for value in each] for each in (optimizer_variables, weights)
        )
        new_weights, new_state = optimizer.stateless_apply(state, grads, values)
    return list(new_weights), list(new_state)
