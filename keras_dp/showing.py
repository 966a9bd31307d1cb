"""Which metrics a private model shows: exact ones, or noised ones in training."""

from typing import TYPE_CHECKING, Any

import keras

from keras_dp.private_metrics import PrivateMetrics, Shown

# A mixin: at run time the Keras class comes after it in the order of bases.
if TYPE_CHECKING:
    from keras import Model as KerasModel
else:
    KerasModel = object


class MetricsShowing(KerasModel):
    """Mixin for `keras.Model` classes: the metrics of training, with noise if so compiled."""

    _shown: Shown | None = None
    _evaluating: bool = False

    @property
    def private_metrics(self) -> PrivateMetrics | None:
        """What the training logs show with noise, or `None` when they are exact."""
        return None if self._shown is None else self._shown.settings

    @property
    def noised_means(self) -> Any:
        """The private metrics of the present epoch, a `keras.metrics.Metric`."""
        return None if self._shown is None else self._shown.means

    def show(self, private_metrics: PrivateMetrics | None) -> None:
        """Show these metrics in training from now on, or exact ones for `None`."""
        if not isinstance(private_metrics, PrivateMetrics | None):
            raise ValueError(
                "`private_metrics` must be a `keras_dp.PrivateMetrics(...)` or None. "
                f"Received: {private_metrics!r}."
            )
        self._shown = None if private_metrics is None else Shown(private_metrics)

    def needs_predictions(self) -> bool:
        """Whether anything looks at the outputs of training examples besides the loss."""
        if self.private_metrics is not None:
            return bool(self.private_metrics.metrics)
        custom = type(self).compute_metrics is not keras.Model.compute_metrics
        return custom or self._compile_metrics is not None

    @property
    def metrics(self) -> list[Any]:
        """Keras' list of metrics, and in training the private ones."""
        found = list(super().metrics)
        return found if self._shown is None or self._evaluating else [*found, self._shown.means]

    def get_metrics_result(self) -> dict[str, Any]:
        """Return what is shown: in training nothing but the private metrics, if there are any."""
        if self._shown is None or self._evaluating:
            return dict(super().get_metrics_result())
        return self._shown.means.result()

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate as Keras does: exact metrics of the data that are passed.

        Args:
            *args: As in Keras.
            **kwargs: As in Keras.
        """
        self._evaluating = True
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self._evaluating = False
