"""Two processes with four devices each train as one process with eight."""

import json
import shutil
import socket

import keras
import numpy as np
import pytest

from keras_dp import accounting
from keras_dp.accounting import LedgerFile, Release
from tests import forked
from tests.mesh import worker
from tests.mesh.placements import model, trained

TIME = 300


def begin(folder, what, processes=2, devices=8, settings=({}, {})):
    """Start processes for some work of tests/mesh/worker.py."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for number in range(processes):
        printed = folder / f"printed{number}"
        printed.mkdir(parents=True, exist_ok=True)
        about = (number, processes, devices, port, folder, what, settings[number])
        children.append(forked.start(printed, worker.work, *about))
    return children


def run(folder, what, processes=2, **starting):
    """Start the processes, wait for them, and return what they found."""
    children = begin(folder, what, processes, **starting)
    for child in children:
        child.join(TIME)
    said = [forked.printed_by(folder / f"printed{n}", "stderr") for n in range(processes)]
    assert [child.exitcode for child in children] == [0] * processes, said
    return [json.loads((folder / f"{n}.json").read_text()) for n in range(processes)]


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    return run(folder / "one", "train", 1), run(folder / "two", "train"), folder / "two"


def test_two_processes_end_in_the_weights_and_logs_of_one(one_and_two):
    (alone,), both, _ = one_and_two
    for found in both:
        for mine, theirs in zip(found["0"]["weights"], alone["0"]["weights"], strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-5)
        assert "val_accuracy" in found["0"]["logs"]
        for name, values in alone["0"]["logs"].items():
            np.testing.assert_allclose(found["0"]["logs"][name], values, rtol=1e-4)


def test_without_a_seed_they_agree_on_a_secret_that_is_new(one_and_two):
    (alone,), (first, second), _ = one_and_two
    assert first["None"]["weights"] == second["None"]["weights"]
    assert first["None"]["weights"] != alone["None"]["weights"]


def test_each_reads_its_own_share_of_the_batch(one_and_two):
    (alone,), both, _ = one_and_two
    rows = [found["0"]["rows"] for found in both]
    assert rows[0] == rows[1]
    assert sum(rows) <= 1.1 * alone["0"]["rows"]


def test_the_first_process_writes_the_ledger_and_all_count_the_same_segments(one_and_two):
    _, (first, second), folder = one_and_two
    assert LedgerFile.read(folder / "training.ledger").updates == 5
    for seed in ("0", "None"):
        assert first[seed]["ledger"] == second[seed]["ledger"]
        assert [entry["updates"] for entry in first[seed]["ledger"]["releases"]] == [5]


def test_processes_that_disagree_on_the_data_say_so_all_of_them(tmp_path):
    first, second = run(tmp_path / "two", "train", settings=({}, {"size": 639}))
    assert "Process 0" in first["error"]
    for found in (first, second):
        for part in ("the same settings", "640", "639", "same program, data and library versions"):
            assert part in found["error"]


def test_processes_that_bring_different_examples_say_so_all_of_them(tmp_path):
    """As where each has a share of the data, as many examples as the others."""
    for found in run(tmp_path / "two", "train", settings=({}, {"share": 320})):
        assert "the same data (digest of the first examples)" in found["error"]


def test_one_file_is_written_of_weights_that_no_process_has_the_whole_of(tmp_path):
    """And a process that loads the first one's file counts no update twice."""
    both = run(tmp_path / "two", "save")
    assert [found["updates"] for found in both] == [[3, 6], [3, 6]]
    whole = model(dropout=0.0)
    whole.load_weights(tmp_path / "two" / "new" / "end.weights.h5")
    assert whole.ledger.updates == 6
    expected, _ = trained(None, steps=3, epochs=2, dropout=0.0)
    for one, other in zip(whole.get_weights(), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert keras.saving.load_model(tmp_path / "two" / "new" / "last.keras").ledger.updates == 3


def test_all_learn_that_the_first_process_could_not_write(tmp_path):
    first, second = run(tmp_path / "two", "fill")
    assert "nowhere" in first["error"]
    assert second["error"].startswith("OSError: Process 0 writes for all processes, and could not:")
    assert "nowhere" in second["error"]


def test_a_run_that_lost_a_process_is_resumed_by_one_with_two_devices(tmp_path):
    folder = tmp_path / "run"
    survivor, lost = begin(folder, "lose", settings=({"at": 2}, {"at": 2}))
    lost.join(TIME)
    assert lost.exitcode == -9
    survivor.kill()  # JAX ends it as well, when the other one has not been heard of for a minute
    survivor.join(TIME)
    written = LedgerFile.read(folder / "training.ledger").updates
    assert 13 <= written <= 14  # the update that was lost, and one that may have been begun
    shutil.copytree(folder, tmp_path / "copy")
    one = {"processes": 1, "devices": 2}
    (found,) = run(folder, "lose", **one, settings=[{"mesh": "2", "with_file": False}])
    expected, _ = trained(None, steps=5, epochs=4, dropout=0.0)
    for mine, theirs in zip(found["weights"], expected, strict=True):
        np.testing.assert_allclose(mine, theirs.ravel(), atol=1e-5)
    plan = LedgerFile.read(folder / "training.ledger").releases[0].plan
    assert found["epsilon"] == accounting.spent([Release(plan, 20, "a")], 1e-5, "pld")
    # The file knows of the updates that the backup has not seen: their keys are not used again.
    (counted,) = run(tmp_path / "copy", "lose", **one, settings=[{"mesh": "2"}])
    assert counted["updates"] == written + 10
    assert counted["epsilon"] > found["epsilon"]
