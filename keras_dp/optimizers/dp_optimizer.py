"""`DPOptimizer`: any Keras optimizer, fed with privatized gradients only."""

from collections.abc import Mapping
from typing import Any

import keras

from keras_dp import backend, validation
from keras_dp.clip_rules import AdaptiveQuantile, resolve
from keras_dp.errors import NotPrivateError
from keras_dp.optimizers import moving_average
from keras_dp.plan import NOISES
from keras_dp.types import NoisyGradient

_REFUSAL = (
    "A DP optimizer takes privatized gradients only. Train with `keras_dp.DPModel`, "
    "`keras_dp.DPSequential` or `keras_dp.make_private(model)`; a plain `keras.Model` or a custom "
    "`train_step` would train without privacy. "
)


@keras.saving.register_keras_serializable(package="keras_dp")
class DPOptimizer(keras.optimizers.Optimizer):
    """Wraps a Keras optimizer for differentially private training.

    It carries the settings of the Gaussian mechanism, which `DPModel` applies once for every
    update: each example's gradient is scaled to at most `clip_norm`, noise is added to the sum,
    and the inner optimizer sees only `(sum + noise) / batch_size`. Schedules, weight decay,
    moving averages and all else are the inner optimizer's, and are free of privacy cost.

    Args:
        optimizer: A `keras.optimizers.Optimizer`, or the name of one.
        clip_norm: Float above 0, default 1.0: the largest L2 norm that one example's gradient
            adds to the sum.
        noise_multiplier: Float of at least 0: standard deviation of the noise on the sum, in units
            of `clip_norm`. `None` (default): calibrated from the model's budget at the first
            `fit`.
        clipping: The clip rule: `"flat"` (default), `"unit_norm"`, `"automatic"`, `"per_layer"`,
            `"adaptive"`, or a rule object such as `clipping.AdaptiveQuantile(quantile=0.6)`.
        noise: `"gaussian"` (default), drawn and added in float32; or `"discrete_gaussian"`, on a
            lattice, safe from attacks on floating-point noise. See docs/noise.md.
        seed: `None` (default) draws noise and batches from the operating system's entropy. An
            integer makes them repeatable, for tests and experiments.
        ema_warmup: Whether the moving average of an inner optimizer with `use_ema=True` warms up:
            in the update with number t, from 0 on, the average is kept to the part
            `min(ema_momentum, (1 + t) / (10 + t))`; it begins at the weights before the first.
            Default false: it begins at the weights after the first update, and is kept to the
            part `ema_momentum` from then on, as in Keras.
        name: Name of the optimizer.

    Raises:
        ValueError: for a value out of range, an unknown name, or an inner optimizer that scales
            the loss or accumulates gradients by itself.
        NotPrivateError: when it is handed gradients that are not privatized, as a plain
            `keras.Model` does, at the first step.

    Privacy:
        The optimizer's state is a function of privatized gradients, hence as private as the
        weights. The seed is no part of the configuration and is never saved: whoever knows it can
        take the noise away.

    Example:
        >>> inner = keras.optimizers.Lion(learning_rate=1e-4)
        >>> keras_dp.optimizers.DPOptimizer(inner, clip_norm=0.5, noise_multiplier=1.1).clip_norm
        0.5

    References:
        Abadi et al. 2016, Deep Learning with Differential Privacy.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer | str,
        *,
        clip_norm: float = 1.0,
        noise_multiplier: float | None = None,
        clipping: Any = "flat",
        noise: str = "gaussian",
        seed: int | None = None,
        ema_warmup: bool = False,
        name: str | None = None,
    ) -> None:
        inner = keras.optimizers.get(optimizer)
        _check_inner(inner)
        moving_average.check(inner, ema_warmup)
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner
        self.clip_norm = validation.positive_float("clip_norm", clip_norm)
        self.noise_multiplier = (
            None
            if noise_multiplier is None
            else validation.non_negative_float("noise_multiplier", noise_multiplier)
        )
        self.clip_rule = resolve(clipping)
        self.clip_rule.check(self.clip_norm)
        self.noise = validation.one_of("noise", noise, NOISES)
        self._adaptive_clip_norm: Any = None
        self.seed = None if seed is None else _check_seed(seed)
        self.ema_warmup = ema_warmup
        self._serves_private_model = False

    def serve_private_model(self) -> None:
        """Allow `build`; called by a private model's `compile`."""
        self._serves_private_model = True

    def build(self, variables: list[Any]) -> None:
        """Create the state for these trainable variables, for a private model only.

        Raises:
            NotPrivateError: when a plain `keras.Model` builds it, before its first step. Keras
                would lose the model's weights if the refusal came in the step.
        """
        if not self._serves_private_model:
            raise NotPrivateError(_REFUSAL + "Received a model that is not private.")
        self.inner_optimizer.build(variables)
        super().build(variables)
        if isinstance(self.clip_rule, AdaptiveQuantile) and self._adaptive_clip_norm is None:
            self._adaptive_clip_norm = self.add_variable(
                shape=(),
                initializer=keras.initializers.Constant(self.clip_norm),
                dtype="float32",
                name="clip_norm",
            )

    def present_clip_norm(self, optimizer_variables: list[Any], fixed: Any) -> Any:
        """Return the clip norm of the next update.

        Args:
            optimizer_variables: Values of `variables`.
            fixed: The clip norm of rules that do not adapt it.
        """
        if self._adaptive_clip_norm is None:
            return fixed
        return optimizer_variables[self._clip_norm_position()]

    def with_clip_norm(self, optimizer_variables: list[Any], clip_norm: Any) -> list[Any]:
        """Return values of `variables` with another adaptive clip norm."""
        changed = list(optimizer_variables)
        changed[self._clip_norm_position()] = clip_norm
        return changed

    def _clip_norm_position(self) -> int:
        found = (i for i, v in enumerate(self.variables) if v is self._adaptive_clip_norm)
        return next(found)

    @property
    def updates(self) -> Any:
        """Variable that counts the updates this optimizer has made."""
        return self._iterations

    @property
    def iterations(self) -> Any:
        """The inner optimizer's step counter, which drives its schedule."""
        return self.inner_optimizer.iterations

    @property
    def variables(self) -> list[Any]:
        """Own and inner state, in a fixed order."""
        return [*self._variables, *self.inner_optimizer.variables]

    @property
    def learning_rate(self) -> Any:
        """The inner optimizer's learning rate."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Apply a `NoisyGradient`; anything else raises `NotPrivateError`."""
        _privatized(grads)
        self.serve_private_model()
        if not self.built:
            self.build(trainable_variables)
        if trainable_variables is None:
            trainable_variables = self.inner_optimizer._trainable_variables
        held = [*trainable_variables, *self.variables]
        own, weights = [v.value for v in self.variables], [v.value for v in trainable_variables]
        weights, own = self.stateless_apply(own, grads, weights)
        for variable, value in zip(held, [*weights, *own], strict=True):
            variable.assign(value)

    def stateless_apply(
        self, optimizer_variables: list[Any], grads: Any, trainable_variables: list[Any]
    ) -> tuple[list[Any], list[Any]]:
        """Apply a `NoisyGradient` to given state and return the new weights and state."""
        values = _privatized(grads)
        own = len(self._variables)
        before = self.informed(optimizer_variables[own:], grads)
        trainable, inner = backend.apply_gradients(
            self.inner_optimizer, before, values, trainable_variables
        )
        if self.ema_warmup:
            weights = trainable_variables, trainable
            inner = moving_average.warmed_up(self.inner_optimizer, before, inner, weights)
        mapping = list(zip(self._variables, optimizer_variables[:own], strict=True))
        with keras.StatelessScope(state_mapping=mapping) as scope:
            self._iterations.assign_add(1)
        return trainable, [scope.get_current_value(v) for v in self._variables] + inner

    def informed(self, inner_variables: list[Any], grads: NoisyGradient) -> list[Any]:
        """Return the inner optimizer's state, told what it needs to know about the gradient."""
        del grads
        return inner_variables

    def finalize_variable_values(self, var_list: list[Any]) -> None:
        """Let the inner optimizer write its moving average at the end of `fit`.

        Not before the first update: Keras' average is 0 then, and would erase the weights.
        """
        if (
            not self.inner_optimizer.use_ema
            or int(keras.ops.convert_to_numpy(self.iterations)) == 0
        ):
            return
        self.inner_optimizer.finalize_variable_values(var_list)
        for variable in var_list:  # else it shared the average's memory, which the next fit donates
            variable.assign(keras.ops.copy(variable.value))

    def save_own_variables(self, store: Any) -> None:
        """Save the count of updates and an adaptive clip norm; the inner optimizer saves itself."""
        store["updates"] = self._iterations.numpy()
        if self._adaptive_clip_norm is not None:
            store["clip_norm"] = self._adaptive_clip_norm.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Restore the count of updates; a file of another optimizer has none and is passed over."""
        if "updates" in store.keys():  # noqa: SIM118 - an h5 store is no dict
            self._iterations.assign(store["updates"])
        if self._adaptive_clip_norm is not None and "clip_norm" in store.keys():  # noqa: SIM118
            self._adaptive_clip_norm.assign(store["clip_norm"])

    def privacy_config(self) -> dict[str, Any]:
        """Return the settings of the mechanism; never the seed."""
        return {
            "clip_norm": self.clip_norm,
            "noise_multiplier": self.noise_multiplier,
            "clipping": self.clip_rule.get_config(),
            "noise": self.noise,
            **({"ema_warmup": True} if self.ema_warmup else {}),
        }

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, without the seed."""
        inner = keras.saving.serialize_keras_object(self.inner_optimizer)
        return {"optimizer": inner, "name": self.name, **self.privacy_config()}

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> "DPOptimizer":
        """Rebuild the optimizer from `get_config`'s dictionary."""
        inner = keras.saving.deserialize_keras_object(
            config["optimizer"], custom_objects=custom_objects
        )
        return cls(**{**config, "optimizer": inner})


def _privatized(grads: Any) -> list[Any]:
    """Return the arrays of a `NoisyGradient`, the only gradients that may move the weights."""
    if not isinstance(grads, NoisyGradient):
        raise NotPrivateError(_REFUSAL + f"Received gradients of type {type(grads).__name__}.")
    return grads.values


def _check_inner(inner: Any) -> None:
    name = type(inner).__name__
    if isinstance(inner, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            f"`optimizer` must not scale the loss. Received: {name}, which skips updates and "
            "chooses its scale by whether any gradient overflowed: an exact value of private data. "
            "Pass its inner optimizer: with float16, private training scales every example's loss "
            "by itself and skips no update."
        )
    if isinstance(inner, DPOptimizer):
        raise ValueError(
            f"`optimizer` must be an ordinary Keras optimizer. Received: {name}, which wraps one "
            "itself; pass its inner optimizer."
        )
    if inner.loss_scale_factor is not None:
        raise ValueError(
            "`optimizer` must not scale the loss, or the clip would see scaled gradients. "
            f"Received {name} with loss_scale_factor={inner.loss_scale_factor}; leave it out. "
            "With float16, private training scales every example's loss by itself."
        )
    if inner.gradient_accumulation_steps is not None:
        raise ValueError(
            "`optimizer` must not accumulate gradients: every update is noised. Received "
            f"{name} with gradient_accumulation_steps={inner.gradient_accumulation_steps}; "
            "set a larger `batch_size` in `fit`, which is cut into microbatches."
        )


def _check_seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"`seed` must be an integer or None. Received: {seed!r}.")
    return seed
