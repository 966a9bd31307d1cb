"""`keras-dp audit` reads a model and data from files and prints what it found."""

import json

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp.cli import main
from keras_dp.optimizers import DPSGD
from tests.kinds import L, tiny, tiny_data


@pytest.fixture
def files(tmp_path):
    model = tiny(units=10, budget=keras_dp.Budget(epsilon=50.0, delta=1e-4))
    model.save(tmp_path / "model.keras")
    x, y = tiny_data(60, 10)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    return tmp_path


def line(files, *options):
    settings = ["--canaries", "40", "--batch-size", "50", "--epochs", "2", "--seed", "0"]
    return ["audit", str(files / "model.keras"), str(files / "data.npz"), *settings, *options]


def test_people_read_the_verdict_and_see_a_picture(files, capsys):
    picture = files / "audit.png"
    assert main(line(files, "--delta", "1e-5", "--plot", str(picture))) == 0
    shown = capsys.readouterr().out
    for part in ("The claim stands", "lower bound on epsilon", "claimed epsilon", "40 (gradient)"):
        assert part in shown
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_machines_read_json_and_delta_defaults_to_the_budgets(files, capsys):
    assert main(line(files, "--json", "--kind", "input", "--confidence", "0.9")) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["delta"] == 1e-4
    assert values["confidence"] == 0.9
    assert values["kind"] == "input"
    assert values["epsilon"] <= values["claimed_epsilon"]


def test_a_refuted_claim_is_the_exit_code(files, monkeypatch, capsys):
    from keras_dp import noise

    add = noise.add_noise
    monkeypatch.setattr(
        noise, "add_noise", lambda s, k, d, *_: add(s, k, [0.01 * one for one in d])
    )
    assert main(line(files, "--canaries", "250")) == 1
    assert "The claim is refuted" in capsys.readouterr().out


def spoil(files, what):
    model, data = files / "model.keras", files / "data.npz"
    x, y = tiny_data(60, 10)
    match what:
        case "no model":
            model.unlink()
        case "no data":
            data.unlink()
        case "plain model":
            plain = keras.Sequential([keras.Input((4,)), L.Dense(10)])
            plain.save(model)
        case "no x":
            np.savez(data, inputs=x, y=y)
        case "no archive":
            data.write_text("1, 2, 3", encoding="utf-8")
        case "pickles":
            np.savez(data, x=np.array([{}, {}], dtype=object))
        case "one array":
            np.save(data.with_suffix(".npy"), x)
            data.with_suffix(".npy").rename(data)
        case "no noise":
            tiny(units=10, optimizer=DPSGD(0.1)).save(model)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no model", "model.keras"),
        ("no data", "data.npz"),
        ("plain model", "must be a `keras_dp.DPModel`"),
        ("no x", "must hold an array `x`"),
        ("no archive", "no .npz file of plain arrays"),
        ("pickles", "no .npz file of plain arrays"),
        ("one array", "no .npz file of plain arrays"),
        ("no noise", "`noise_multiplier` must be settled"),
    ],
)
def test_what_cannot_be_audited_is_named_without_a_traceback(what, message, files, capsys):
    spoil(files, what)
    assert main(line(files, "--delta", "1e-5")) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_a_model_whose_class_is_not_known_is_named(files, capsys):
    class Unknown(keras_dp.DPModel):
        def call(self, inputs):
            return inputs

        def get_config(self):
            return {"name": self.name}

    model = Unknown()
    model.compile(DPSGD(0.1, noise_multiplier=1.0), loss="mse")
    model(np.ones((2, 4), "float32"))
    model.save(files / "model.keras")
    assert main(line(files, "--delta", "1e-5")) == 2
    assert "cannot be loaded by itself" in capsys.readouterr().err
