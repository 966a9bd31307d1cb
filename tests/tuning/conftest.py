"""KerasTuner collects garbage twice before every build: keep what is there out of it."""

import gc

import pytest


@pytest.fixture(autouse=True)
def quick_collections():
    gc.freeze()
    yield
    gc.unfreeze()
