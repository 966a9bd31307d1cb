"""Kernels that are used as `a * kernel + b`, with one `a` and `b` for each output channel.

Weight standardisation, with or without a gain, is of this form. What `a` and `b` are made of is
followed through the equations: sums of the kernel's entries and of their squares over a channel,
other weights with one number a channel, and any function of these.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax

from keras_dp.backend.jax.clipping.jaxpr.compat import primitives
from keras_dp.backend.jax.clipping.jaxpr.program import Atom, Env, Equation, Literal, Value, read


@dataclass(frozen=True)
class Affine:
    """A value `a * kernel + b`, entry by entry, `a` and `b` constant within a channel."""

    a: Any
    b: Any


@dataclass(frozen=True)
class Quadratic:
    """A polynomial of second degree in the kernel, which only a sum may read."""


@dataclass(frozen=True)
class Channel:
    """A value that is constant within a channel.

    Attributes:
        axis: Its axis that runs along the channels; `None` if it is one number.
    """

    axis: int | None


Form = Affine | Quadratic | Channel


def affine_form(
    chain: Iterable[Equation], env: Env, kernel: Value, target: Value, axis: int
) -> Affine | None:
    """Return `a` and `b` if `target` is `a * kernel + b`.

    Args:
        chain: The equations between them.
        env: Values of all that they read and compute.
        kernel: The weight.
        target: The value in use, of the same shape.
        axis: Axis of both along which the output channels run.
    """
    reader = _Reader(env, kernel.shape, axis)
    reader.forms[kernel] = Affine(jnp.float32(1.0), jnp.float32(0.0))
    for equation in chain:
        form = reader.form_of(equation)
        if form is None or len(equation.outputs) != 1:
            return None
        reader.forms[equation.outputs[0]] = form
    found = reader.forms.get(target)
    return found if isinstance(found, Affine) else None


@dataclass
class _Reader:
    env: Env
    shape: tuple[int, ...]
    axis: int

    def __post_init__(self) -> None:
        self.forms: dict[Value, Form] = {}

    def form_of(self, equation: Equation) -> Form | None:
        """Return the form of what an equation computes, or `None` if it is none of the three."""
        forms = [self._form(atom) for atom in equation.inputs]
        if not forms or any(form is None for form in forms) or not equation.outputs:
            return None
        if equation.primitive is primitives.reduce_sum_p:
            return self._sum(equation, forms[0])
        if equation.primitive in _LAYOUT:
            return self._moved(equation, forms[0])
        if all(isinstance(form, Channel) for form in forms):
            return self._of_channels(equation, forms) if equation.primitive in _ENTRYWISE else None
        if not self._aligned(equation, forms):
            return None
        rule = _RULES.get(equation.primitive)
        values = [read(self.env, atom) for atom in equation.inputs]
        return None if rule is None else rule(equation, *forms, *values)

    def _form(self, atom: Atom) -> Form | None:
        if isinstance(atom, Value) and atom in self.forms:
            return self.forms[atom]
        shape = _shape(atom)
        long = [i for i, n in enumerate(shape) if n != 1]
        if not long:
            return Channel(None)
        one_a_channel = len(long) == 1 and shape[long[0]] == self.shape[self.axis]
        return Channel(long[0]) if one_a_channel else None

    def _sum(self, equation: Equation, form: Form | None) -> Form | None:
        axes = tuple(equation.params["axes"])
        if isinstance(form, Channel):
            if form.axis in axes:
                return None
            before = sum(1 for removed in axes if form.axis is not None and removed < form.axis)
            return Channel(None if form.axis is None else form.axis - before)
        others = [i for i in range(len(self.shape)) if i != self.axis]
        return Channel(0) if sorted(axes) == others else None

    def _moved(self, equation: Equation, form: Form | None) -> Form | None:
        shape = equation.outputs[0].shape
        source = equation.inputs[0]
        if not isinstance(form, Channel) or form.axis is None:
            same = isinstance(source, Value) and source.shape == shape
            return form if same or form == Channel(None) else None
        if equation.primitive is primitives.broadcast_in_dim_p:
            return Channel(equation.params["broadcast_dimensions"][form.axis])
        long = [i for i, n in enumerate(shape) if n != 1]
        return Channel(long[0]) if len(long) == 1 else None

    def _of_channels(self, equation: Equation, forms: list[Form | None]) -> Form | None:
        rank = len(equation.outputs[0].shape)
        axes = set()
        for atom, form in zip(equation.inputs, forms, strict=True):
            shape = _shape(atom)
            if isinstance(form, Channel) and form.axis is not None:
                axes.add(form.axis if len(shape) == rank else -1)
        return Channel(next(iter(axes), None)) if len(axes) < 2 and -1 not in axes else None

    def _aligned(self, equation: Equation, forms: list[Form | None]) -> bool:
        """Whether what is constant within a channel runs along the kernel's own channels."""
        for atom, form in zip(equation.inputs, forms, strict=True):
            shape = _shape(atom)
            if isinstance(form, Channel):
                full_rank = len(shape) == len(self.shape)
                if form.axis is None and (full_rank or not math.prod(shape) > 1):
                    continue
                if not (full_rank and form.axis == self.axis):
                    return False
        return True


def _shape(atom: Atom) -> tuple[int, ...]:
    shape: tuple[int, ...] = atom.value.shape if isinstance(atom, Literal) else atom.shape
    return shape


def _add(equation: Equation, p: Form, q: Form, x: Any, y: Any) -> Form | None:
    sign = -1.0 if equation.primitive is primitives.sub_p else 1.0
    if isinstance(p, Quadratic) or isinstance(q, Quadratic):
        return Quadratic()
    first = p if isinstance(p, Affine) else Affine(jnp.float32(0.0), x)
    second = q if isinstance(q, Affine) else Affine(jnp.float32(0.0), y)
    return Affine(first.a + sign * second.a, first.b + sign * second.b)


def _multiply(equation: Equation, p: Form, q: Form, x: Any, y: Any) -> Form | None:
    if isinstance(p, Affine) and isinstance(q, Affine):
        return Quadratic()
    if isinstance(p, Channel):
        p, q, x, y = q, p, y, x
    if not isinstance(q, Channel):
        return None
    return Affine(p.a * y, p.b * y) if isinstance(p, Affine) else Quadratic()


def _divide(equation: Equation, p: Form, q: Form, x: Any, y: Any) -> Form | None:
    if not isinstance(q, Channel):
        return None
    return Affine(p.a / y, p.b / y) if isinstance(p, Affine) else Quadratic()


def _negate(equation: Equation, p: Form, x: Any) -> Form | None:
    return Affine(-p.a, -p.b) if isinstance(p, Affine) else p


def _square(equation: Equation, p: Form, x: Any) -> Form | None:
    is_square = equation.params.get("y", 2) == 2
    return Quadratic() if isinstance(p, Affine) and is_square else None


def _same(equation: Equation, p: Form, x: Any) -> Form | None:
    return p if equation.outputs[0].dtype == x.dtype else None


_LAYOUT = {primitives.broadcast_in_dim_p, primitives.reshape_p, primitives.squeeze_p}
_RULES: dict[Any, Any] = {
    primitives.add_p: _add,
    primitives.sub_p: _add,
    primitives.mul_p: _multiply,
    primitives.div_p: _divide,
    primitives.neg_p: _negate,
    primitives.square_p: _square,
    primitives.integer_pow_p: _square,
    primitives.convert_element_type_p: _same,
    primitives.copy_p: _same,
}
_ENTRYWISE = {
    *_RULES,
    *(
        getattr(lax, f"{name}_p")
        for name in [
            "abs",
            "exp",
            "exp2",
            "expm1",
            "log",
            "log1p",
            "logistic",
            "max",
            "min",
            "pow",
            "rsqrt",
            "sqrt",
            "tanh",
            "select_n",
            "gt",
            "lt",
            "ge",
            "le",
            "eq",
            "ne",
        ]
    ),
}
