"""The count of what was released: it follows the weights wherever they go."""

import itertools
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from keras_dp import keys, validation
from keras_dp.accounting import events
from keras_dp.accounting.best_of import BestOf
from keras_dp.plan import PrivacyPlan

_VERSION = 1
_VERSION_WITH_SEARCHES = 2  # refused by releases of keras_dp that would count a search as one run
_MOST_UPDATES = 2**53


@dataclass(frozen=True)
class Release:
    """`updates` equal updates under one plan, or a search among runs of so many.

    Args:
        plan: How each of them was privatized.
        updates: How many, at least 1 and at most 2**53; in a search, the most in one run.
        id: Random name of the segment, the same in every copy of the ledger.
        best_of: For a search, how many runs the published one is the best of; else None.

    Raises:
        ValueError: when a field is malformed.
    """

    plan: PrivacyPlan
    updates: int
    id: str
    best_of: BestOf | None = None

    def __post_init__(self) -> None:
        """Refuse malformed fields at once."""
        if not isinstance(self.plan, PrivacyPlan):
            raise ValueError(f"`plan` must be a PrivacyPlan. Received: {self.plan!r}.")
        if validation.positive_int("updates", self.updates) > _MOST_UPDATES:
            raise ValueError(f"`updates` must be at most 2**53. Received: {self.updates!r}.")
        if not isinstance(self.id, str) or not self.id:
            raise ValueError(f"`id` must be a non-empty string. Received: {self.id!r}.")
        if not isinstance(self.best_of, BestOf | None):
            raise ValueError(f"`best_of` must be a BestOf or None. Received: {self.best_of!r}.")

    def get_config(self) -> dict[str, Any]:
        """Return the fields as a dictionary of JSON values."""
        search = {} if self.best_of is None else {"best_of": self.best_of.get_config()}
        return {"id": self.id, "updates": self.updates, "plan": self.plan.get_config(), **search}


class LedgerWriter(Protocol):
    """Where a ledger writes down what it is about to count."""

    def opened(self, release: Release) -> None:
        """Write down a segment with the updates that it has."""

    def counted(self, updates: int) -> None:
        """Write down the number of updates of the segment that was opened last."""

    def noted(self, text: str) -> None:
        """Write down a note."""


class Ledger:
    """What was released from the data so far, as segments of equal updates.

    A segment has a random id and grows only in the ledger that opened it: a copy, a loaded ledger
    and both sides of a merge open new ones. So the ledgers of a model that was saved, loaded,
    cloned and merged again are united by id, and nothing is counted twice or forgotten.

    Example:
        >>> from keras_dp.accounting import Ledger
        >>> from keras_dp.plan import PrivacyPlan
        >>> plan = PrivacyPlan(sampling="poisson", batch_size=64, dataset_size=1000,
        ...                    clip_norm=1.0, noise_multiplier=1.0)
        >>> ledger = Ledger()
        >>> ledger.record(plan)
        >>> ledger.updates
        1
    """

    def __init__(self) -> None:
        self._plans: dict[str, PrivacyPlan] = {}
        self._counts: dict[str, int] = {}
        self._searches: dict[str, BestOf] = {}
        self._updates = 0
        self._open: str | None = None
        self._open_plan: PrivacyPlan | None = None
        self._notes: dict[str, None] = {}
        self._writer: LedgerWriter | None = None
        self._ids: Iterator[str] = iter(lambda: secrets.token_hex(16), "")

    @property
    def notes(self) -> tuple[str, ...]:
        """What the statement has to mention: each thing once, in order."""
        return tuple(self._notes)

    @property
    def updates(self) -> int:
        """The number of updates recorded, over all segments."""
        return self._updates

    @property
    def releases(self) -> tuple[Release, ...]:
        """The segments, in the order in which they were opened or merged."""
        return tuple(
            Release(plan, self._counts[id], id, self._searches.get(id))
            for id, plan in self._plans.items()
        )

    def record(self, plan: PrivacyPlan) -> None:
        """Count one update under `plan`. Call it before the update is applied.

        It adds to an integer; only a plan other than the last one opens a segment and is checked.

        Raises:
            ValueError: when the plan is not one that can be accounted for.
        """
        if self._open is None or (plan is not self._open_plan and plan != self._open_plan):
            self._open = self._start_segment(plan)
            self._open_plan = plan
            return
        updates = self._counts[self._open] + 1
        if self._writer is not None:
            self._writer.counted(updates)
        self._counts[self._open] = updates
        self._updates += 1

    def add(self, release: Release) -> None:
        """Count a release as a whole, before any of it is made; what is counted stays as it is.

        Raises:
            ValueError: when it cannot be accounted for, or its id stands for something else.
        """
        events.event(release.plan)
        self._check_agrees(release)
        if release.updates > self._counts.get(release.id, 0):
            self._set_segment(release)

    def note(self, text: str) -> None:
        """Remember something that the guarantee does not cover and the statement must mention."""
        if text in self._notes:
            return
        if self._writer is not None:
            self._writer.noted(text)
        self._notes[text] = None

    def ahead_of(self, plan: PrivacyPlan) -> tuple[tuple[Release, ...], int]:
        """Return what is recorded, but for the updates that those under `plan` would continue.

        Returns:
            The other segments, and the number of updates in the open one if its plan is `plan`.
        """
        if self._open is None or plan != self._open_plan:
            return self.releases, 0
        others = tuple(release for release in self.releases if release.id != self._open)
        return others, self._counts[self._open]

    def close(self) -> None:
        """End the open segment: what is recorded next is a stretch of its own.

        Call it where the draws begin anew, so that no two parts of different epochs count as one.
        """
        self._open = self._open_plan = None

    def merge(self, other: "Ledger") -> None:
        """Take over the segments of `other`: of two counts of one segment, the larger.

        No count is ever lowered. Both ledgers close their open segment, so that what they record
        later gets an id of its own.

        Raises:
            ValueError: when one id stands for two plans; then nothing is changed.
        """
        for release in other.releases:
            self._check_agrees(release)
        for release in other.releases:
            if release.updates > self._counts.get(release.id, 0):
                self._set_segment(release)
        for text in other.notes:
            self.note(text)
        self.close()
        other.close()

    def copy(self) -> "Ledger":
        """Return a ledger with the same segments, none of them open."""
        return self.from_config(self.get_config())

    def get_config(self) -> dict[str, Any]:
        """Return everything as a dictionary of JSON values, with a version number."""
        version = _VERSION_WITH_SEARCHES if self._searches else _VERSION
        releases = [release.get_config() for release in self.releases]
        return {"version": version, "releases": releases, "notes": list(self._notes)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Ledger":
        """Rebuild a ledger from `get_config`'s dictionary; no segment is open.

        Raises:
            ValueError: when the dictionary is malformed, of another version, names one segment
                twice or holds a plan that cannot be accounted for.
        """
        ledger = cls()
        for entry in _entries(config):
            release = _release(entry)
            if release.id in ledger._plans:
                raise ValueError(
                    f"A ledger must name each segment once. Received: {release.id!r} twice."
                )
            ledger._set_segment(release)
        ledger._notes = dict.fromkeys(_strings(config.get("notes", [])))
        return ledger

    def to_json(self) -> str:
        """Return `get_config()` as JSON text."""
        return json.dumps(self.get_config())

    @classmethod
    def from_json(cls, text: str) -> "Ledger":
        """Rebuild a ledger from `to_json`'s text; `ValueError` when it is malformed."""
        return cls.from_config(json.loads(text))

    def __reduce__(self) -> tuple[Callable[[Mapping[str, Any]], "Ledger"], tuple[dict[str, Any]]]:
        """Copy and pickle by configuration: two ledgers never share an open segment."""
        return (type(self).from_config, (self.get_config(),))

    def __repr__(self) -> str:
        """Show the totals."""
        return f"Ledger(updates={self.updates}, segments={len(self._plans)})"

    def write_to(self, writer: LedgerWriter) -> None:
        """Have everything written down from now on before it is counted."""
        self._writer = writer

    def share_ids(self, secret: int) -> None:
        """Name segments from now on like all ledgers that were given this secret.

        The processes of one training run count the same updates, each in a ledger of its own.
        """
        numbers = itertools.count()
        self._ids = (keys.update_key(secret, "segment", n, 16).hex() for n in numbers)

    def _start_segment(self, plan: PrivacyPlan) -> str:
        events.event(plan)  # refuses a plan that no accountant could compose later
        release = Release(plan, 1, next(self._ids))
        self._set_segment(release)
        return release.id

    def _set_segment(self, release: Release) -> None:
        if self._writer is not None:
            self._writer.opened(release)
        self._updates += release.updates - self._counts.get(release.id, 0)
        self._plans[release.id] = release.plan
        self._counts[release.id] = release.updates
        if release.best_of is not None:
            self._searches[release.id] = release.best_of

    def _check_agrees(self, release: Release) -> None:
        known = self._plans.get(release.id)
        if known is None:
            return
        if (known, self._searches.get(release.id)) != (release.plan, release.best_of):
            raise ValueError(
                f"The ledgers disagree on the plan of segment {release.id!r}. Received: {known} "
                f"and {release.plan}, searches {self._searches.get(release.id)} and "
                f"{release.best_of}. One of them was altered; load the original file again."
            )


def _entries(config: Mapping[str, Any]) -> list[Any]:
    if not isinstance(config, Mapping) or "version" not in config:
        raise ValueError(
            f"A ledger's config must be a dictionary with a version. Received: {config!r}."
        )
    if config["version"] not in (_VERSION, _VERSION_WITH_SEARCHES):
        raise ValueError(
            f"A ledger's config must have version {_VERSION} or {_VERSION_WITH_SEARCHES}. "
            f"Received: {config['version']!r}. "
            "It was written by another release of keras_dp; load it with that one."
        )
    entries = config.get("releases")
    if not isinstance(entries, list):
        raise ValueError(f"A ledger's `releases` must be a list. Received: {entries!r}.")
    return entries


def _strings(notes: Any) -> list[str]:
    if not isinstance(notes, list) or not all(isinstance(text, str) for text in notes):
        raise ValueError(f"A ledger's `notes` must be a list of strings. Received: {notes!r}.")
    return notes


def _release(entry: Any) -> Release:
    try:
        plan = PrivacyPlan.from_config(entry["plan"])
        events.event(plan)
        if not isinstance(plan.seeded, bool):
            raise TypeError(f"`seeded` must be true or false. Received: {plan.seeded!r}.")
        search = entry.get("best_of")
        best_of = None if search is None else BestOf.from_config(search)
        return Release(plan, entry["updates"], entry["id"], best_of)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"A ledger's release must hold an id, a number of updates and a plan. "
            f"Received: {entry!r}. {error}"
        ) from error
