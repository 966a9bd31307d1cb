"""What a ledger's releases amount to: events, each with the number of times that it happened."""

import math
from collections import Counter
from collections.abc import Iterable

from dp_accounting import ComposedDpEvent, DpEvent, GaussianDpEvent, SelfComposedDpEvent
from dp_accounting.dp_event import RepeatAndSelectDpEvent

from keras_dp.accounting import events
from keras_dp.accounting.best_of import BestOf
from keras_dp.accounting.ledger import Release
from keras_dp.accounting.rdp import ROUNDING, Composition


def composition_of(releases: Iterable[Release]) -> Composition:
    """Return the events of `releases`, equal ones counted together."""
    counts: Counter[DpEvent] = Counter()
    for release in releases:
        event = events.event(release.plan)
        made = events.count(release.plan, int(release.updates))
        if release.best_of is None:
            counts[event] += made
        else:
            counts[_search(event, made, release.best_of)] += 1
    return tuple(sorted(counts.items(), key=repr))  # the order of a merge must not matter


def _search(event: DpEvent, count: int, best_of: BestOf) -> DpEvent:
    """Return the event of a search, each of whose runs is at most `count` times `event`.

    What the rounding of the run's divergences may lose is given back inside the run, where it
    counts as often as they do, as a Gaussian mechanism whose divergences are above it.
    """
    given_back = GaussianDpEvent(1 / math.sqrt(2 * count * ROUNDING))
    run = ComposedDpEvent((SelfComposedDpEvent(event, count), given_back))
    return RepeatAndSelectDpEvent(run, best_of.mean_runs, best_of.shape)
