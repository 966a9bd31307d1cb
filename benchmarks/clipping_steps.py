"""The steps that the clipping benchmark compares, compiled and ready to run.

A step takes parameters, frozen values and a batch, and gives the mean loss and a gradient: of the
mean loss (ordinary training), or the sum of clipped gradients (all private methods).
"""

import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from keras_dp import clipping

METHODS = ("ordinary", "engine", "vmap", "jax_privacy")
ENGINE_METHODS = {"engine": "auto", "vmap": "vmap"}
CLIP_NORM = 1.0
MEMORY_LIMIT = 6e9  # bytes of temporary memory that a step may use
MICROBATCHES = (32, 8, 1)  # sizes tried for jax_privacy after the whole batch
ENOUGH = 5.0  # none is tried if the whole batch takes less than this times ordinary training
WORSE = 1.2  # no smaller size is tried once a size is slower than the best by this factor


@dataclass(frozen=True)
class Compiled:
    """A compiled step and what making it took."""

    run: Any
    trace_seconds: float
    compile_seconds: float
    temp_bytes: int
    microbatch: int | None = None

    @property
    def fits(self):
        """Whether the step stays within the memory limit."""
        return self.temp_bytes <= MEMORY_LIMIT

    def facts(self):
        """What the report shows of it."""
        names = ("trace_seconds", "compile_seconds", "temp_bytes", "microbatch")
        status = "ok" if self.fits else "out of memory"
        return {"status": status, **{name: getattr(self, name) for name in names}}


def compile_method(case, method, arguments, microbatch=None):
    """Compile a method; jax_privacy's with the given microbatch size or its fastest."""
    if method == "jax_privacy" and microbatch is None:
        enough = ENOUGH * _seconds(jax.jit(_make_step(case, "ordinary", None)), arguments)
        return _fastest_microbatch(case, arguments, enough)
    return _compile(_make_step(case, method, microbatch), arguments, microbatch)


def _make_step(case, method, microbatch):
    if method == "ordinary":
        return jax.value_and_grad(case.mean_loss)
    if method == "jax_privacy":
        return _jax_privacy_step(case, microbatch)
    return _engine_step(case, ENGINE_METHODS[method])


def _engine_step(case, method):
    """The clipped sum by keras_dp."""

    def step(params, frozen, batch):
        def loss_fn(values, example):
            return case.example_loss(values, frozen, example)

        clipped = clipping.clipped_sum(loss_fn, clip_norm=CLIP_NORM, method=method)
        result = clipped(params, batch)
        return jnp.mean(result.losses), result.grads

    return step


def _jax_privacy_step(case, microbatch):
    """The clipped sum by jax_privacy, which hands over batches of one by itself."""
    import jax_privacy

    clipped = jax_privacy.clipped_grad(
        case.mean_loss,
        l2_clip_norm=CLIP_NORM,
        batch_argnums=2,
        return_values=True,
        microbatch_size=microbatch,
    )

    def step(params, frozen, batch):
        grads, aux = clipped(params, frozen, batch)
        return jnp.mean(aux.values), grads

    return step


def _compile(step, arguments, microbatch):
    """Trace and compile from cold caches, so that no method profits from another's."""
    jax.clear_caches()
    start = time.perf_counter()
    lowered = jax.jit(step).lower(*arguments)
    traced = time.perf_counter()
    run = lowered.compile()
    done = time.perf_counter()
    memory = run.memory_analysis().temp_size_in_bytes
    return Compiled(run, traced - start, done - traced, memory, microbatch)


def _seconds(run, arguments):
    """Time the second of two calls."""
    for _ in range(2):
        start = time.perf_counter()
        jax.block_until_ready(run(*arguments))
    return time.perf_counter() - start


def _fastest_microbatch(case, arguments, enough):
    """The best of a few microbatch sizes, which change the time of jax_privacy up to 50-fold.

    Memory is checked before a step runs. Sizes shrink until one is slower than the best, or fast
    `enough` in seconds: inside XLA's loops convolutions are so slow that trying costs minutes.
    """
    best, least = None, float("inf")
    for size in (None, *(size for size in MICROBATCHES if size < case.size)):
        compiled = _compile(_jax_privacy_step(case, size), arguments, size)
        if not compiled.fits:
            best = best or compiled
            continue
        start = time.perf_counter()
        jax.block_until_ready(compiled.run(*arguments))
        spent = time.perf_counter() - start
        if spent < least:
            best, least = compiled, spent
        if least < enough or spent > WORSE * least:
            break
    return best
