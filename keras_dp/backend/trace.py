"""What is known of a model before any update: its state, and what clipping costs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from keras_dp.backend.report import Report


@dataclass(frozen=True)
class ExampleTrace:
    """What the trace of one example's loss tells about a model.

    Attributes:
        data_dependent: Positions of the non-trainable variables that would take up private data.
        advance: `advance(params, non_trainable)` gives the new values of all variables; it is
            right for those that take up no data, such as the seeds of dropout layers.
        make_report: Makes `report`.
    """

    data_dependent: tuple[int, ...]
    advance: Callable[[list[Any], list[Any]], list[Any]]
    make_report: Callable[[], Report]

    @cached_property
    def report(self) -> Report:
        """Where weights meet data, and what clipping costs there; found when first asked for."""
        return self.make_report()
