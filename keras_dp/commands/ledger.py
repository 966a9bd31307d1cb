"""`keras-dp ledger`: what a ledger file counts, in plain words."""

import argparse
import json
from pathlib import Path
from typing import Any

from keras_dp import accounting, validation


def add(parsers: Any) -> None:
    """Add the command to the `argparse` subparsers."""
    about = "say what the updates in a ledger file have spent"
    parser = parsers.add_parser("ledger", help=about, description=about)
    parser.add_argument("path", type=Path, help="the file that was given as `ledger_file`")
    parser.add_argument(
        "--delta", type=float, help="delta, well below 1 / dataset size; needed to state an epsilon"
    )
    parser.add_argument(
        "--accountant",
        default="pld",
        help=f"one of {', '.join(accounting.ACCOUNTANTS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--mend",
        action="store_true",
        help="first cut off a last line that breaks off in the middle, and count its update",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.set_defaults(run=state)


def state(arguments: argparse.Namespace) -> tuple[str, int]:
    """Return the ledger, or the privacy statement at a delta, and the exit code."""
    path, delta = arguments.path, arguments.delta
    if delta is not None:
        validation.open_probability("delta", delta)
    validation.one_of("accountant", arguments.accountant, accounting.ACCOUNTANTS)
    if arguments.mend:
        accounting.LedgerFile.mend(path)
    ledger = accounting.LedgerFile.read(path)
    if delta is None:
        return ledger.to_json() if arguments.json else _outline(ledger), 0
    statement = accounting.build_statement(ledger, delta, arguments.accountant)
    return json.dumps(statement.to_dict()) if arguments.json else str(statement), 0


def _outline(ledger: accounting.Ledger) -> str:
    lines = [f"{ledger.updates} updates. State --delta to see their epsilon."]
    lines += map(_described, ledger.releases)
    return "\n".join([*lines, *ledger.notes])


def _described(release: accounting.Release) -> str:
    made = f"{release.updates} of {release.plan}"
    return (
        made if release.best_of is None else f"{made}, in each run of a search: {release.best_of}"
    )
