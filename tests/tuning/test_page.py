"""The page on tuning runs as it is printed."""

from pathlib import Path

import pytest

from keras_dp.accounting import BestOf, noise_multiplier
from keras_dp.tuning import PrivateRandomSearch
from tests.hygiene.test_repository import ROOT, python_blocks

PAGE = ROOT / "docs" / "tuning.md"
RUN = {"batch_size": 2048, "dataset_size": 60_000, "updates": 580, "delta": 1e-5}


@pytest.mark.parametrize("number", [0, 1])
def test_its_examples_run(number, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = {**PrivateRandomSearch.__init__.__kwdefaults__, "seed": 1}
    monkeypatch.setattr(PrivateRandomSearch.__init__, "__kwdefaults__", few)
    blocks = [code for _, code in python_blocks(PAGE)]
    assert len(blocks) == 2
    exec(compile(blocks[number], str(PAGE), "exec"), {})
    shown = capsys.readouterr().out
    if number == 0:
        assert "PRIVACY STATEMENT" in shown
        assert Path("best.privacy.md").is_file()
    else:
        assert shown.split() == ["2.5298"]


def test_its_table_says_what_the_accountant_says():
    rows = [line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if "runs |" in line]
    assert len(rows) == 4
    for mean, *cells, together in rows:
        for shape, cell in zip((0.0, 1.0, float("inf")), cells, strict=True):
            found = noise_multiplier(epsilon=3.0, best_of=BestOf(float(mean), shape), **RUN)
            assert f"{found:.2f}" == cell.split(",")[0].strip()
        most = {**RUN, "updates": 580 * int(mean)}
        found = noise_multiplier(epsilon=3.0, accountant="rdp", **most)
        assert f"{found:.2f}" == together.strip()
