"""The sampling schemes by name."""

from keras_dp import validation
from keras_dp.sampling.base import Sampler
from keras_dp.sampling.full_batch import FullBatch
from keras_dp.sampling.poisson import Poisson

SAMPLERS: dict[str, type[Sampler]] = {scheme.name: scheme for scheme in (Poisson, FullBatch)}
"""Names that `compile(sampling=...)` takes."""


def resolve(sampling: str | Sampler) -> Sampler:
    """Return the sampler of that name, or the sampler itself.

    Raises:
        ValueError: for an unknown name, with the list of known ones.
    """
    if isinstance(sampling, Sampler):
        return sampling
    return SAMPLERS[validation.one_of("sampling", sampling, SAMPLERS)]()
