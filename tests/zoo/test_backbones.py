"""Published architectures: the clipped sum equals the loop over examples.

Runs only with `KERAS_DP_ZOO`, see `conftest.py`; it needs keras_cv and keras_hub.
"""

import jax
import keras
import numpy as np
import pytest

from tests.zoo import (
    backbones_cv,
    backbones_hub,
    backbones_hub_image,
    backbones_hub_several,
    backbones_hub_text,
    grammar,
    oracle,
    report,
)

MODULES = (backbones_cv, backbones_hub_image, backbones_hub_text, backbones_hub_several)
FAMILIES = {name: build for module in MODULES for name, build in module.FAMILIES.items()}
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
    vectors = [vector_of(m) for m in maps]
    return vectors[0] if len(vectors) == 1 else keras.layers.Concatenate()(vectors)


def vector_of(feature):
    if feature.ndim > 2:
        rows = keras.layers.Reshape((-1, feature.shape[-1]))(feature)
        return keras.layers.GlobalAveragePooling1D()(rows)
    if feature.shape[-1] is None:  # a mask, or how well every image of the batch fits a text
        return keras.ops.mean(keras.ops.cast(feature, "float32"), axis=-1, keepdims=True)
    return feature


def places(rng, shape):
    """Draw different places in a text, where the parts of an image or a sound go."""
    order = rng.permuted(np.tile(np.arange(POSITIONS), (shape[0], 1)), axis=1)
    return np.sort(order[:, : shape[1]])


def grid(rng, shape):
    """Return the row and column of every patch of square images."""
    side = round(shape[-2] ** 0.5)
    return np.broadcast_to(np.indices((side, side)).reshape(2, -1).T, shape)


def boxes(rng, shape):
    """Draw boxes; the first of five numbers is the example's place in the batch of one."""
    drawn = rng.uniform(0.2, 0.6, size=shape)
    if shape[-1] == 5:
        drawn[..., 0] = 0
    return drawn


VALUES = {
    "input_features_mask": lambda rng, shape: np.broadcast_to(  # true where nothing is heard
        np.arange(shape[-1]) >= shape[-1] - 2, shape
    ),
    "vision_indices": places,
    "audio_indices": places,
    "pixel_position_ids": grid,
    "position_ids": lambda rng, shape: np.broadcast_to(np.arange(shape[1]), shape),
    "boxes": boxes,
    "labels": lambda rng, shape: rng.integers(0, 2, size=shape),
    "box_labels": lambda rng, shape: rng.integers(0, 2, size=shape),
    "num_steps": lambda rng, shape: rng.integers(3, 6, size=shape),
}


def data_for(rng, tensor, open_sizes=()):
    sizes = iter(open_sizes)
    shape = (SIZE, *(next(sizes, POSITIONS) if n is None else n for n in tensor.shape[1:]))
    name, dtype = tensor.name, str(tensor.dtype)
    if name in VALUES:
        return VALUES[name](rng, shape).astype(dtype)
    if "float" in dtype:
        return rng.normal(size=shape).astype(dtype)
    if "mask" in name:
        mask = np.ones(shape, dtype)
        mask[0, ..., -2:] = 0  # one text is shorter
        return mask
    if "segment" in name:
        return rng.integers(0, 2, size=shape).astype(dtype)
    return rng.integers(0, backbones_hub.VOCABULARY, size=shape).astype(dtype)


def case(name, seed=0):
    """Put a classifier on the backbone, with random weights and data."""
    backbone = FAMILIES[name]()
    freeze_batch_normalization(backbone)
    inputs = backbone.input
    outputs = keras.layers.Dense(CLASSES)(pooled(backbone(inputs)))
    model = keras.Model(inputs, [outputs])
    rng = np.random.default_rng(seed)
    grammar.randomise(rng, model)
    sizes = backbones_hub_several.OPEN_SIZES.get(name, {})
    x = keras.tree.map_structure(lambda t: data_for(rng, t, sizes.get(t.name, ())), inputs)
    y = [rng.integers(0, CLASSES, SIZE).astype("int32")]
    loss = [keras.losses.SparseCategoricalCrossentropy(from_logits=True)]
    return grammar.Drawn(model, x, y, loss, name)


@pytest.mark.parametrize("name", FAMILIES)
def test_clipped_sum_of_a_backbone_equals_the_loop_over_examples(name, record_property):
    jax.clear_caches()
    entry = report.note(record_property, report.BACKBONES, name)
    entry.update(oracle.check(case(name)).as_dict())


class Built(str):
    """The name of a class, where a model of it would be; its methods give an empty result."""

    def __getattr__(self, name):
        return lambda *arguments: {}


class Names:
    """Stands for the models or layers of a library, and builds only names."""

    def __getattr__(self, name):
        return lambda **settings: Built(name)


def is_architecture(model):
    """Tell a class with an architecture of its own from a base and from the alias of a preset."""
    return model.__name__ not in {"Backbone", "FeaturePyramidBackbone"} and "__new__" not in vars(
        model
    )


def test_every_backbone_class_is_built_or_left_out_with_a_reason(monkeypatch):
    libraries = {"keras_cv": backbones_cv.models(), "keras_hub": backbones_hub.models()}
    for module in MODULES:
        for stands_for_library in ("models", "layers"):
            monkeypatch.setattr(module, stands_for_library, Names, raising=False)
    built = {f"{name.split()[0]} {build()}" for name, build in FAMILIES.items()}
    classes = {
        f"{library} {model.__name__}"
        for library, models in libraries.items()
        for name, model in vars(models).items()
        if name.endswith("Backbone") and is_architecture(model)
    }
    assert classes - built - set(backbones_hub.LEFT_OUT) == set()
    assert built <= classes
