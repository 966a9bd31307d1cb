"""The example runs, keeps its budget, and leaves a picture and a model."""

import keras
import numpy as np
import pytest

import data
import fashion_mnist
from keras_dp import DPModel


@pytest.fixture
def few_images(monkeypatch):
    rng = np.random.default_rng(0)
    images = data.ImageData(
        name="Noise",
        x_train=rng.uniform(size=(300, 28, 28, 1)).astype("float32"),
        y_train=rng.integers(0, 10, 300).astype("int32"),
        x_test=rng.uniform(size=(50, 28, 28, 1)).astype("float32"),
        y_test=rng.integers(0, 10, 50).astype("int32"),
        source="a random generator",
    )
    monkeypatch.setattr(fashion_mnist, "load_images", lambda limit: images)


def test_the_example_trains_to_its_budget_and_reports(few_images, tmp_path, capsys):
    picture, saved = tmp_path / "out" / "picture.png", tmp_path / "model.keras"
    settings = ["--epochs", "2", "--epsilon", "2", "--delta", "1e-4"]
    files = ["--picture", str(picture), "--model", str(saved)]
    history = fashion_mnist.main([*settings, *files])
    assert len(history["epsilon"]) == 2
    assert 1.9 < history["epsilon"][-1] <= 2.0
    shown = capsys.readouterr().out
    assert "PRIVACY STATEMENT" in shown
    assert "epsilon = 2.00" in " ".join(shown.split())
    assert "epsilon: " in shown
    assert picture.read_bytes().startswith(b"\x89PNG")
    loaded = keras.saving.load_model(saved)
    assert isinstance(loaded, DPModel)
    assert loaded.ledger.updates == 20
