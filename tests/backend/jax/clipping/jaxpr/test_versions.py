"""What happens on a JAX that the engine was not tested on."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from keras_dp import clipping
from keras_dp.backend.jax.clipping.jaxpr import assemble, compat
from tests import forked


@pytest.fixture
def newer_jax(monkeypatch):
    monkeypatch.setattr(compat.jax, "__version_info__", (99, 0, 0))
    monkeypatch.setattr(compat.jax, "__version__", "99.0.0")
    compat.is_tested.cache_clear()
    yield
    compat.is_tested.cache_clear()


def test_a_newer_jax_takes_the_slow_sure_way_and_says_so_once(newer_jax, monkeypatch):
    monkeypatch.setattr(assemble, "clipped_sum", None)  # must not be called
    clip = clipping.clipped_sum(lambda p, x: p * x, clip_norm=1.0)
    with pytest.warns(UserWarning, match=r"JAX 99\.0\.0 is newer.*slow sure method"):
        result = clip(jnp.float32(1.0), jnp.array([0.5, 3.0]))
    np.testing.assert_allclose(result.grads, 1.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip(jnp.float32(1.0), jnp.array([0.5, 3.0]))


def test_this_jax_is_tested():
    assert compat.is_tested(), "raise NEWEST_TESTED after `make test-newest` has passed"


def test_no_shim_outlives_the_oldest_jax_that_is_supported():
    """`scan_arity` has a branch for JAX before 0.11; it goes when the minimum is 0.11."""
    import tomllib
    from pathlib import Path

    text = (Path(__file__).parents[5] / "pyproject.toml").read_text(encoding="utf-8")
    (minimum,) = tomllib.loads(text)["project"]["optional-dependencies"]["jax"]
    assert tuple(map(int, minimum[5:].split(".")[:2])) < (0, 11)


def test_tracing_raises_no_deprecation_warning():
    code = """
import warnings
warnings.simplefilter("error")
import jax, jax.numpy as jnp
warnings.filterwarnings("default", module="keras")
from keras_dp import clipping
def loss(p, x):
    h = jax.checkpoint(lambda a: jax.nn.relu(a @ p["w"]))(x)
    return jax.lax.scan(lambda c, a: (c * p["s"] + a, c), 0.0, h)[0]
p = {"w": jnp.ones((3, 2)), "s": jnp.float32(0.5)}
print(clipping.clipped_sum(loss, clip_norm=1.0)(p, jnp.ones((4, 3))).norms.shape)
"""
    done = forked.run_code(code)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "(4,)"
    assert jax.__version_info__[:2] <= compat.NEWEST_TESTED
