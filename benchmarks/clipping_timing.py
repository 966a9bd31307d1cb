"""Rounds of several steps in turn, and their medians. Only the standard library.

The clipping benchmark and its parts in other environments measure alike through this module.
"""

import argparse
import json
import statistics
import time

BUDGET = 60.0  # seconds for all rounds of one model
MOST_ROUNDS = 100
SLOW = 5.0  # a method above this ratio runs in a quarter of the rounds


def seconds(step):
    """Time one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def measure(steps, ordinary, *, rounds=None):
    """Time `steps`, a dict of functions, in rounds; summaries with ratios to `ordinary`.

    Every step must have run before. The order rotates from round to round.
    """
    times = {name: [seconds(step)] for name, step in steps.items()}
    counts = _plan({name: spent[0] for name, spent in times.items()}, ordinary, rounds)
    names, most = list(steps), max(counts.values())
    for turn in range(1, most):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            if _due(turn, counts[name], most):
                times[name].append(seconds(steps[name]))
    base = statistics.median(times[ordinary])
    return {name: _summary(spent, base) for name, spent in times.items()}


def run(argv, description, models, make_steps, batch_of, versions):
    """Measure the chosen models of another framework and print JSON: its part's whole program.

    `make_steps(name)` gives the steps and what failed, `batch_of(name)` the batch size.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--models", nargs="+", default=list(models))
    parser.add_argument("--rounds", type=int)
    arguments = parser.parse_args(argv)
    results = {}
    for name in (name for name in arguments.models if name in models):
        steps, failed = make_steps(name)
        times = measure(steps, "ordinary", rounds=arguments.rounds)
        results[name] = {"batch": batch_of(name), **times, **failed}
    print(json.dumps({"versions": versions, "models": results}))


def _plan(first, ordinary, rounds):
    """Number of rounds of each step, from the times of the first round."""
    fast = {name for name, spent in first.items() if spent <= SLOW * first[ordinary]}
    cost = sum(spent if name in fast else spent / 4 for name, spent in first.items())
    most = rounds or max(3, min(MOST_ROUNDS, int(BUDGET / cost)))
    counts = {}
    for name, spent in first.items():
        few = max(min(most, 3), most // 4)
        counts[name] = most if name in fast else max(1, min(few, int(BUDGET / 2 / spent)))
    return counts


def _due(turn, count, most):
    """Whether a step that runs in `count` of `most` rounds runs in this one."""
    return turn * count // most > (turn - 1) * count // most


def _summary(spent, base):
    median = statistics.median(spent)
    return {
        "seconds": median,
        "fastest": min(spent),
        "slowest": max(spent),
        "rounds": len(spent),
        "ratio": median / base,
    }
