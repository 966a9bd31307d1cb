"""How the examples of an update are drawn, and what the accountant composes for it."""

from keras_dp.sampling.arrays import ArraySource
from keras_dp.sampling.balls_in_bins import BallsInBins
from keras_dp.sampling.base import Sampler
from keras_dp.sampling.evaluation import batch_sizes, evaluation_data
from keras_dp.sampling.examples import RandomAccess
from keras_dp.sampling.full_batch import FullBatch
from keras_dp.sampling.kinds import as_source
from keras_dp.sampling.poisson import Poisson
from keras_dp.sampling.registry import SAMPLERS, resolve
from keras_dp.sampling.shuffle import Shuffle
from keras_dp.sampling.source import Source
from keras_dp.sampling.stream import PoissonStream, Stream
from keras_dp.sampling.stream_source import StreamSource
from keras_dp.sampling.truncated_poisson import TruncatedPoisson

__all__ = [
    "SAMPLERS",
    "ArraySource",
    "BallsInBins",
    "FullBatch",
    "Poisson",
    "PoissonStream",
    "RandomAccess",
    "Sampler",
    "Shuffle",
    "Source",
    "Stream",
    "StreamSource",
    "TruncatedPoisson",
    "as_source",
    "batch_sizes",
    "evaluation_data",
    "resolve",
]
