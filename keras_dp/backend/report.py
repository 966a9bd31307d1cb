"""What `explain` shows: which rule clips which weight, and what that costs."""

import io
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

WIDTH = 120


@dataclass(frozen=True)
class Row:
    """One place where weights meet data.

    Attributes:
        weights: Paths of the weights.
        shape: Shape of what the operation reads of them.
        operation: The operation, as the backend calls it.
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
