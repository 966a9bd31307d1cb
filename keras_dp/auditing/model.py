"""The model under audit: a copy of the user's, which gives canaries a loss of their own."""

from typing import Any

import keras
from keras import ops

from keras_dp.auditing.canaries import REAL, matrix_shape
from keras_dp.model import DPModel
from keras_dp.optimizers import DPOptimizer
from keras_dp.types import Tree

SCALE = 100.0
"""Norm of a gradient canary's raw gradient, in clip norms: far above 1, so that a missing clip
shows."""


class AuditedModel(DPModel):
    """A private model around a copy of the user's, trained by the same `fit`.

    Its inputs are `{"x": ..., "canary": ...}`, see `canaries.Planted`. An ordinary example has the
    user's loss. A gradient canary has the loss `scale * w`, where `w` is one weight: its gradient
    points along that weight alone, whatever the weights are.

    Args:
        model: The copy, built and compiled.
        scale: Norm of a gradient canary's raw gradient.
    """

    def __init__(self, model: DPModel, scale: float) -> None:
        super().__init__(name="audited")
        self.model = model
        self.scale = scale
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Call the copy."""
        arguments = {"training": training} if self.model._call_has_training_arg else {}
        return self.model(inputs["x"], **arguments)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the loss of one example, as private training asks for it."""
        # What layers added to the loss in the forward pass Keras hands to the outer model only.
        self.model._losses_override = list(self._losses_override)
        with self.model.example_by_example():
            loss = self.model._compute_loss(x["x"], y, y_pred, sample_weight, training=training)
        self.model._losses_override = []
        canary = x["canary"]
        own = self.scale * self._weights_at(canary)
        return ops.where(canary[0, 0] == REAL, ops.cast(loss, "float32"), ops.sum(own))

    def _weights_at(self, canary: Any) -> Any:
        """Return the weight that each canary names; 0 for what is no gradient canary.

        Rows are looked up as in an embedding table: the clipping engine joins that with the uses
        of dense kernels and embeddings without writing out any example's gradient.
        """
        total = ops.zeros((len(canary),))
        for number, variable in enumerate(self.trainable_variables):
            rows, columns = matrix_shape(variable.shape)
            weights = ops.convert_to_tensor(variable)
            matrix = weights if len(variable.shape) == 2 else ops.reshape(weights, (rows, columns))
            here = canary[:, 0] == number
            row = ops.take(matrix, ops.where(here, canary[:, 1], 0), axis=0)
            picked = ops.sum(row * ops.one_hot(canary[:, 2], columns, dtype=row.dtype), axis=-1)
            total += ops.where(here, ops.cast(picked, "float32"), 0.0)
        return total


def copy_of(model: Any, rows: Tree) -> DPModel:
    """Return a copy of a compiled private model with a ledger of its own.

    Args:
        model: A `DPModel`. Neither it nor its weights, optimizer and ledger are touched.
        rows: `(x, y, sample_weight)` of a few examples, to build what is not built.

    Raises:
        ValueError: when the model's class cannot be rebuilt from its configuration.
    """
    known = {type(layer).__name__: type(layer) for layer in model._flatten_layers()}
    try:
        config = keras.saving.serialize_keras_object(model)
        config.pop("compile_config", None)  # the ledger is there, and functions without a name
        copy = keras.saving.deserialize_keras_object(config, custom_objects=known, safe_mode=False)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"The audit trains a copy of the model, and `{type(model).__name__}` cannot be rebuilt "
            "from `get_config()`. Implement `get_config` and `from_config`."
        ) from error
    if not copy.built:
        copy(rows[0])
    if model.built:
        copy.set_weights(model.get_weights())
    for own, theirs in zip(copy._flatten_layers(), model._flatten_layers(), strict=True):
        own.trainable = theirs.trainable
    settings = model._compile_config.config
    copy.compile(
        DPOptimizer("sgd", clip_norm=1.0),
        loss=settings["loss"],
        loss_weights=settings["loss_weights"],
    )
    copy._symbolic_build(data_batch=rows)
    return copy
