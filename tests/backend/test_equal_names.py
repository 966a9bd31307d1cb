"""Every backend has the same functions, with the same parameters, installed or not."""

import ast
from pathlib import Path

import pytest

import keras_dp.backend
from keras_dp import backend

FOLDER = Path(keras_dp.backend.__file__).parent
BACKENDS = sorted(path.parent.name for path in FOLDER.glob("*/__init__.py"))
CHOSEN = [name for name in BACKENDS if name in ("jax", "tensorflow", "torch")]


def parsed(module):
    """Return the source of a module, as a tree."""
    path = FOLDER.parents[1] / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(module):
    """Return name -> module for all that a module imports from others."""
    return {
        alias.asname or alias.name: node.module
        for node in ast.walk(parsed(module))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def parameters(module, function):
    """Return the names of a function's parameters, or `None` for what is no function."""
    for node in parsed(module).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            arguments = node.args
            return [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    source = imported(module).get(function)
    return None if source is None else parameters(source, function)


def test_there_are_three_backends():
    assert CHOSEN == ["jax", "tensorflow", "torch"]


@pytest.mark.parametrize("name", CHOSEN)
def test_a_backend_has_every_name(name):
    assert set(backend.__all__) - {"Report"} <= imported(f"keras_dp.backend.{name}").keys()


@pytest.mark.parametrize("name", CHOSEN)
def test_functions_of_a_backend_take_the_arguments_of_the_others(name):
    for function in set(backend.__all__) - {"Report"}:
        expected = parameters("keras_dp.backend.jax", function)
        found = parameters(f"keras_dp.backend.{name}", function)
        assert found and found[: len(expected)] == expected if expected else not found, function
