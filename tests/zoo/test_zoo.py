"""Random Keras models: the clipped sum equals the loop over examples.

`KERAS_DP_ZOO=300` runs that many instead of one round, see `conftest.py`.
"""

import functools
import os
import re

import jax
import keras
import numpy as np
import pytest

from keras_dp import clipping
from tests.zoo import grammar, oracle, report

ORDINARY = 30
SEEDS = range(int(os.environ.get("KERAS_DP_ZOO") or ORDINARY))
COMPILED = 25  # programs of this many models are kept; with all of them memory would run out

# Written down apart from the grammar, so that a kind which no longer draws its layer is noticed.
LAYERS = re.findall(
    r"\w+",
    """
    Activation Add AdditiveAttention Attention BatchNormalization Bidirectional Concatenate
    Conv1D Conv1DTranspose Conv2D Conv2DTranspose Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D
    Dense DepthwiseConv1D DepthwiseConv2D Dot EinsumDense Embedding Flatten GRU
    GlobalAveragePooling1D GlobalAveragePooling2D GlobalMaxPooling1D GlobalMaxPooling2D
    GroupNormalization GroupedQueryAttention LSTM LayerNormalization Masking MultiHeadAttention
    Multiply PReLU Permute RMSNormalization RNN RepeatVector Reshape SeparableConv1D
    SeparableConv2D SimpleRNN Softmax SpectralNormalization StackedRNNCells TimeDistributed
    UnitNormalization
    AddedLoss Bilinear ClassToken DataBranch Experts FourierFilter Mapped MinimalCell OddShapes
    Scale ScannedLayers StandardisedConv StraightThrough Unused WeightNorm WeightProduct
""",
)


@functools.lru_cache(maxsize=ORDINARY)
def drawn(seed):
    return grammar.draw(seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_clipped_sum_of_a_random_model_equals_the_loop_over_examples(seed, record_property):
    if seed % COMPILED == 0:
        jax.clear_caches()
    model = drawn(seed)
    entry = report.note(record_property, report.MODELS, f"seed {seed}", model.kinds)
    entry.update(oracle.check(model).as_dict())


def test_the_ordinary_seeds_have_every_kind_of_layer():
    models = [drawn(seed) for seed in range(ORDINARY)]
    assert {kind for model in models for kind in model.kinds} == set(grammar.KINDS)
    for model in models:
        assert all(f"{kind}:" in model.description for kind in model.kinds)
    words = " ".join(model.description for model in models)
    assert [layer for layer in LAYERS if f"{layer}(" not in words] == []
    assert words.count("enable_lora()") >= 3


def test_a_seed_gives_the_same_model_weights_and_data_again():
    first, second = grammar.draw(7), grammar.draw(7)
    assert first.description == second.description
    arrays = [
        jax.tree.leaves(([v.numpy() for v in m.model.variables], m.x, m.y)) for m in (first, second)
    ]
    for a, b in zip(*arrays, strict=True):
        np.testing.assert_array_equal(a, b)


def wrong_leaf(result):
    leaf = result.grads[1] * (1 + 1e-3)
    return result._replace(grads=[result.grads[0], leaf, *result.grads[2:]])


def wrong_norm(result):
    return result._replace(norms=result.norms.at[0].multiply(1 + 1e-4))


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (wrong_leaf, r"gradient of dense\w*/bias \(2,\) of the model with seed 5.*Dense\(2"),
        (wrong_norm, r"norms of the model with seed 5.*Dense\(2"),
    ],
)
def test_a_wrong_result_is_found_and_named(mistake, message, monkeypatch):
    inputs = keras.Input((3,), name="x0")
    model = keras.Model({"x0": inputs}, [keras.layers.Dense(2, name="dense")(inputs)])
    rng = np.random.default_rng(0)
    x = {"x0": rng.normal(size=(3, 3)).astype("float32")}
    y = [rng.normal(size=(3, 2)).astype("float32")]
    loss = [keras.losses.MeanSquaredError()]
    case = grammar.Drawn(model, x, y, loss, "seed 5: Dense(2)")
    oracle.check(case)  # fine as it is
    right = clipping.clipped_sum
    monkeypatch.setattr(
        clipping, "clipped_sum", lambda *a, **k: lambda *b: mistake(right(*a, **k)(*b))
    )
    with pytest.raises(AssertionError, match=message):
        oracle.check(case)
