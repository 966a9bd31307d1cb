"""TensorFlow Privacy against ordinary Keras 2: a part of the clipping benchmark.

Started by `clipping.py --tfp-python`; needs tensorflow 2.15.1 and tensorflow-privacy 0.9.0. Prints
JSON on the last line. A step is the `train_step` of a Keras model, compiled by XLA as that library
does by itself. Without noise, but with a plain SGD update, which its step cannot leave out.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import clipping_timing
import numpy as np
import tensorflow as tf
import tensorflow_privacy
from tensorflow_privacy.privacy.fast_gradient_clipping import layer_registry

CLIP_NORM = 1.0
RATE = 0.1
TOLERANCE = 1e-4
SEED = 20
layers = tf.keras.layers


def mlp():
    """As `clipping_models.mlp`."""
    hidden = [layers.Dense(1024, activation="relu") for _ in range(3)]
    return [layers.Input((784,)), *hidden, layers.Dense(10)]


def section_d():
    """As `keras_dp.applications.TanhCNN`."""
    return [
        layers.Input((28, 28, 1)),
        layers.ZeroPadding2D(2),
        layers.Conv2D(16, 8, strides=2, activation="tanh"),
        layers.MaxPooling2D(2, strides=1),
        layers.Conv2D(32, 4, strides=2, activation="tanh"),
        layers.MaxPooling2D(2, strides=1),
        layers.Flatten(),
        layers.Dense(32, activation="tanh"),
        layers.Dense(10),
    ]


MODELS = {"mlp": (mlp, 256, (784,)), "section_d": (section_d, 256, (28, 28, 1))}


def ordinary_model(stack):
    """Ordinary training, compiled by XLA."""
    return tf.keras.Sequential(stack)


def private_model(stack, registry=None):
    """Per-example gradients by `vectorized_map`, or norms by a layer registry."""
    return tensorflow_privacy.DPSequential(
        l2_norm_clip=CLIP_NORM, noise_multiplier=0.0, layer_registry=registry, layers=stack
    )


def fast_model(stack):
    """Norms by the default layer registry, which knows dense and embedding layers only."""
    return private_model(stack, layer_registry.make_default_layer_registry())


METHODS = {"ordinary": ordinary_model, "tfp": private_model, "tfp_fast": fast_model}


def make_step(make, stack, x, y):
    """A train step of a model that starts from the fixed seed, and the change of its first call."""
    tf.keras.utils.set_random_seed(SEED)
    model = make(stack())
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.SGD(RATE), loss=loss)
    before = model.get_weights()
    train = model.train_step
    if make is ordinary_model:
        train = tf.function(train, jit_compile=True)

    def step():
        train((x, y))
        return model.trainable_variables[0].numpy()  # waits for the update

    step()
    change = [after - old for after, old in zip(model.get_weights(), before, strict=True)]
    return step, np.concatenate([leaf.ravel() for leaf in change])


def make_steps(name):
    """The steps of a model, warmed up, and the status of those that differ from the first."""
    stack, batch, shape = MODELS[name]
    draw = np.random.default_rng(SEED)
    x = tf.constant(draw.normal(size=(batch, *shape)).astype(np.float32))
    y = tf.constant(draw.integers(10, size=batch))
    steps, failed, reference = {}, {}, None
    for method, make in METHODS.items():
        if method == "tfp_fast" and name != "mlp":
            continue
        step, change = make_step(make, stack, x, y)
        if method != "ordinary":
            reference = change if reference is None else reference
            error = float(np.linalg.norm(change - reference) / np.linalg.norm(reference))
            if not error <= TOLERANCE:
                failed[method] = {"status": "disagrees", "difference": error}
                continue
        steps[method] = step
    return steps, failed


def main(argv=None):
    """Measure the chosen models and print JSON."""
    packages = {"tensorflow": tf, "tensorflow-privacy": tensorflow_privacy}
    versions = {name: package.__version__ for name, package in packages.items()}
    description = __doc__.splitlines()[0]
    clipping_timing.run(
        argv, description, MODELS, make_steps, lambda name: MODELS[name][1], versions
    )


if __name__ == "__main__":
    main()
