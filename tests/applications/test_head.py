"""A head on feature vectors is the last layer of a classifier, trained by itself."""

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp.applications import Head
from tests.applications.backbones import CLASSES, compiled, moved, values

pytestmark = pytest.mark.usefixtures("unoptimized")

X = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")
Y = np.arange(8) % CLASSES
NORMALIZED = {
    None: lambda x: x,
    "unit": lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True),
    "layer": lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3),
}
FIRST_GRADIENT = {
    "softmax": lambda bias: np.full(CLASSES, 1 / CLASSES),
    "sigmoid": lambda bias: np.full(CLASSES, 1 / (1 + np.exp(-bias))),
}


@pytest.mark.parametrize("loss", FIRST_GRADIENT)
@pytest.mark.parametrize("normalization", NORMALIZED)
def test_the_first_update_from_zeros_is_the_closed_form(normalization, loss):
    """At zero weights the gradient of an example is (p - one_hot(y)) times its features and 1."""
    head = Head(CLASSES, normalization=normalization, loss=loss, logit_bias=-1.0)
    compiled(head, clip_norm=0.8).fit(X, Y, epochs=1, verbose=0)
    errors = FIRST_GRADIENT[loss](-1.0) - np.eye(CLASSES)[Y]
    features = np.hstack([NORMALIZED[normalization](X), np.ones((8, 1))])
    grads = features[:, :, None] * errors[:, None, :]
    norms = np.sqrt((grads**2).sum((1, 2)))
    clipped = (grads * np.minimum(1, 0.8 / norms)[:, None, None]).mean(0)
    np.testing.assert_allclose(head.dense.kernel, -clipped[:-1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(head.dense.bias, -1 - clipped[-1], rtol=1e-4, atol=1e-6)


def test_a_small_start_has_the_scale_that_was_asked_for():
    head = Head(50, head_init=0.01)
    head.build((None, 2000))  # 1e5 numbers: 6 standard errors of the deviation are 1.4 %
    assert np.std(head.dense.kernel) == pytest.approx(0.01, rel=0.02)


def test_a_head_is_saved_and_loaded_with_its_count_and_goes_on(tmp_path):
    head = compiled(Head(CLASSES, normalization="unit", loss="sigmoid"), noise_multiplier=1.0)
    head.fit(X, Y, epochs=2, verbose=0)
    head.save(tmp_path / "head.keras")
    loaded = keras.models.load_model(tmp_path / "head.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), head.predict(X, verbose=0))
    assert loaded.get_config() == head.get_config()
    before = values(loaded)
    loaded.fit(X, Y, epochs=1, verbose=0)
    assert moved(loaded, before) == {v.path for v in loaded.dense.weights}
    assert loaded.ledger.updates == 3


BAD = {
    "one class": ({"num_classes": 1}, "`num_classes` must be at least 2"),
    "half a class": ({"num_classes": 2.5}, "`num_classes` must be a whole number"),
    "start": ({"head_init": "ones"}, '`head_init` must be "zeros" or a standard deviation'),
    "scale": ({"head_init": -0.1}, "`head_init` must be a finite number above 0"),
    "bias": ({"logit_bias": "0"}, "`logit_bias` must be a number"),
    "normalization": ({"normalization": "batch"}, "`normalization` must be one of"),
    "loss": ({"loss": "hinge"}, "`loss` must be one of 'sigmoid', 'softmax'"),
}


@pytest.mark.parametrize("setting", BAD)
def test_a_bad_setting_is_refused(setting):
    settings, message = BAD[setting]
    with pytest.raises(ValueError, match=message):
        Head(**{"num_classes": 3, **settings})


def test_images_are_refused_with_what_to_use():
    head = compiled(Head(CLASSES))
    with pytest.raises(ValueError, match=r"takes feature vectors.*use `Classifier`"):
        head.fit(np.zeros((8, 4, 4, 3)), Y, verbose=0)


def test_features_of_another_backbone_are_refused():
    head = compiled(Head(CLASSES))
    head.build((None, 5))
    with pytest.raises(ValueError, match=r"takes 5 features.*\(8, 6\)"):
        head.fit(np.zeros((8, 6)), Y, verbose=0)


@pytest.mark.parametrize("method", ["fit", "train_on_batch", "evaluate", "test_on_batch"])
def test_wrong_labels_are_refused_before_anything_happens(method):
    head = compiled(Head(CLASSES), budget=keras_dp.Budget(epsilon=1.0, delta=1e-3))
    with pytest.raises(ValueError, match=r"whole numbers from 0 to 2.*Received: 3"):
        getattr(head, method)(X, Y + 1)
    assert head.ledger.updates == 0


def test_wrong_labels_of_validation_data_are_refused_before_training():
    head = compiled(Head(CLASSES))
    with pytest.raises(ValueError, match=r"whole numbers from 0 to 2.*Received: 3"):
        head.fit(X, Y, validation_data=(X, Y + 1), verbose=0)
    assert head.ledger.updates == 0


class Rows(keras.utils.PyDataset):
    """Data that are not in memory as a whole."""

    def __init__(self, y):
        super().__init__()
        self.y = y

    def __len__(self):
        return 2

    def __getitem__(self, index):
        part = slice(4 * index, 4 * index + 4)
        return X[part], self.y[part]


@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_the_first_labels_of_a_data_set_are_looked_at(method):
    head = compiled(Head(CLASSES))
    with pytest.raises(ValueError, match="whole numbers from 0 to 2"):
        getattr(head, method)(Rows(Y + 1.5), verbose=0)
    assert head.ledger.updates == 0


def test_a_loss_of_the_users_own_is_given_its_own_targets():
    head = compiled(Head(2), loss="mse", metrics=[])
    head.fit(X, np.full((8, 2), 7.0), verbose=0)
    assert head.ledger.updates == 1


def test_class_names_and_probabilities_are_refused():
    head = Head(CLASSES)
    with pytest.raises(ValueError, match="expects probabilities"):
        compiled(head, loss="sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"np\.unique"):
        compiled(head).fit(X, np.array(list("abcabcab")), verbose=0)
