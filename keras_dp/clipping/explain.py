"""`explain`: which rule clips which weight, and what that costs."""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = 120


@dataclass(frozen=True)
class Row:
    """One place where weights meet data.

    Attributes:
        weights: Paths of the weights.
        shape: Shape of what the operation reads of them.
        operation: The JAX primitive.
        rule: How the norms of the gradients there are computed.
        flops: Operations that takes for one example, beyond ordinary training.
        bytes: Memory for one example that is kept until the clipped sum.
    """

    weights: tuple[str, ...]
    shape: tuple[int, ...]
    operation: str
    rule: str
    flops: int
    bytes: int


@dataclass(frozen=True)
class Report:
    """Every place where weights meet data, and what clipping costs there; prints as a table.

    Attributes:
        rows: The places, in the order of the weights' first use.
        activation_bytes: Estimated memory of one example's activations and their gradients.
        working_bytes: Memory of one example while norms are computed, at the place with the most.
    """

    rows: tuple[Row, ...]
    activation_bytes: int
    working_bytes: int

    @property
    def bytes_per_example(self) -> int:
        """Estimated memory that one more example in a microbatch takes."""
        kept = sum(row.bytes for row in self.rows)
        return self.activation_bytes + self.working_bytes + kept

    def __str__(self) -> str:
        table = Table(title="Per-example clipping, for one example")
        for heading in ("weights", "shape", "operation", "rule"):
            table.add_column(heading, overflow="fold")
        for heading in ("FLOPs", "bytes"):
            table.add_column(heading, justify="right")
        for row in self.rows:
            table.add_row(
                "\n".join(row.weights),
                "x".join(map(str, row.shape)) or "scalar",
                row.operation,
                row.rule,
                f"{row.flops:,}",
                f"{row.bytes:,}",
            )
        total = (sum(row.flops for row in self.rows), sum(row.bytes for row in self.rows))
        table.add_section()
        table.add_row("total", "", "", "", *(f"{n:,}" for n in total))
        text = io.StringIO()
        Console(file=text, width=WIDTH).print(table)
        lines = (line.rstrip() for line in text.getvalue().splitlines())
        memory = (
            f"Besides, activations and their gradients: about {self.activation_bytes:,} bytes, "
            f"and {self.working_bytes:,} while norms are computed."
        )
        return "\n".join((*lines, memory))


def explain(
    model: Any,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    print_fn: Callable[[str], Any] | None = None,
) -> Report:
    """Print where each weight meets data, the rule chosen there, its FLOPs and its bytes.

    The first thing to look at when private training is slow: a row with many FLOPs or bytes and the
    rule `generic` or `pulled back` is the place.

    Args:
        model: A `DPModel` that is compiled.
        x: Inputs, as for `fit`; of the data only shapes and types are used.
        y: Targets.
        sample_weight: Weights of the examples.
        print_fn: Takes the table, by default `sys.stdout.write` with a line break.

    Returns:
        A `Report`, whose `rows` are the table's.

    Raises:
        NotPrivateError: for a model that cannot be trained privately.
        ValueError: when the model is not compiled.

    Privacy:
        Nothing is computed from the data, and nothing is charged to the ledger.

    Example:
        >>> import keras, keras_dp
        >>> model = keras_dp.DPSequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model.compile(keras_dp.optimizers.DPSGD(0.1, noise_multiplier=1.0), "mse")
        >>> import numpy as np
        >>> report = keras_dp.clipping.explain(
        ...     model, np.zeros((8, 4)), np.zeros((8, 2)), print_fn=lambda table: None)
        >>> [row.rule for row in report.rows]
        ['outer, product', 'written out']
    """
    if not hasattr(model, "clipping_report"):
        raise ValueError(
            "`model` must be a `keras_dp.DPModel`; `keras_dp.make_private(model)` makes one. "
            f"Received: {type(model).__name__}."
        )
    report: Report = model.clipping_report(x, y, sample_weight)
    (print_fn or (lambda text: sys.stdout.write(f"{text}\n")))(str(report))
    return report
