"""The Python in the documentation that needs a further library runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python needs=(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall((ROOT / "docs/data.md").read_text(encoding="utf-8"))


def test_the_page_of_data_shows_each_library():
    assert {name for name, _ in BLOCKS} == {"torch", "keras_hub"}


@pytest.mark.parametrize(("name", "code"), BLOCKS, ids=lambda part: part.partition("\n")[0])
def test_a_block_runs_with_its_library(name, code, tmp_path):
    script = tmp_path / f"{name}_block.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
