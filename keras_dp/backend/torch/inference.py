"""A model run forward only, over many examples."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from keras_dp.backend.stateful import inference_rows, pure
from keras_dp.backend.torch.memory import microbatch_memory
from keras_dp.types import Tree


def compile_inference(
    function: Callable[[Tree], Any], variables: Sequence[Any]
) -> Callable[[Tree], Any]:
    """Return the function without gradients, with the values that its variables have now.

    Args:
        function: Calls Keras models on a batch; what it changes in their variables is thrown away.
        variables: The Keras variables that it reads.
    """
    of_values = pure(function, variables)
    values = [variable.value.detach().clone() for variable in variables]

    def run(rows: Tree) -> Any:
        with torch.no_grad():
            return of_values(values, rows)

    return run


def inference_size(function: Callable[[Tree], Any], variables: Sequence[Any], rows: Tree) -> int:
    """Return how many examples the device runs at a time: a power of two, from 1 to 1,024.

    Args:
        function: As for `compile_inference`.
        variables: The Keras variables that it reads.
        rows: Some rows, of which shapes and dtypes are used.
    """
    del function, variables
    return inference_rows(rows, microbatch_memory())
