"""Which weights a value comes from, and by which equations."""

from collections.abc import Iterable, Sequence

from keras_dp.backend.jax.clipping.jaxpr.program import Equation, Value
from keras_dp.backend.jax.clipping.jaxpr.sites import Analysis


class Origins:
    """The way from weights to the values that sites read.

    Args:
        analysis: The program.
    """

    def __init__(self, analysis: Analysis) -> None:
        self._equations = analysis.from_weights
        self._weights: dict[Value, frozenset[int]] = {
            weight: frozenset([position]) for position, weight in enumerate(analysis.weights)
        }
        for equation in self._equations:
            found: frozenset[int] = frozenset()
            for value in equation.reads:
                found |= self._weights.get(value, frozenset())
            self._weights.update(dict.fromkeys(equation.outputs, found))

    def chain(self, values: Iterable[Value]) -> tuple[Equation, ...]:
        """Return the equations that compute the values from weights, in order."""
        wanted, needed = set(values), []
        for equation in reversed(self._equations):
            if any(output in wanted for output in equation.outputs):
                needed.append(equation)
                wanted.update(equation.reads)
        return tuple(reversed(needed))

    def groups(self, values: Sequence[Value]) -> list[tuple[tuple[int, ...], set[Value]]]:
        """Group values that come from common weights; return each group's weights and values."""
        groups: list[tuple[set[int], set[Value]]] = []
        for value in dict.fromkeys(values):
            weights, members = set(self._weights[value]), {value}
            apart = []
            for group in groups:
                if group[0] & weights:
                    weights |= group[0]
                    members |= group[1]
                else:
                    apart.append(group)
            groups = [*apart, (weights, members)]
        return [(tuple(sorted(weights)), members) for weights, members in groups]
