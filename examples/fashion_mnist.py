"""Train a small CNN on Fashion-MNIST under a privacy budget, and draw what it cost.

    python examples/fashion_mnist.py --epsilon 3 --epochs 10

Shows Keras' progress bar with epsilon, prints the privacy statement, and writes a picture of
accuracy and epsilon over the updates.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras

import keras_dp
from data import ImageData, load_images


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epsilon", type=float, default=3.0, help="budget (default 3)")
    parser.add_argument("--delta", type=float, default=1e-5, help="budget (default 1e-5)")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the data (default 10)")
    parser.add_argument("--batch-size", type=int, default=2048, help="expected examples an update")
    parser.add_argument("--limit", type=int, default=None, help="keep only the first N images")
    parser.add_argument("--picture", type=Path, default=Path("fashion_mnist.png"))
    parser.add_argument("--model", type=Path, default=None, help="save the model as .keras here")
    return parser.parse_args(argv)


def compile_model(model: keras_dp.DPModel, budget: keras_dp.Budget) -> None:
    """Compile with the settings of Tramer and Boneh; the noise follows from the budget."""
    model.compile(
        optimizer=keras_dp.optimizers.DPSGD(learning_rate=4.0, momentum=0.9, clip_norm=0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        budget=budget,
    )


def draw(history: dict[str, list[float]], updates: int, data: ImageData, path: Path) -> None:
    """Draw test accuracy and epsilon over the updates into one picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    epochs = len(history["epsilon"])
    at = [round(updates * (epoch + 1) / epochs) for epoch in range(epochs)]
    figure, left = plt.subplots(figsize=(7, 4), layout="constrained")
    left.plot(at, [100 * a for a in history["val_accuracy"]], "o-", color="tab:blue")
    left.set_xlabel("updates")
    left.set_ylabel("test accuracy (%)", color="tab:blue")
    left.grid(alpha=0.3)
    right = left.twinx()
    right.plot(at, history["epsilon"], "s--", color="tab:red")
    right.set_ylabel("epsilon", color="tab:red")
    right.set_ylim(bottom=0)
    left.set_title(f"Private training on {data.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(argv: list[str] | None = None) -> dict[str, list[float]]:
    """Train, report and draw; returns the history."""
    arguments = parse(argv)
    data = load_images(arguments.limit)
    print(f"{data.name}: {len(data.x_train):,} images to train on, from {data.source}")
    batch_size = min(arguments.batch_size, len(data.x_train) // 10)
    model = keras_dp.applications.TanhCNN()
    compile_model(model, keras_dp.Budget(arguments.epsilon, arguments.delta))
    history = model.fit(
        data.x_train,
        data.y_train,
        batch_size=batch_size,
        epochs=arguments.epochs,
        validation_data=(data.x_test, data.y_test),
        callbacks=[keras_dp.callbacks.PrivacyBudget(arguments.epsilon, arguments.delta)],
    ).history
    print(f"\n{model.privacy_statement()}\n")
    print(f"Test accuracy: {100 * history['val_accuracy'][-1]:.1f} %")
    draw(history, model.privacy_spent().updates, data, arguments.picture)
    print(f"Picture: {arguments.picture}")
    if arguments.model is not None:
        model.save(arguments.model)
        print(f"Model: {arguments.model}")
    return history


if __name__ == "__main__":
    main()
