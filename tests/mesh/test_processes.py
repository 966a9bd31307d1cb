"""Two processes with four devices each train as one process with eight."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from keras_dp.accounting import LedgerFile


def run(folder, processes, sizes):
    """Start the processes, each with data of its own size, and return what they found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    folder.mkdir()
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.mesh.worker"]
            + [str(part) for part in (number, processes, port, folder, sizes[number])],
            env=env,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for number in range(processes)
    ]
    for child in children:
        _, said = child.communicate(timeout=300)
        assert child.returncode == 0, said
    return [json.loads((folder / f"{n}.json").read_text()) for n in range(processes)]


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    return run(folder / "one", 1, [640]), run(folder / "two", 2, [640] * 2), folder / "two"


def test_two_processes_end_in_the_weights_and_logs_of_one(one_and_two):
    (alone,), both, _ = one_and_two
    for found in both:
        for mine, theirs in zip(found["0"]["weights"], alone["0"]["weights"], strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-5)
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


def test_the_first_process_writes_the_ledger_and_all_count(one_and_two):
    _, both, folder = one_and_two
    assert [found["0"]["updates"] for found in both] == [5, 5]
    assert LedgerFile.read(folder / "training.ledger").updates == 5


def test_processes_that_disagree_on_the_data_say_so_all_of_them(tmp_path):
    first, second = run(tmp_path / "two", 2, [640, 639])
    assert "Process 0" in first["error"]
    for found in (first, second):
        for part in ("the same settings", "640", "639", "same program, data and library versions"):
            assert part in found["error"]
