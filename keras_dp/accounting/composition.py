"""What a ledger's releases amount to: events, each with the number of times that it happened."""

from collections import Counter
from collections.abc import Iterable

from dp_accounting import DpEvent

from keras_dp.accounting import events
from keras_dp.accounting.ledger import Release
from keras_dp.accounting.rdp import Composition


def composition_of(releases: Iterable[Release]) -> Composition:
    """Return the events of `releases`, equal ones counted together."""
    counts: Counter[DpEvent] = Counter()
    for release in releases:
        made = events.count(release.plan, int(release.updates))
        counts[events.event(release.plan)] += made
    return tuple(sorted(counts.items(), key=repr))  # the order of a merge must not matter
