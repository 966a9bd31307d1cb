"""The example trains by every method within its budgets, and leaves a table and a picture."""

import keras
import numpy as np
import pytest

import data
import keras_dp
import transfer


@pytest.fixture
def little(monkeypatch):
    """Give it few images, and a small backbone in the place of the real one."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 350).astype("int32")
    images = rng.uniform(0, 0.2, (350, 28, 28, 1)).astype("float32")
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 3] += 0.8  # a bar, the lower the higher the label
    split = [(part[:300], part[300:]) for part in (images, labels)]
    (x, x_test), (y, y_test) = split
    given = data.ImageData("Bars", x, y, x_test, y_test, "a random generator")
    monkeypatch.setattr(transfer, "load_images", lambda limit: given)

    def backbone(weights, input_shape):
        assert weights == "imagenet"
        inputs = keras.Input(input_shape)
        x = keras.layers.Rescaling(1 / 255)(inputs)
        x = keras.layers.Conv2D(4, 3, 2, activation="relu")(x)
        return keras.Model(inputs, keras.layers.BatchNormalization()(x))

    monkeypatch.setattr(keras_dp.applications, "EfficientNetLite", backbone)


def test_the_example_compares_methods_within_a_budget_and_runs_none_again(little, tmp_path, capsys):
    picture, cache = tmp_path / "out" / "picture.png", tmp_path / "features"
    sizes = ["--resolution", "16", "--updates", "2", "--head-updates", "3", "--scratch-epochs", "1"]
    files = ["--picture", str(picture), "--cache", str(cache)]
    options = [*sizes, *files, "--results", str(tmp_path / "rows.json"), "--delta", "1e-4"]
    methods = ["head", "bias", "scratch"]
    options += ["--methods", *methods]
    rows = transfer.main([*options, "--epsilon", "2"])
    assert [row["method"] for row in rows] == methods
    assert [row["updates"] for row in rows] == [3, 3 + 2, 10]  # a tuned model counts its head's
    lines = [line for line in capsys.readouterr().out.splitlines() if "accuracy" in line]
    spent = [float(line.split("epsilon")[1].split()[0]) for line in lines]
    assert spent == pytest.approx([2.0] * len(methods), rel=0.05)
    assert max(spent) <= 2.0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert {"test-16", "train-16"} <= {path.name for path in cache.iterdir()}
    assert transfer.main([*options, "--epsilon", "2"]) == rows
    assert "accuracy" not in capsys.readouterr().out


def test_images_come_to_the_backbone_enlarged_in_three_channels_from_0_to_255():
    image = np.zeros((1, 28, 28, 1), "float32")
    image[:, :14] = 1
    prepared = np.asarray(transfer.enlarging((28, 28, 1), 56)(image))
    assert prepared.shape == (1, 56, 56, 3)
    np.testing.assert_array_equal(prepared[0, :, 0, 0][[0, 26, 29, 55]], [255, 255, 0, 0])
    assert (prepared == prepared[..., :1]).all()
