"""`keras-dp ledger` says what a ledger file counts, and mends one that breaks off."""

import gc
import json

import pytest

from keras_dp import accounting
from keras_dp.accounting import LedgerFile
from keras_dp.cli import main
from tests.accounting.published import plan

DELTA = "1e-5"


@pytest.fixture
def path(tmp_path):
    """A ledger file of three updates under two plans, closed."""
    file = LedgerFile.open(tmp_path / "training.ledger")
    for noise_multiplier in (1.0, 1.0, 2.0):
        file.ledger.record(plan(noise_multiplier=noise_multiplier))
    file.ledger.note("a note")
    del file
    gc.collect()
    return tmp_path / "training.ledger"


def test_the_statement_is_that_of_the_ledger(path, capsys):
    before = path.read_bytes()
    statement = accounting.build_statement(LedgerFile.read(path), float(DELTA), "rdp")
    assert main(["ledger", str(path), "--delta", DELTA, "--accountant", "rdp"]) == 0
    assert capsys.readouterr().out == f"{statement}\n"
    assert main(["ledger", str(path), "--delta", DELTA, "--accountant", "rdp", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == json.loads(json.dumps(statement.to_dict()))
    assert shown["updates"] == 3
    assert path.read_bytes() == before


def test_without_a_delta_it_counts_and_states_no_epsilon(path, capsys):
    assert main(["ledger", str(path)]) == 0
    shown = capsys.readouterr().out
    for part in ("3 updates", "--delta", "2 of", "noise_multiplier=2.0", "a note"):
        assert part in shown
    assert main(["ledger", str(path), "--json"]) == 0
    again = accounting.Ledger.from_json(capsys.readouterr().out)
    assert again.releases == LedgerFile.read(path).releases


def test_a_search_is_told_from_updates(path, capsys):
    search = accounting.Release(plan(), 50, "search", accounting.BestOf(10))
    LedgerFile.open(path).ledger.add(search)
    assert main(["ledger", str(path)]) == 0
    *others, last = capsys.readouterr().out.splitlines()[1:-1]
    assert last.startswith("50 of ")
    assert last.endswith("in each run of a search: BestOf(mean_runs=10.0, shape=1.0, seeded=False)")
    assert not any("search" in other for other in others)


def test_it_reads_a_file_that_training_writes_to(path, capsys):
    training = LedgerFile.open(path)
    training.ledger.record(plan(noise_multiplier=2.0))
    assert main(["ledger", str(path)]) == 0
    assert "4 updates" in capsys.readouterr().out


def test_a_file_that_breaks_off_is_mended_on_request_only(path, capsys):
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    broken = path.read_bytes()
    assert main(["ledger", str(path)]) == 2
    assert "breaks off in the middle" in capsys.readouterr().err
    assert path.read_bytes() == broken
    assert main(["ledger", str(path), "--mend"]) == 0
    # The line that broke off may have announced an update: it is counted.
    assert "4 updates" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--delta", "2"], "delta"),
        (["--delta", DELTA, "--accountant", "magic"], "magic"),
    ],
)
def test_bad_values_are_named_without_a_traceback(path, options, message, capsys):
    assert main(["ledger", str(path), *options]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("options", [[], ["--mend"]])
def test_a_file_that_is_not_there_is_said_and_not_made(tmp_path, options, capsys):
    assert main(["ledger", str(tmp_path / "none"), *options]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
