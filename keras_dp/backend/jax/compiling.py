"""Compilation, loops and the cutting of microbatches on JAX."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax

from keras_dp.backend.train_function import TrainFunction
from keras_dp.types import Tree


class StatelessTrainFunction(TrainFunction):
    """Keras' loop passes the state and takes the new one."""

    def __call__(self, state: Any, iterator: Iterator[Any]) -> tuple[dict[str, Any], Any]:
        """Make `steps_per_execution` updates and return the logs and the new state."""
        hold_state(self.update.model, state)
        return self.update(state, iterator)


def train_function(update: Any) -> TrainFunction:
    """Return what Keras' loop calls once for every step.

    Args:
        update: `executor.UpdateFunction`.
    """
    return StatelessTrainFunction(update)


def is_eager(model: Any) -> bool:
    """Whether a model is to be trained without compilation."""
    return bool(model.run_eagerly or not model.jit_compile)


def compile_function(
    function: Callable[..., Any], *, donate: tuple[int, ...] = (), eager: bool = False
) -> Callable[..., Any]:
    """Return the compiled function, or the function itself when `eager`.

    Args:
        function: A pure function of arrays.
        donate: Positions of arguments whose memory the result may take over.
        eager: Whether to leave it uncompiled, for `run_eagerly`.
    """
    return function if eager else jax.jit(function, donate_argnums=donate)


def loops_on_device() -> bool:
    """Whether the loop over microbatches belongs inside the compiled step.

    Not on CPU, where XLA runs convolutions in a loop at a fraction of their speed.
    """
    return jax.default_backend() != "cpu"


def repeat(count: Any, body: Callable[[Any, Tree], Tree], initial: Tree) -> Tree:
    """Apply `body(i, carry)` for i in `range(count)`; the count may be traced."""
    return jax.lax.fori_loop(0, count, body, initial)


def microbatch_at(batch: Tree, position: Any) -> Tree:
    """Return one microbatch of a batch whose leaves have shape `(size, count, ...)`.

    Microbatch `j` is column `j`: a batch that is spread over devices along its first axis gives
    microbatches that are spread in the same way, and no example moves.

    Args:
        batch: Tree of arrays.
        position: Index of the microbatch, possibly traced.
    """
    return jax.tree.map(
        lambda rows: jax.lax.dynamic_index_in_dim(rows, position, axis=1, keepdims=False), batch
    )


def wait(results: Tree) -> None:
    """Wait until the compiled functions that these results come from have run."""
    jax.block_until_ready(results)


def exact_products() -> AbstractContextManager[Any]:
    """Multiply float32 matrices in float32 inside, where accelerators would take fewer bits."""
    return jax.default_matmul_precision("highest")


def apply_gradients(
    optimizer: Any, optimizer_variables: list[Any], grads: list[Any], weights: list[Any]
) -> tuple[list[Any], list[Any]]:
    """Return the new weights and the new state of a Keras optimizer; nothing is changed in place.

    Args:
        optimizer: A `keras.optimizers.Optimizer` that is built.
        optimizer_variables: Values of its variables.
        grads: A gradient for each weight.
        weights: Values of the weights.
    """
    new = optimizer.stateless_apply(optimizer_variables, grads, weights)
    return list(new[0]), list(new[1])


def hold_state(model: Any, state: tuple[list[Any], ...]) -> None:
    """Let Keras write this state back to the variables if the step that follows is refused.

    Keras empties the variables before the first step of an epoch; an error in it would lose them.
    """
    trainable, non_trainable, optimizer, metrics = state
    # Not by assignment: Keras would look at each array for layers and variables to track.
    vars(model)["_jax_state"] = {
        "trainable_variables": trainable,
        "non_trainable_variables": non_trainable,
        "optimizer_variables": optimizer,
        "metrics_variables": metrics,
    }
