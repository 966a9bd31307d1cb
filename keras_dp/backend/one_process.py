"""What the processes of one training run must have in common, where there is one process."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any


def shared_seed() -> int | None:
    """Return a secret that all processes have; `None` for a single process."""
    return None


def is_first() -> bool:
    """Whether this is the process that writes files."""
    return True


def from_first(value: Any) -> Any:
    """Return the first process's value."""
    return value


@contextlib.contextmanager
def written_once(variables: Sequence[Any]) -> Iterator[bool]:
    """Let the first process write files of these variables.

    Yields:
        Whether this process is to write.
    """
    del variables
    yield True


def least_of(value: int) -> int:
    """Return the least value that any process has."""
    return value


def agree_on(facts: dict[str, Any]) -> None:
    """Refuse to go on where processes differ in these facts; one process agrees with itself."""
    del facts
