"""What the kinds of the zoo draw from: random settings, inputs with data, changes of rank."""

import inspect

import keras
import numpy as np

from tests.zoo.custom import Zeros

L = keras.layers

# A tensor's domain is its rank. "tokens" kinds bring their own input of integers.
RANKS = {"vector": 2, "sequence": 3, "image": 4, "volume": 5}
DOMAINS = {rank: domain for domain, rank in RANKS.items()}
LARGEST = {3: 6, 4: 9, 5: 5}  # positions along one axis, by rank
CHANNELS = 8
ACTIVATIONS = (None, "tanh", "relu", "gelu", "silu", "elu", "softplus", "leaky_relu", "sigmoid")
SHAPES = {
    "vector": ((3, 7),),
    "sequence": ((4, 7), (2, 6)),
    "image": ((4, 8), (4, 8), (1, 4)),
    "volume": ((3, 5), (3, 5), (3, 5), (1, 3)),
}


class Drawing:
    """One model as it is drawn: everything random in it comes from `rng`."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.size = int(self.rng.integers(3, 6))
        self.inputs, self.x = {}, {}
        self.outputs, self.y, self.losses = [], [], []
        self.words = []

    def pick(self, *options):
        return options[int(self.rng.integers(len(options)))]

    def maybe(self, chance=0.5):
        return bool(self.rng.random() < chance)

    def units(self):
        return int(self.rng.integers(2, 7))

    def activation(self):
        return self.pick(*ACTIVATIONS)

    def say(self, words):
        self.words.append(words)

    def layer(self, make, *args, **settings):
        """Make a layer, by name or class, and note it with its settings."""
        cls = getattr(L, make) if isinstance(make, str) else make
        values = [_text(a) for a in args] + [f"{k}={_text(v)}" for k, v in settings.items()]
        self.say(f"{cls.__name__}({', '.join(values)})")
        return cls(*args, **_initializers(cls), **settings)

    def input(self, shape):
        """Add an input of floats; examples differ in scale so that some are clipped."""
        scale = self.rng.uniform(0.3, 2.0, size=(self.size,) + (1,) * len(shape))
        data = scale * self.rng.normal(size=(self.size, *shape))
        return self._add_input(shape, data.astype("float32"))

    def tokens(self, positions, vocabulary):
        """Add an input of tokens, padded with 0 at the end as in a batch of texts."""
        data = self.rng.integers(1, vocabulary, size=(self.size, positions))
        for row in data:
            row[int(self.rng.integers(1, positions + 1)) :] = 0
        return self._add_input((positions,), data.astype("int32"))

    def start(self, domain):
        return self.input(tuple(int(self.rng.integers(*ends)) for ends in SHAPES[domain]))

    def _add_input(self, shape, data):
        name = f"x{len(self.inputs)}"
        self.inputs[name] = keras.Input(shape, dtype=data.dtype.name, name=name)
        self.x[name] = data
        self.say(f"Input{shape}")
        return self.inputs[name]


def _initializers(cls):
    names = inspect.signature(cls.__init__).parameters
    return {name: Zeros() for name in names if name.endswith("_initializer")}


def _text(value):
    return f"<{type(value).__name__}>" if isinstance(value, L.Layer) else repr(value)


def to(d, x, domain):
    """Give `x` the rank of `domain`, in one of several ways."""
    while x.ndim > RANKS[domain]:
        x = _one_rank_less(d, x)
    if x.ndim == 2 < RANKS[domain]:
        x = d.layer("Dense", 12)(x)
        x = d.layer("Reshape", d.pick((4, 3), (6, 2)))(x)
    while x.ndim < RANKS[domain]:
        x = limit(d, d.layer("Reshape", (*x.shape[1:], 1))(x))
    return x


def _one_rank_less(d, x):
    *_, inner, channels = x.shape
    if x.ndim == 3:
        how = d.pick("Flatten", "GlobalAveragePooling1D", "GlobalMaxPooling1D")
        return d.layer(how)(x)
    if d.maybe():  # the innermost positions become channels, or join the positions before them
        shape = (*x.shape[1:-2], inner * channels)
    else:
        shape = (*x.shape[1:-3], x.shape[-3] * inner, channels)
    return limit(d, d.layer("Reshape", shape)(x))


def limit(d, x):
    """Keep `x` small, so that a model compiles in a second whatever was drawn before."""
    if x.shape[-1] > CHANNELS:
        x = d.layer("Dense", d.units())(x)
    if x.ndim == 2:
        return x
    pool = tuple(-(-n // LARGEST[x.ndim]) for n in x.shape[1:-1])
    if max(pool) > 1:
        x = d.layer(f"{d.pick('Average', 'Max')}Pooling{x.ndim - 2}D", pool, padding="same")(x)
    return x


def like(d, x, reference):
    """Give `x` the channels of `reference`, for sums and products."""
    return x if x.shape[-1] == reference.shape[-1] else d.layer("Dense", reference.shape[-1])(x)


def join(d, x, sequence):
    """Append a sequence to what was drawn before, if anything was."""
    if x is None:
        return sequence
    before = like(d, to(d, x, "sequence"), sequence)
    return d.layer("Concatenate", axis=1)([before, sequence])
