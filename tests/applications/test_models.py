"""Models to train from scratch: published sizes, a second forward pass, clipped sums."""

import math

import jax
import keras
import numpy as np
import pytest

from keras_dp import DPModel, applications, clipping
from keras_dp.applications.layers import StdConv2D
from keras_dp.optimizers import DPSGD
from tests.applications import clipped, plain
from tests.applications.clipped import images, random_weights, stateless

pytestmark = pytest.mark.usefixtures("unoptimized")

A = applications
SIZES = A.ViTSizes(patch=4, width=12, depth=2, heads=3, hidden=20)
SHAPE = (17, 16, 3)  # odd and even sizes pad differently

TINY = {
    "wide_resnet": (
        lambda: A.WideResNet(16, 1, SHAPE, 5, groups=8),
        lambda w, x: plain.wide_resnet(w, x, 16, groups=8),
    ),
    "nf_resnet": (
        lambda: A.NFResNet((2, 3), SHAPE, 5, width=1, skip_gain=0.5),
        lambda w, x: plain.nf_resnet(w, x, (2, 3)),
    ),
    "resnet_v2": (
        lambda: A.ResNetV2((2, 1, 2), SHAPE, 5),
        lambda w, x: plain.resnet_v2(w, x, (2, 1, 2), bottleneck=False),
    ),
    "resnet_v2_bottleneck": (
        lambda: A.ResNetV2((2, 1), SHAPE, 5, bottleneck=True),
        lambda w, x: plain.resnet_v2(w, x, (2, 1), bottleneck=True),
    ),
    "bit_resnet": (
        lambda: A.BiTResNet((2, 1), 1, SHAPE, 5),
        lambda w, x: plain.bit_resnet(w, x, (2, 1)),
    ),
    "vit": (
        lambda: A.ViT(SIZES, (8, 12, 3), 5),
        lambda w, x: plain.vit(w, x, patch=4, depth=2),
    ),
}


@pytest.mark.parametrize("name", TINY)
def test_the_forward_pass_equals_a_second_implementation_and_survives_saving(name, tmp_path):
    make, second = TINY[name]
    model = make()
    random_weights(model)
    x = images(model)
    weights = plain.Weights(model)
    values = [v.value for v in model.trainable_variables]
    # Compiled without optimization, which takes longer than the model.
    options = {"xla_backend_optimization_level": 0}
    run = jax.jit(lambda values, x: stateless(model, values, x), compiler_options=options)
    outputs = np.asarray(run(values, x))
    np.testing.assert_allclose(outputs, second(weights, x), atol=2e-4, rtol=2e-4)
    assert not weights.unread()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    assert loaded.to_json() == model.to_json()
    for ours, theirs in zip(model.variables, loaded.variables, strict=True):
        assert ours.path == theirs.path
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "make",
    [
        lambda: A.WideResNet(10, 1, (4, 4, 3), 5, groups=8),
        lambda: A.NFResNet((1,), (8, 8, 3), 5, width=1),
    ],
)
def test_the_clipped_sum_equals_the_loop_over_examples(make):
    """The other models: `tests/zoo/test_models.py`."""
    clipped.check(make())


def unmade(make):
    """Return a model whose weights have shapes, but no values, which take time and memory."""
    with keras.StatelessScope(initialize_variables=False):
        model = make()
    keras.utils.clear_session()  # or the next scope to end would give them values
    return model


def count(make):
    return [(v.name, math.prod(v.shape)) for v in unmade(make).variables]


@pytest.mark.parametrize(
    ("make", "expected", "published"),
    [
        # ResNet-50 has 25,557,032 weights with batch normalisation: as many gains and biases of
        # convolutions here, and a gain for each of its 16 blocks.
        (lambda: A.NFResNet(50), 25_557_032 + 16, 25.56),
        # timm's results-imagenet.csv and benchmark-infer-*.csv: the same networks.
        (lambda: A.ResNetV2(18), 11_687_720, 11.69),
        (lambda: A.ResNetV2(50), 25_549_352, 25.55),
        (lambda: A.BiTResNet(50, 1), 25_549_352, 25.55),
        (lambda: A.BiTResNet(101, 1), 44_541_480, 44.54),
        (lambda: A.BiTResNet(50, 3), None, 217.32),
        (lambda: A.BiTResNet(152, 4), None, 936.53),
        (lambda: A.ViT("Ti/16"), None, 5.72),
        (lambda: A.ViT("S/16"), None, 22.05),
        (lambda: A.ViT("B/16"), 86_567_656, 86.57),
        (lambda: A.ViT("B/32"), None, 88.22),
        (lambda: A.ViT("L/16"), None, 304.33),
    ],
)
def test_the_numbers_of_weights_are_the_published_ones(make, expected, published):
    total = sum(size for _, size in count(make))
    assert round(total / 1e6, 2) == published
    assert expected in (None, total)


@pytest.mark.parametrize(
    ("depth", "width", "published"), [(16, 4, 2.7), (40, 4, 8.9), (16, 8, 11.0), (28, 10, 36.5)]
)
def test_wide_resnets_have_the_published_kernels_and_two_numbers_a_channel(depth, width, published):
    """Zagoruyko and Komodakis 2016, table 4; gains, biases and norms come on top."""
    sizes = count(lambda: A.WideResNet(depth, width))
    kernels = sum(size for name, size in sizes if name == "kernel")
    assert round(kernels / 1e6, 1) == published
    channels, convolved, normed = 16 * width, 16, 0
    inside = 16
    for stage in range(3):
        outside = channels * 2**stage
        for block in range((depth - 4) // 6):
            convolved += (3 if block == 0 else 2) * outside
            normed += (2 if block == 0 else 1) * inside + outside
            inside = outside
    rest = sum(size for name, size in sizes if name != "kernel")
    assert rest == 2 * convolved + 2 * (normed + inside) + 10


@pytest.mark.parametrize("layer", [A.WSConv2D, StdConv2D])
def test_standardised_kernels_are_clipped_in_closed_form(layer):
    """Where positions are few against channels, as in the last stage of WRN-16-4."""
    inputs = keras.Input((4, 4, 32))
    x = layer(32, 3, padding="same", name="conv")(inputs)
    x = keras.layers.GroupNormalization(4, name="norm")(x)
    model = DPModel(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    model.compile(DPSGD(2.0, noise_multiplier=3.0), "mse")
    x, y = np.zeros((4, 4, 4, 32), "float32"), np.zeros((4, 3), "float32")
    rows = clipping.explain(model, x, y, print_fn=lambda text: None).rows
    rules = {path: row.rule for row in rows for path in row.weights}
    assert rules["conv/kernel"] == "convolution, gram, standardised"
    assert rules["norm/gamma"] == rules["norm/beta"] == "written out"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: A.WideResNet(17), "6 n \\+ 4"),
        (lambda: A.NFResNet(51), "must be one of \\[50, 101"),
        (lambda: A.ResNetV2(()), "Each stage must have a block"),
        (lambda: A.ResNetV2(18, bottleneck=True), "Depth 18 has `bottleneck=False`"),
        (lambda: A.ViT("B16"), 'such as "B/16"'),
        (lambda: A.ViT("B/16", (100, 96, 3)), "Patches of 16 pixels"),
        (lambda: A.ViTSizes(4, 10, 1, 3, 8), "`heads` must divide"),
    ],
)
def test_sizes_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["wide_resnet", "nf_resnet", "resnet_v2", "bit_resnet", "vit"])
def test_without_classes_a_model_gives_what_its_head_reads(name):
    make = {
        "wide_resnet": lambda classes: A.WideResNet(10, 1, (8, 8, 3), classes),
        "nf_resnet": lambda classes: A.NFResNet((1,), (8, 8, 3), classes, width=1),
        "resnet_v2": lambda classes: A.ResNetV2((1,), (8, 8, 3), classes),
        "bit_resnet": lambda classes: A.BiTResNet((1,), 1, (8, 8, 3), classes),
        "vit": lambda classes: A.ViT(SIZES, (8, 8, 3), classes, dropout=0.1),
    }[name]
    whole, backbone = unmade(lambda: make(7)), unmade(lambda: make(None))
    assert backbone.output_shape == (None, whole.get_layer("head").kernel.shape[0])
    assert len(backbone.variables) == len(whole.variables) - 2
