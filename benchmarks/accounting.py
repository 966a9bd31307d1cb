"""How long the accountant takes to answer, and what ledger and budget cost an update.

    python benchmarks/accounting.py [--updates 100000]

prints a table of seconds for each sampling, cold (a new process answers once), and microseconds for
an update.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

SETTINGS = {"batch_size": 600, "dataset_size": 60_000, "delta": 1e-6}
SAMPLINGS = ("poisson", "truncated_poisson", "balls_in_bins", "shuffle")
ROUNDS = 20_000
STEP = 5e-3
"""Seconds of a fast update, which the costs are compared with."""


def answer(question, sampling, updates):
    """Answer one question and return the seconds it took, imports apart."""
    from keras_dp import accounting

    settings = {**SETTINGS, "sampling": sampling}
    noise = {"poisson": 1.0, "truncated_poisson": 1.0, "balls_in_bins": 1.0, "shuffle": 20.0}
    given = {
        "epsilon": {"noise_multiplier": noise[sampling], "updates": updates},
        "noise_multiplier": {"epsilon": 8.0, "updates": updates},
        "updates": {"epsilon": 8.0, "noise_multiplier": noise[sampling]},
    }[question]
    began = time.perf_counter()
    found = getattr(accounting, question)(**settings, **given)
    return time.perf_counter() - began, found


def cold(question, sampling, updates):
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from accounting import answer; "
        f"print(json.dumps(answer({question!r}, {sampling!r}, {updates})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def costs_of_an_update():
    """Return microseconds for an update: budget and ledger, without and with a file."""
    from keras_dp.accounting import BudgetGuard, Ledger, LedgerFile
    from keras_dp.plan import Budget, PrivacyPlan

    plan = PrivacyPlan(
        sampling="poisson",
        batch_size=600,
        dataset_size=60_000,
        clip_norm=1.0,
        noise_multiplier=1.0,
    )
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        ledgers = {
            "budget and ledger": Ledger(),
            "with a ledger on disk": LedgerFile.open(Path(folder) / "a.ledger").ledger,
        }
        for name, ledger in ledgers.items():
            guard = BudgetGuard(ledger, Budget(100.0, 1e-6))
            guard.allowance(plan, at_most=2 * ROUNDS)
            guard.admit(plan)
            began = time.perf_counter()
            for _ in range(ROUNDS):
                guard.admit(plan)
            found[name] = (time.perf_counter() - began) / ROUNDS * 1e6
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=100_000)
    updates = parser.parse_args().updates
    questions = ("epsilon", "noise_multiplier", "updates")
    table = Table(title=f"Seconds to answer, {updates} updates, batch 600 of 60,000, delta 1e-6")
    for heading in ("sampling", *questions):
        table.add_column(heading)
    for sampling in SAMPLINGS:
        answers = [cold(question, sampling, updates) for question in questions]
        table.add_row(sampling, *(f"{seconds:.2f} s ({value:.5g})" for seconds, value in answers))
    console = Console()
    console.print(table)
    for name, microseconds in costs_of_an_update().items():
        share = microseconds * 1e-6 / STEP
        console.print(f"{name}: {microseconds:.1f} us an update, {share:.2%} of a 5 ms step")


if __name__ == "__main__":
    main()
