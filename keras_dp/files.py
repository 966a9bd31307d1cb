"""Files that are replaced as a whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """Give the name of a temporary file beside `path`, which takes its place at the end.

    A process that is killed while it writes, or a full disk, leaves the earlier file as it was.

    Args:
        path: The file to write. Its ending is kept; a remote address is written to directly.

    Raises:
        OSError: when writing fails; it says that the earlier file is untouched.
    """
    if "://" in str(path):
        yield str(path)
        return
    target = Path(path)
    temporary = target.with_name(f".unfinished-{os.getpid()}-{target.name}")
    try:
        yield str(temporary)
        temporary.replace(target)
    except OSError as error:
        error.add_note(f"{target} was not written; if it was there before, it is as it was.")
        raise
    finally:
        temporary.unlink(missing_ok=True)
