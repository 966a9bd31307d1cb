"""The command line: `keras-dp epsilon`, `noise` and `updates`, and `keras-dp audit`."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from keras_dp import accounting, validation
from keras_dp.accounting.wording import rounded_up
from keras_dp.plan import updates_per_epoch
from keras_dp.version import __version__

_NO_PRIVACY = "infinite: there is no privacy"


@dataclass(frozen=True)
class _Question:
    """One subcommand: which options it takes, what it answers and with what."""

    answer: Callable[..., float]
    options: tuple[str, ...]
    result: str
    about: str


_OPTIONS: dict[str, dict[str, Any]] = {
    "epsilon": {"type": float, "help": "largest epsilon allowed"},
    "delta": {"type": float, "help": "delta, well below 1 / dataset size"},
    "noise_multiplier": {"type": float, "help": "standard deviation of the noise, in clip norms"},
    "batch_size": {"type": int, "help": "expected number of examples in an update"},
    "dataset_size": {"type": int, "help": "number of training examples"},
}

_AUDIT_OPTIONS: dict[str, dict[str, Any]] = {
    "delta": {"type": float, "help": "delta (default: that of the model's budget)"},
    "canaries": {"type": int, "default": 1000, "help": "number of canaries (default: %(default)s)"},
    "kind": {"default": "gradient", "help": "gradient or input canaries (default: %(default)s)"},
    "confidence": {"type": float, "default": 0.95, "help": "confidence (default: %(default)s)"},
    "batch_size": {"type": int, "help": "expected number of examples in an update"},
    "epochs": {"type": int, "default": 1, "help": "number of epochs (default: %(default)s)"},
    "runs": {"type": int, "help": "training runs among which canaries are divided"},
    "seed": {"type": int, "help": "makes the audit repeatable"},
}

_QUESTIONS = {
    "epsilon": _Question(
        accounting.epsilon,
        ("noise_multiplier", "batch_size", "dataset_size", "updates", "delta"),
        "epsilon",
        "the epsilon that a number of updates spends",
    ),
    "noise": _Question(
        accounting.noise_multiplier,
        ("epsilon", "delta", "batch_size", "dataset_size", "updates"),
        "noise_multiplier",
        "the smallest noise multiplier that keeps a number of updates within epsilon",
    ),
    "updates": _Question(
        accounting.updates,
        ("epsilon", "delta", "noise_multiplier", "batch_size", "dataset_size"),
        "updates",
        "the largest number of updates that stays within epsilon",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Answer a question of privacy accounting, or audit a model, on the command line.

    Args:
        argv: The arguments; None for those of the process.

    Returns:
        The exit code: 0, 1 where an audit refutes the claimed epsilon, or 2 for bad arguments,
        which are explained on standard error.

    Example:
        >>> from keras_dp import cli
        >>> cli.main("updates --epsilon 2 --delta 1e-6 --noise-multiplier 3 --batch-size 100 "
        ...          "--dataset-size 1000 --json".split())
        {"epsilon": 2.0, "delta": 1e-06, "noise_multiplier": 3.0, "batch_size": 100, ...}
        0
    """
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # --help, --version, or a message that was printed already
        return int(stop.code or 0)
    try:
        if arguments.question == "audit":
            return _audit(arguments)
        settings = _settings(arguments)
        answer = _QUESTIONS[arguments.question].answer(**settings)
    except (ValueError, ImportError, OSError) as error:
        print(f"keras-dp {arguments.question}: error: {error}", file=sys.stderr)
        return 2
    print(_report(arguments, settings, answer))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="keras-dp", description=__doc__)
    parser.add_argument("--version", action="version", version=f"keras-dp {__version__}")
    questions = parser.add_subparsers(dest="question", required=True, metavar="QUESTION")
    for name, question in _QUESTIONS.items():
        _add_options(questions.add_parser(name, help=question.about, description=question.about))
    about = "measure how much training a saved model tells about examples, beside its claim"
    _add_audit_options(questions.add_parser("audit", help=about, description=about))
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    question = _QUESTIONS[parser.prog.rsplit(maxsplit=1)[-1]]
    for option in question.options:
        if option == "updates":
            _add_number_of_updates(parser)
        else:
            parser.add_argument(_flag(option), required=True, **_OPTIONS[option])
    parser.add_argument(
        "--sampling",
        default="poisson",
        help=f"how examples are drawn: {', '.join(accounting.SAMPLINGS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--accountant",
        default="pld",
        help=f"one of {', '.join(accounting.ACCOUNTANTS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--rdp-orders",
        type=float,
        nargs="+",
        metavar="ORDER",
        help="orders above 1 for rdp and rdp_classic",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")


def _add_number_of_updates(parser: argparse.ArgumentParser) -> None:
    number = parser.add_mutually_exclusive_group(required=True)
    number.add_argument("--updates", type=int, help="number of updates")
    number.add_argument(
        "--epochs", type=int, help="instead: epochs of round(dataset size / batch size) updates"
    )


def _add_audit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="a compiled DPModel in a .keras file")
    parser.add_argument("data", type=Path, help="an .npz file with arrays x and y")
    for option, settings in _AUDIT_OPTIONS.items():
        parser.add_argument(_flag(option), **settings)
    parser.add_argument("--plot", type=Path, help="draw scores and bound into this file")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")


def _audit(arguments: argparse.Namespace) -> int:
    """Audit the model in a file, print the report and return the exit code."""
    from keras_dp import auditing  # needs Keras, which the other questions do without

    x, y = _arrays(arguments.data)
    model = _model(arguments.model)
    settings = {option: getattr(arguments, option) for option in _AUDIT_OPTIONS}
    report = auditing.audit(model, x, y, **settings)
    if arguments.plot is not None:
        report.plot(arguments.plot)
    print(json.dumps(report.to_dict()) if arguments.json else report)
    return int(report.violated)


def _arrays(path: Path) -> tuple[Any, Any]:
    try:
        with np.load(path) as data:
            arrays = dict(data)
    except (BadZipFile, ValueError, TypeError) as error:
        raise ValueError(f"{path} is no .npz file of plain arrays. ({error})") from error
    if "x" not in arrays:
        raise ValueError(f"{path} must hold an array `x`, and `y`. It holds: {sorted(arrays)}.")
    return arrays["x"], arrays.get("y")


def _model(path: Path) -> Any:
    import keras

    try:
        return keras.saving.load_model(path)
    except TypeError as error:  # a class that is not registered
        raise ValueError(f"{path} cannot be loaded by itself: {error}") from error


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments of the accounting function."""
    question = _QUESTIONS[arguments.question]
    settings = {option: getattr(arguments, option) for option in question.options}
    if "updates" in settings and settings["updates"] is None:
        settings["updates"] = _updates_of(arguments)
    settings["sampling"] = arguments.sampling
    settings["accountant"] = arguments.accountant
    if arguments.rdp_orders is not None:
        settings["rdp_orders"] = arguments.rdp_orders
    return settings


def _updates_of(arguments: argparse.Namespace) -> int:
    epochs = validation.positive_int("epochs", arguments.epochs)
    batch_size = validation.positive_int("batch_size", arguments.batch_size)
    dataset_size = validation.positive_int("dataset_size", arguments.dataset_size)
    return epochs * updates_per_epoch(dataset_size, batch_size)


def _report(arguments: argparse.Namespace, settings: dict[str, Any], answer: float) -> str:
    result = _QUESTIONS[arguments.question].result
    if arguments.json:
        return json.dumps({**settings, result: answer if math.isfinite(answer) else "inf"})
    if result == "epsilon":
        shown = f"{rounded_up(answer, 4)} (rounded up)" if math.isfinite(answer) else _NO_PRIVACY
    else:
        shown = str(answer)
    rows = {**settings, result: shown}
    width = max(map(len, rows))
    return "\n".join(f"{_words(name):<{width}}  {value}" for name, value in rows.items())


def _words(name: str) -> str:
    return name.replace("_", " ")


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"
