"""What other libraries' data look like to keras_dp, for tests without these libraries.

Each class has the protocol of the one it stands for: its class name, its methods and what they
return. `tests/sources` runs the same cases on the real ones.
"""

import keras
import numpy as np

L = keras.layers


class Examples:
    """A map-style PyTorch dataset, or a Grain data source."""

    def __init__(self, *arrays):
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays[0])

    def __getitem__(self, index):
        return tuple(array[index] for array in self.arrays)


class Subset:
    """`torch.utils.data.Subset`, which reads several examples at once."""

    def __init__(self, dataset, indices):
        self.dataset, self.indices = dataset, indices

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, index):
        return self.dataset[self.indices[index]]

    def __getitems__(self, indices):
        return [self.dataset[self.indices[index]] for index in indices]


class IterableDataset:
    """`torch.utils.data.IterableDataset`, which inherits a `__getitem__` that only raises."""

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        raise NotImplementedError

    def __iter__(self):
        return iter(self.examples)


class DataLoader:
    """`torch.utils.data.DataLoader`: lists of tensors, in a new order in every pass."""

    def __init__(self, dataset, batch_size):
        self.dataset, self.batch_size = dataset, batch_size

    def __len__(self):
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self):
        for start in range(0, len(self.dataset), self.batch_size):
            stop = min(start + self.batch_size, len(self.dataset))
            examples = [self.dataset[i] for i in range(start, stop)]
            yield [np.stack(part) for part in zip(*examples, strict=True)]


class DatasetV2:
    """`tf.data.Dataset`: a length or none, batches, `map` with the parts of an element."""

    element_spec = None

    def __init__(self, batches, known_length=True):
        self.batches, self.known_length = batches, known_length

    def __len__(self):
        if not self.known_length:
            raise TypeError("The dataset length is unknown.")
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)

    def map(self, function):
        return DatasetV2([function(*batch) for batch in self.batches])


class Batches(keras.utils.PyDataset):
    """A `keras.utils.PyDataset` over arrays that counts what is read."""

    def __init__(self, *arrays, batch_size):
        super().__init__()
        self.arrays, self.batch_size = arrays, batch_size
        self.reads = []

    def __len__(self):
        return -(-len(self.arrays[0]) // self.batch_size)

    def __getitem__(self, index):
        self.reads.append(index)
        rows = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return tuple(array[rows] for array in self.arrays)


WORDS = ("[PAD]", "the", "quick", "brown", "fox", "jumped", "over", "a", "lazy", "dog")
LENGTH = 6


def sentences(size, seed=0):
    """Random sentences of one word and more, and a class for each."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS[1:], rng.integers(1, LENGTH + 1))) for _ in range(size)]
    return texts, rng.integers(0, 2, size)


def tokenize(x, y=None, sample_weight=None):
    """Preprocess a list of texts as a KerasHub preprocessor does."""
    rows = [[WORDS.index(word) for word in text.split()] for text in x]
    ids = np.array([row + [0] * (LENGTH - len(row)) for row in rows], "int32").reshape(-1, LENGTH)
    tokens = {"token_ids": ids, "padding_mask": ids != 0}
    return keras.utils.pack_x_y_sample_weight(tokens, y, sample_weight)


class Task(keras.Model):
    """A KerasHub task: a functional model with a function that preprocesses batches."""

    def __init__(self, preprocess=tokenize, **kwargs):
        tokens = {
            "token_ids": keras.Input((LENGTH,), dtype="int32", name="token_ids"),
            "padding_mask": keras.Input((LENGTH,), dtype="bool", name="padding_mask"),
        }
        embedded = L.Embedding(len(WORDS), 4)(tokens["token_ids"])
        kept = keras.ops.cast(tokens["padding_mask"], "float32")[..., None]
        pooled = keras.ops.sum(embedded * kept, 1) / keras.ops.sum(kept, 1)
        super().__init__(tokens, L.Dense(2)(pooled), **kwargs)
        self.preprocess = preprocess

    def preprocess_samples(self, x, y=None, sample_weight=None):
        if self.preprocess is None:
            return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
        return self.preprocess(x, y, sample_weight)
