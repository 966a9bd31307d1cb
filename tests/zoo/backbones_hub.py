"""What the backbone families of keras_hub share: the library, sizes, and who is left out.

Only base classes with explicit arguments: presets would ask a hub.
"""

from tests.zoo.families import load

VOCABULARY = 11
BLOCKS = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}
TEXT = {"vocabulary_size": VOCABULARY, **BLOCKS}
DECODER = {
    "vocabulary_size": VOCABULARY,
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 12,
}
# What plain JAX cannot train on one example either, and its error.
LEFT_OUT = {
    "keras_hub qwen3_5 with images": "the grid of an image sets sizes of arrays, so `jax.jit` of "
    "the plain gradient cannot trace it (ConcretizationTypeError)",
    "keras_hub dino_v3 with drop_path_rate": "DINOV3DropPath asks for noise of the shape "
    "(None, 1, 1), so that plain `jax.grad` fails (TypeError)",
}


def library():
    return load("keras_hub", "keras-hub tensorflow")


def models():
    return library().models


def layers():
    return library().layers
