"""A model run forward only, over many examples."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_dp.backend.stateful import inference_rows, pure
from keras_dp.backend.tensorflow.memory import microbatch_memory
from keras_dp.sampling.rows import map_leaves
from keras_dp.types import Tree


def compile_inference(
    function: Callable[[Tree], Any], variables: Sequence[Any]
) -> Callable[[Tree], Any]:
    """Return the compiled function, with the values that its variables have now.

    Args:
        function: Calls Keras models on a batch; what it changes in their variables is thrown away.
        variables: The Keras variables that it reads.
    """
    compiled = tf.function(pure(function, variables), autograph=False)
    values = [tf.identity(variable.value) for variable in variables]
    return lambda rows: compiled(values, map_leaves(tf.convert_to_tensor, rows))


def inference_size(function: Callable[[Tree], Any], variables: Sequence[Any], rows: Tree) -> int:
    """Return how many examples the device runs at a time: a power of two, from 1 to 1,024.

    Args:
        function: As for `compile_inference`.
        variables: The Keras variables that it reads.
        rows: Some rows, of which shapes and dtypes are used.
    """
    del function, variables
    return inference_rows(rows, microbatch_memory())
