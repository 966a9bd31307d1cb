"""Reading several parts of data at a time."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> list[Result]:
    """Return `[function(item) for item in items]`, computed in threads that end with this call.

    Threads help where reading waits for a disk or a network, or decodes outside of Python.

    Args:
        function: What reads an item. With several workers it is called from several threads.
        items: What to read.
        workers: Number of threads; with one, the caller's own does it all.

    Raises:
        Exception: of the first item that cannot be read, in the order of the items.
    """
    if workers <= 1 or len(items) <= 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(workers, len(items)), "keras_dp-reading") as threads:
        return list(threads.map(function, items))
