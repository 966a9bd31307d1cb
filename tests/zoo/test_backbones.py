"""Published architectures: the clipped sum equals the loop over examples.

Runs only with `KERAS_DP_ZOO`, see `conftest.py`; it needs keras_cv and keras_hub.
"""

import jax
import keras
import numpy as np
import pytest

from tests.zoo import backbones_cv, backbones_hub, grammar, oracle, report

FAMILIES = {**backbones_cv.FAMILIES, **backbones_hub.FAMILIES}
SIZE = 3
CLASSES = 3
POSITIONS = 6


def freeze_batch_normalization(model):
    """Batch statistics mix examples, so private training needs them frozen."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


def pooled(features):
    """Average every feature map over its positions, and put them side by side."""
    maps = jax.tree.leaves(features, is_leaf=lambda leaf: hasattr(leaf, "ndim"))
    pool = keras.layers.GlobalAveragePooling1D
    vectors = [
        pool()(keras.layers.Reshape((-1, m.shape[-1]))(m)) if m.ndim > 2 else m for m in maps
    ]
    return vectors[0] if len(vectors) == 1 else keras.layers.Concatenate()(vectors)


def data_for(rng, name, tensor):
    shape = (SIZE, *(POSITIONS if n is None else n for n in tensor.shape[1:]))
    if "mask" in name:
        mask = np.ones(shape, "int32")
        mask[0, -2:] = 0  # one text is shorter
        return mask
    if "segment" in name:
        return rng.integers(0, 2, size=shape).astype("int32")
    if "int" in str(tensor.dtype):
        return rng.integers(0, backbones_hub.VOCABULARY, size=shape).astype("int32")
    return rng.normal(size=shape).astype("float32")


def case(name, seed=0):
    """Put a classifier on the backbone, with random weights and data."""
    backbone = FAMILIES[name]()
    freeze_batch_normalization(backbone)
    inputs = backbone.input
    outputs = keras.layers.Dense(CLASSES)(pooled(backbone(inputs)))
    model = keras.Model(inputs, [outputs])
    rng = np.random.default_rng(seed)
    grammar.randomise(rng, model)
    named = inputs if isinstance(inputs, dict) else {"image": inputs}
    x = {key: data_for(rng, key, tensor) for key, tensor in named.items()}
    y = [rng.integers(0, CLASSES, SIZE).astype("int32")]
    loss = [keras.losses.SparseCategoricalCrossentropy(from_logits=True)]
    return grammar.Drawn(model, x if isinstance(inputs, dict) else x["image"], y, loss, name)


@pytest.mark.parametrize("name", FAMILIES)
def test_clipped_sum_of_a_backbone_equals_the_loop_over_examples(name, record_property):
    jax.clear_caches()
    entry = report.note(record_property, report.BACKBONES, name)
    entry.update(oracle.check(case(name)).as_dict())
