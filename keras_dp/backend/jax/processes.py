"""What the processes of one training run must have in common."""

import contextlib
import json
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import keras
import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from keras_dp.backend.jax.mesh import undistributed
from keras_dp.version import __version__

SECRET_BITS = 256


def shared_seed() -> int | None:
    """Return a secret that all processes have, new in every call; `None` for a single process.

    The first process takes it from the operating system and hands it to the others, over the
    network that the training uses. Noise and draws follow from it as they follow from a seed.
    """
    if jax.process_count() == 1:
        return None
    return int(from_first(secrets.randbits(SECRET_BITS)))


def is_first() -> bool:
    """Whether this is the process that writes files."""
    return bool(jax.process_index() == 0)


def from_first(value: Any) -> Any:
    """Return, in every process, the first one's value.

    Args:
        value: What JSON knows.
    """
    return value if jax.process_count() == 1 else json.loads(_gathered(json.dumps(value))[0])


@contextlib.contextmanager
def written_once(variables: Sequence[Any]) -> Iterator[bool]:
    """Let the first process write files of these variables, and the others wait for it.

    Meanwhile every process has all of each variable, also of those that are laid out over several.

    Yields:
        Whether this process is to write.

    Raises:
        OSError: in the other processes, when the first one could not write.
    """
    if jax.process_count() == 1:
        yield True
        return
    failure: Exception | None = None
    with _gathered_values(variables):
        from_first(None)  # what the others still read is not replaced
        try:
            with undistributed():  # Keras makes variables while it saves, which all would have to
                yield is_first()
        except Exception as error:
            failure = error
        said = from_first(None if failure is None else f"{type(failure).__name__}: {failure}")
    if failure is not None:
        raise failure
    if said is not None:
        raise OSError(f"Process 0 writes for all processes, and could not: {said}")


@contextlib.contextmanager
def _gathered_values(variables: Sequence[Any]) -> Iterator[None]:
    # One after the other: on CPU programs overtake each other, and their messages get mixed up.
    jax.block_until_ready([variable.value for variable in variables])
    spread = [v for v in variables if not v.value.is_fully_replicated]
    before = [variable.value for variable in spread]
    for variable, value in zip(spread, before, strict=True):
        whole = NamedSharding(value.sharding.mesh, PartitionSpec())
        gathered = jax.jit(lambda a: a, out_shardings=whole)(value)
        variable._value = jax.block_until_ready(gathered)
    try:
        yield
    finally:
        for variable, value in zip(spread, before, strict=True):
            variable._value = value


def least_of(value: int) -> int:
    """Return, in every process, the least value that any of them has."""
    return value if jax.process_count() == 1 else min(map(json.loads, _gathered(json.dumps(value))))


def agree_on(facts: dict[str, Any]) -> None:
    """Refuse to go on where processes differ in these facts, or in the libraries' versions.

    Args:
        facts: Names and values, as JSON knows them.

    Raises:
        ValueError: in every process, naming what differs, with both values.
    """
    if jax.process_count() == 1:
        return
    facts = {
        **facts,
        "version of keras_dp": __version__,
        "version of Keras": keras.__version__,
        "version of JAX": jax.__version__,
    }
    for process, theirs in enumerate(_gathered(json.dumps(facts, sort_keys=True, default=str))):
        known = json.loads(theirs)
        mine = json.loads(json.dumps(facts, default=str))
        differing = sorted(n for n in {*mine, *known} if mine.get(n) != known.get(n))
        if differing:
            name = differing[0]
            raise ValueError(
                f"All processes must train with the same {name}. Process {jax.process_index()} has "
                f"{mine.get(name)!r}, process {process} has {known.get(name)!r}. Start all of them "
                "with the same program, data and library versions."
            )


def _gathered(text: str) -> list[str]:
    """Return what each process passes, in all of them."""
    own = np.frombuffer(text.encode(), np.uint8)
    sizes = _rows(np.array([own.size], np.int32)).ravel()
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: own.size] = own
    rows = _rows(padded)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def _rows(own: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the arrays of all processes, as rows.

    `multihost_utils.process_allgather` waits for one device of its process. On CPU the next program
    can overtake what others still do, so that messages meet the wrong ones; hence a wait for all.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    mesh = Mesh(np.array(devices).reshape(jax.process_count(), -1), ("process", "device"))
    by_process = NamedSharding(mesh, PartitionSpec("process"))
    rows = jax.make_array_from_process_local_data(by_process, own[None])
    everywhere = NamedSharding(mesh, PartitionSpec())
    found = jax.block_until_ready(jax.jit(lambda a: a, out_shardings=everywhere)(rows))
    return np.asarray(found.addressable_data(0))
