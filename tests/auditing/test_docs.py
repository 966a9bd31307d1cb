"""The examples of the page on auditing run, one after the other."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "auditing.md"


def test_the_examples_run_and_print_reports(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S):
        exec(code, names)
    shown = capsys.readouterr().out
    assert "The claim stands" in shown
    assert "The loss threshold attack on 200 training examples and 200 others" in shown
    assert "The LiRA attack" in shown
    assert (tmp_path / "audit.png").exists()
