"""The checks of `source.py` hold in the tree, and each of them can fail."""

import ast
from pathlib import Path

import pytest

from tests.hygiene import source

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = sorted((ROOT / "keras_dp").rglob("*.py"))
TESTS = [ROOT / "conftest.py", *sorted((ROOT / "tests").rglob("*.py"))]


def offences(check, paths):
    return [
        f"{path.relative_to(ROOT)}:{line}"
        for path in paths
        for line in check(ast.parse(path.read_text(encoding="utf-8"), str(path)))
    ]


def test_package_and_tests_were_found():
    assert ROOT / "keras_dp" / "__init__.py" in PACKAGE
    assert Path(__file__).resolve() in TESTS


@pytest.mark.parametrize(
    "check",
    [source.asserts, source.long_bodies, source.undocumented, source.private_imports],
    ids=lambda check: check.__name__,
)
def test_package_has_none_of(check):
    assert offences(check, PACKAGE) == []


def test_only_the_command_line_prints():
    others = [path for path in PACKAGE if path != ROOT / "keras_dp" / "cli.py"]
    assert offences(source.prints, others) == []


def test_no_file_of_the_package_is_too_long():
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in PACKAGE
    }
    assert {path: n for path, n in lengths.items() if n > source.LONGEST_FILE} == {}


@pytest.mark.parametrize(
    "check", [source.skips, source.blind_raises], ids=lambda check: check.__name__
)
def test_tests_have_none_of(check):
    assert offences(check, TESTS) == []


LONG = "\n".join(["    x = 1"] * (source.LONGEST_BODY + 1))


@pytest.mark.parametrize(
    ("check", "offence", "lines"),
    [
        (source.asserts, "def f(x):\n    assert x", [2]),
        (source.prints, "def f(x):\n    print(x)", [2]),
        (source.long_bodies, f"class A:\n  def f():\n{LONG}", [2]),
        (source.undocumented, "def f():\n    pass", [1, 1]),
        (source.undocumented, '"""Doc."""\nclass A:\n    x = 1', [2]),
        (source.private_imports, "import jax._src.core", [1]),
        (source.private_imports, "from jax import _src", [1]),
        (source.private_imports, "from keras.src.layers import Dense", [1]),
        (source.private_imports, "import keras\nkeras.src.layers", [2]),
        *((source.skips, f"def test():\n    {name}('later')", [2]) for name in source.SKIPS),
        *((source.skips, f"@{name}\ndef test(): pass", [1]) for name in source.SKIPS),
        (source.blind_raises, "with pytest.raises((KeyError, ValueError)): f()", [1]),
    ],
)
def test_check_finds_the_offence(check, offence, lines):
    assert check(ast.parse(offence)) == lines


@pytest.mark.parametrize(
    ("check", "fine"),
    [
        (source.prints, '"""Doc.\n\n>>> print(1)\n"""'),
        (source.long_bodies, f'def f():\n    """Doc.\n{LONG}\n    """\n    return 1'),
        (source.undocumented, '"""Doc."""\ndef _f():\n    pass'),
        (source.undocumented, ""),
        (source.private_imports, "import jax.extend.core\nfrom keras import layers"),
        (source.skips, "@pytest.mark.skipif(True, reason='no network')\ndef test(): pass"),
        (source.blind_raises, "with pytest.raises(ValueError, match='clip_norm'): f()"),
    ],
)
def test_check_lets_good_code_pass(check, fine):
    assert check(ast.parse(fine)) == []
