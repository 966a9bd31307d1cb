"""`keras-dp epsilon`, `noise` and `updates`: the questions of privacy accounting."""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_dp import accounting, validation
from keras_dp.accounting.wording import rounded_up
from keras_dp.commands.options import flag
from keras_dp.plan import updates_per_epoch

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


def add(parsers: Any) -> None:
    """Add the commands to the `argparse` subparsers."""
    for name, question in _QUESTIONS.items():
        parser = parsers.add_parser(name, help=question.about, description=question.about)
        _add_options(parser, question)
        parser.set_defaults(run=answer)


def answer(arguments: argparse.Namespace) -> tuple[str, int]:
    """Return the answer and the exit code."""
    settings = _settings(arguments)
    return _report(arguments, settings, _QUESTIONS[arguments.command].answer(**settings)), 0


def _add_options(parser: argparse.ArgumentParser, question: _Question) -> None:
    for option in question.options:
        if option == "updates":
            _add_number_of_updates(parser)
        else:
            parser.add_argument(flag(option), required=True, **_OPTIONS[option])
    parser.add_argument(
        "--sampling",
        default="poisson",
        help=f"how examples are drawn: {', '.join(accounting.SAMPLINGS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--largest-batch",
        type=int,
        help="where truncated_poisson truncates (default: six standard deviations above)",
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
    parser.add_argument(
        "--mean-runs",
        type=float,
        help="of a search that publishes the best of a random number of such runs: how many are "
        "expected",
    )
    parser.add_argument(
        "--runs-shape",
        type=float,
        default=1.0,
        help="of a search: 0 for a logarithmic, 1 for a geometric (default), inf for a Poisson "
        "number of runs",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")


def _add_number_of_updates(parser: argparse.ArgumentParser) -> None:
    number = parser.add_mutually_exclusive_group(required=True)
    number.add_argument("--updates", type=int, help="number of updates")
    number.add_argument(
        "--epochs", type=int, help="instead: epochs of round(dataset size / batch size) updates"
    )


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments of the accounting function."""
    question = _QUESTIONS[arguments.command]
    settings = {option: getattr(arguments, option) for option in question.options}
    if "updates" in settings and settings["updates"] is None:
        settings["updates"] = _updates_of(arguments)
    settings["sampling"] = arguments.sampling
    settings["accountant"] = arguments.accountant
    if arguments.largest_batch is not None:
        settings["largest_batch"] = arguments.largest_batch
    if arguments.rdp_orders is not None:
        settings["rdp_orders"] = arguments.rdp_orders
    if arguments.mean_runs is not None:
        settings["best_of"] = accounting.BestOf(arguments.mean_runs, arguments.runs_shape)
    return settings


def _updates_of(arguments: argparse.Namespace) -> int:
    epochs = validation.positive_int("epochs", arguments.epochs)
    batch_size = validation.positive_int("batch_size", arguments.batch_size)
    dataset_size = validation.positive_int("dataset_size", arguments.dataset_size)
    return epochs * updates_per_epoch(dataset_size, batch_size)


def _report(arguments: argparse.Namespace, settings: dict[str, Any], answer: float) -> str:
    result = _QUESTIONS[arguments.command].result
    if "best_of" in settings:
        best_of = settings.pop("best_of")
        settings |= {"mean_runs": best_of.mean_runs, "distribution": best_of.distribution}
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
