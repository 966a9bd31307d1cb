"""Every kind of data that `fit` takes trains as the equal arrays do, or is refused with a remedy.

Two seeded runs that draw the same positions must end in the same weights, whatever gives the rows.
PyTorch, TensorFlow and KerasHub have stand-ins here; `tests/sources` has the libraries themselves.
"""

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp import sampling
from tests.standins import (
    Batches,
    DataLoader,
    DatasetV2,
    Examples,
    IterableDataset,
    Subset,
    Task,
    sentences,
    tokenize,
)
from tests.trained import (
    BATCHES,
    SIZE,
    WEIGHTS,
    X,
    Y,
    assert_same_weights,
    compiled,
    model,
    trained,
)


def as_dicts():
    return [{"image": x, "label": y} for x, y in zip(X, Y, strict=True)]


def pair(element):
    return element["image"], element["label"]


def grain_map():
    import grain

    return grain.MapDataset.source(as_dicts()).map(pair)


@pytest.fixture(scope="module")
def tfds_source(tmp_path_factory):
    """A real `tfds.data_source`, prepared without TensorFlow, and its arrays in its order."""
    import tensorflow_datasets as tfds

    class Tiny(tfds.core.GeneratorBasedBuilder):
        """A data set of one split."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            image = tfds.features.Tensor(shape=(4,), dtype=np.float32)
            label = tfds.features.Scalar(np.int64)
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, download_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield from enumerate(as_dicts())

    folder = tmp_path_factory.mktemp("tfds")
    builder = Tiny(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    data = builder.as_data_source(split="train")
    elements = [data[i] for i in range(len(data))]
    return data, [np.stack(part) for part in zip(*map(pair, elements), strict=True)]


AT_ANY_POSITION = {
    "PyDataset": lambda: Batches(X, Y, batch_size=7),
    "PyTorch dataset": lambda: Examples(X, Y),
    "PyTorch subset": lambda: Subset(Examples(X, Y), range(SIZE)),
    "Grain data source": lambda: sampling.RandomAccess(as_dicts(), pair),
    "Grain MapDataset": grain_map,
}


@pytest.fixture(scope="module")
def on_arrays():
    """The models that were trained on arrays, by sampling scheme."""
    made = {}

    def get(scheme):
        if scheme not in made:
            made[scheme] = trained(X, Y, sampling=scheme)
        return made[scheme]

    return get


@pytest.mark.parametrize("kind", AT_ANY_POSITION)
def test_data_with_positions_train_as_the_equal_arrays(kind, on_arrays):
    assert_same_weights(trained(AT_ANY_POSITION[kind]()), on_arrays("poisson"))


@pytest.mark.parametrize("scheme", ["truncated_poisson", "balls_in_bins", "shuffle", "full_batch"])
@pytest.mark.parametrize("kind", ["PyDataset", "PyTorch subset"])
def test_data_with_positions_train_under_every_scheme_as_the_equal_arrays(kind, scheme):
    size = None if scheme == "full_batch" else 8
    runs = [
        trained(*data, sampling=scheme, batch_size=size, epochs=1)
        for data in ((AT_ANY_POSITION[kind](),), (X, Y))
    ]
    assert_same_weights(*runs)


@pytest.mark.parametrize("kind", ["PyDataset", "PyTorch dataset"])
def test_data_with_positions_train_with_the_loop_on_the_device_too(kind, monkeypatch, on_arrays):
    expected = on_arrays("poisson")
    monkeypatch.setattr(keras_dp.backend, "loops_on_device", lambda: True)
    assert_same_weights(trained(AT_ANY_POSITION[kind]()), expected, atol=1e-5)


def test_a_tfds_data_source_trains_as_the_equal_arrays(tfds_source):
    data, arrays = tfds_source
    assert_same_weights(trained(sampling.RandomAccess(data, pair)), trained(*arrays))


def test_the_dicts_of_a_tfds_data_source_are_refused_with_the_wrapper(tfds_source):
    made = model()
    remedy = r"RandomAccess\(data, transform=lambda e: \(e\['image'\], e\['label'\]\)\)"
    with pytest.raises(ValueError, match=remedy):
        made.fit(tfds_source[0])
    assert made.ledger.updates == 0


def split_columns():
    return {"a": X[:, :3], "b": X[:, 3:]}


def columns_of_examples():
    parts = split_columns()
    return [({"a": parts["a"][i], "b": parts["b"][i]}, Y[i]) for i in range(SIZE)]


class ColumnBatches(Batches):
    """Gives the inputs as a dict."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return {"a": x[:, :3], "b": x[:, 3:]}, y


@pytest.mark.parametrize(
    "data",
    [
        (split_columns(), Y),
        (sampling.RandomAccess(columns_of_examples()),),
        (ColumnBatches(X, Y, batch_size=9),),
    ],
)
def test_dicts_of_inputs_train_as_one_array(data, on_arrays):
    a, b = keras.Input((3,), name="a"), keras.Input((1,), name="b")
    outputs = keras.layers.Dense(3)(keras.layers.Concatenate()([a, b]))
    made = compiled(keras_dp.DPModel({"a": a, "b": b}, outputs))
    made.set_weights([np.ones((4, 3)), np.zeros(3)])
    made.fit(*data, batch_size=8, epochs=2, verbose=0)
    assert_same_weights(made, on_arrays("poisson"))


@pytest.mark.parametrize("kind", ["PyDataset", "PyTorch dataset", "Grain MapDataset"])
def test_class_weight_works_for_data_sets_as_for_arrays(kind):
    weights = {0: 3.0, 2: 0.1}
    on_data_set = trained(AT_ANY_POSITION[kind](), class_weight=weights)
    assert_same_weights(on_data_set, trained(X, Y, class_weight=weights))


@pytest.mark.parametrize("data", [Batches(X, Y, WEIGHTS, batch_size=7), Examples(X, Y, WEIGHTS)])
def test_a_data_set_gives_the_weights_of_its_examples(data):
    assert_same_weights(trained(data), trained(X, Y, sample_weight=WEIGHTS))


def test_a_data_set_that_changes_its_order_after_an_epoch_is_never_asked_to(on_arrays):
    class Reordering(Batches):
        """Would give other examples at the same positions."""

        def on_epoch_end(self):
            self.arrays = [array[::-1] for array in self.arrays]

    assert_same_weights(trained(Reordering(X, Y, batch_size=7)), on_arrays("poisson"))


def test_the_batch_size_of_batched_data_is_that_of_their_batches():
    made = model()
    made.fit(Batches(X, Y, batch_size=10), verbose=0)
    (release,) = made.ledger.releases
    assert (release.plan.batch_size, release.plan.dataset_size, release.updates) == (10, SIZE, 4)


@pytest.mark.parametrize(
    "held_out",
    [
        (X[30:], Y[30:]),
        Examples(X[30:], Y[30:]),
        Batches(X[30:], Y[30:], batch_size=4),
        sampling.RandomAccess(as_dicts()[30:], pair),
    ],
    ids=type,
)
def test_validation_data_may_be_of_any_kind(held_out):
    made = model()
    history = made.fit(
        Examples(X[:30], Y[:30]), batch_size=6, validation_data=held_out, verbose=0
    ).history
    expected = made.evaluate(X[30:], Y[30:], verbose=0)
    np.testing.assert_allclose(history["val_loss"], [expected], rtol=1e-5)


@pytest.mark.parametrize("kind", AT_ANY_POSITION)
def test_a_validation_split_is_for_arrays_as_in_keras(kind):
    made = model()
    with pytest.raises(ValueError, match=r"`validation_split` works with arrays only.*Split the"):
        made.fit(AT_ANY_POSITION[kind](), validation_split=0.2, verbose=0)
    assert made.ledger.updates == 0


REFUSED = {
    "tf.data": (lambda: DatasetV2(BATCHES), r"`tfds\.data_source`"),
    "generator": (lambda: (batch for batch in BATCHES), "NumPy arrays"),
    "PyTorch DataLoader": (lambda: DataLoader(Examples(X, Y), 8), r"`loader\.dataset`"),
    "PyTorch IterableDataset": (lambda: IterableDataset(BATCHES), "map-style dataset"),
    "Grain IterDataset": (
        lambda: grain_map().batch(8).to_iter_dataset(),
        r"`grain\.MapDataset` that it was made from",
    ),
}


@pytest.mark.parametrize("train", ["fit", "train_on_batch"])
@pytest.mark.parametrize("kind", REFUSED)
def test_a_stream_is_refused_with_what_to_pass_instead(kind, train):
    make, remedy = REFUSED[kind]
    made = model()
    before = made.get_weights()
    with pytest.raises(keras_dp.NotPrivateError, match=rf"any position.*{remedy}.*Stream\("):
        getattr(made, train)(make())
    for new, old in zip(made.get_weights(), before, strict=True):
        np.testing.assert_array_equal(new, old)
    assert made.ledger.updates == 0


def token_arrays(size=30):
    texts, labels = sentences(size)
    return texts, labels, tokenize(texts)


@pytest.fixture(scope="module")
def on_tokens():
    """A task without preprocessing, trained on the tokens."""
    _, labels, tokens = token_arrays()
    return task_model(None, tokens, labels)


def task_model(preprocess, *data, **fitting):
    keras.utils.set_random_seed(0)
    private = compiled(keras_dp.make_private(Task(preprocess)), metrics=["accuracy"])
    private.fit(*data, batch_size=8, verbose=0, **fitting)
    return private


@pytest.mark.parametrize(
    "raw",
    [list, np.array, lambda texts: np.array(texts, object), lambda texts: np.array(texts, "S")],
    ids=["list", "unicode", "object", "bytes"],
)
def test_a_task_trains_on_texts_as_on_their_tokens(raw, on_tokens):
    texts, labels, _ = token_arrays()
    assert_same_weights(task_model(tokenize, raw(texts), labels.tolist()), on_tokens)


def test_a_task_trains_on_examples_with_texts_as_on_their_tokens(on_tokens):
    texts, labels, _ = token_arrays()
    data = sampling.RandomAccess(list(zip(texts, labels, strict=True)))
    private = task_model(tokenize, data, validation_data=(texts, labels))
    assert_same_weights(private, on_tokens)
    assert "val_accuracy" in private.history.history


def test_a_task_splits_texts_for_validation():
    texts, labels, _ = token_arrays()
    private = task_model(tokenize, texts, labels, validation_split=0.2)
    (release,) = private.ledger.releases
    assert release.plan.dataset_size == 24
    expected = private.evaluate(texts[24:], labels[24:], verbose=0)
    np.testing.assert_allclose(private.history.history["val_loss"], expected[:1], rtol=1e-5)


def test_a_task_makes_an_update_on_a_batch_of_texts():
    texts, labels, tokens = token_arrays()
    results = []
    for preprocess, x in ((tokenize, texts), (None, tokens)):
        keras.utils.set_random_seed(0)
        private = compiled(keras_dp.make_private(Task(preprocess)))
        private.train_on_batch(x, labels)
        results.append(private)
    assert_same_weights(*results)
