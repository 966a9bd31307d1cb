"""What is left when a search is over: the best run, and nothing that tells of the others."""

import shutil
from pathlib import Path
from typing import Any

from keras_tuner.engine import trial as trials

from keras_dp.tuning.oracle import IndependentRuns

BEST = "best"
"""The name of the run that is kept, which does not say how many there were before it."""


def best_of(oracle: IndependentRuns) -> Any:
    """Return the best run of a search that is over, or `None` when no run has a score.

    Raises:
        RuntimeError: when the search is not over.
    """
    if not oracle.finished:
        raise RuntimeError(
            "The search must be over before its result is read: what is known of it earlier would "
            "have to be counted on top. Call `tuner.search(...)` again, which takes it up."
        )
    if BEST in oracle.trials:  # an equally good one may not have been deleted yet
        return oracle.trials[BEST]
    best = oracle.get_best_trials(1)
    return best[0] if best and best[0].status == trials.TrialStatus.COMPLETED else None


def the_best_of(oracle: IndependentRuns) -> Any:
    """Return the best run of a search that is over.

    Raises:
        RuntimeError: when the search is not over, or there is no run to publish.
    """
    best = best_of(oracle)
    if best is None:
        chance = oracle.best_of.probability_of_none
        why = (
            f"a {oracle.best_of.distribution} number of runs is 0 with probability {chance:.2g}"
            if chance
            else "no run ended with a score"
        )
        raise RuntimeError(
            f"The search ended without a model to publish: {why}. That there is none is its result "
            "and was paid for; another search costs as much again."
        )
    return best


def discard_others(oracle: IndependentRuns, folder: Path) -> None:
    """Delete all runs of a search that is over but the best, and what tells their number.

    It may be called again: what an earlier call that was killed has left is finished.

    Args:
        oracle: The oracle of the search.
        folder: The project's folder, with a folder for each run.
    """
    best = best_of(oracle)
    if best is not None and best.trial_id != BEST:
        source, unfinished = folder / f"trial_{best.trial_id}", folder / f"unfinished_{BEST}"
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(source, unfinished)
        best.trial_id, best.message = BEST, None
        for name in set(best.metrics.metrics) - set(oracle.names()):
            del best.metrics.metrics[name]
        best.save(str(unfinished / "trial.json"))
        shutil.rmtree(folder / f"trial_{BEST}", ignore_errors=True)
        unfinished.rename(folder / f"trial_{BEST}")
    oracle.keep_only(best)
    for run in folder.glob("trial_*"):
        if best is None or run.name != f"trial_{BEST}":
            shutil.rmtree(run)
