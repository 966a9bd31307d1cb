"""The audits of one module compile the same programs again and again: once is enough."""

import jax
import pytest

SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


@pytest.fixture(scope="package", autouse=True)
def programs_are_kept(tmp_path_factory):
    """Keep compiled programs while the tests of this folder run."""
    from jax.experimental.compilation_cache import compilation_cache

    changed = {"jax_compilation_cache_dir": str(tmp_path_factory.mktemp("jax")), **SETTINGS}
    before = {name: getattr(jax.config, name) for name in changed}
    for name, value in changed.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
