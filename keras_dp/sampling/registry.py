"""The sampling schemes by name."""

from collections.abc import Mapping
from typing import Any

from keras_dp import validation
from keras_dp.sampling.balls_in_bins import BallsInBins
from keras_dp.sampling.base import Sampler
from keras_dp.sampling.full_batch import FullBatch
from keras_dp.sampling.poisson import Poisson
from keras_dp.sampling.shuffle import Shuffle
from keras_dp.sampling.stream import PoissonStream, Stream
from keras_dp.sampling.truncated_poisson import TruncatedPoisson

SAMPLERS: dict[str, type[Sampler]] = {
    scheme.name: scheme for scheme in (Poisson, TruncatedPoisson, BallsInBins, FullBatch, Shuffle)
}
"""The schemes that draw, by the names that `compile(sampling=...)` takes."""

STREAMS: dict[str, type[Sampler]] = {scheme.name: scheme for scheme in (Stream, PoissonStream)}
"""What a user states about a stream, which draws by itself."""


def resolve(sampling: str | Sampler | Mapping[str, Any]) -> Sampler:
    """Return the sampler of that name or configuration, or the sampler itself.

    Raises:
        ValueError: for an unknown name, with the list of known ones.
    """
    if isinstance(sampling, Sampler):
        return sampling
    known = {**SAMPLERS, **STREAMS}
    if isinstance(sampling, Mapping):
        arguments = {key: value for key, value in sampling.items() if key != "name"}
        return known[validation.one_of("sampling", sampling.get("name"), known)](**arguments)
    if sampling == PoissonStream.name:
        raise ValueError(
            "A stream of Poisson samples must be described. Pass "
            "`sampling=keras_dp.sampling.PoissonStream(batch_size=..., dataset_size=...)`. "
            f"Received: sampling={sampling!r}."
        )
    return known[validation.one_of("sampling", sampling, known)]()
