"""The images that the examples train on, without a download where one can be avoided.

Fashion-MNIST, from the first of these that has it: the folder that the environment variable
`KERAS_DP_DATA` names, Debian's package `dataset-fashion-mnist`, the download in Keras. Where none
does, scikit-learn's small handwritten digits take its place, and a note says so.
"""

import contextlib
import gzip
import math
import os
import socket
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
IMAGES_MAGIC = 0x00000803  # unsigned bytes, three dimensions
LABELS_MAGIC = 0x00000801  # unsigned bytes, one dimension
NETWORK_TIMEOUT = 10.0  # seconds without an answer
DIGITS_FOR_TRAINING = 1_500  # of 1,797; the rest is the test set

Split = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class ImageData:
    """Images in ten classes.

    Attributes:
        name: Short name of the data set.
        x_train: float32 array of shape `(examples, 28, 28, 1)`, from 0 to 1.
        y_train: int32 array of shape `(examples,)`, from 0 to 9.
        x_test: Like `x_train`.
        y_test: Like `y_train`.
        source: Where the images came from, for the reader of a report.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    source: str


def load_images(limit: int | None = None) -> ImageData:
    """Return Fashion-MNIST, or scikit-learn's digits where it cannot be had.

    Args:
        limit: Number of examples to keep of each split, from the first on; `None` keeps all.

    Raises:
        ValueError: when a file is not what it should be, or `limit` is not above 0.
        FileNotFoundError: when `KERAS_DP_DATA` names a folder that lacks one of the files.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, or None for all examples; got {limit}.")
    chosen = os.environ.get("KERAS_DP_DATA")
    if chosen:
        return _fashion_mnist(read_folder(Path(chosen)), f"files in {chosen}", limit)
    if DEBIAN_FOLDER.is_dir():
        source = f"Debian's package dataset-fashion-mnist, {DEBIAN_FOLDER}"
        return _fashion_mnist(read_folder(DEBIAN_FOLDER), source, limit)
    try:
        splits = _download()
    except Exception as error:  # keras.utils.get_file raises a bare Exception
        print(
            f"Fashion-MNIST is not on this machine and could not be downloaded ({error}). "
            "Using scikit-learn's digits, a far smaller and easier data set. "
            "On Debian: apt-get install dataset-fashion-mnist.",
            file=sys.stderr,
        )
        return _digits(limit)
    return _fashion_mnist(splits, "download by keras.datasets.fashion_mnist", limit)


def read_folder(folder: Path) -> tuple[Split, Split]:
    """Return the training and the test split from the four idx files in a folder."""
    train, test = (
        (
            read_idx(_find(folder, f"{prefix}-images-idx3-ubyte"), IMAGES_MAGIC),
            read_idx(_find(folder, f"{prefix}-labels-idx1-ubyte"), LABELS_MAGIC),
        )
        for prefix in ("train", "t10k")
    )
    for images, labels in (train, test):
        if len(images) != len(labels):
            raise ValueError(
                f"{folder} has {len(images)} images but {len(labels)} labels in one split; "
                "fetch the four files again, all from one data set."
            )
    return train, test


def read_idx(path: Path, magic: int) -> np.ndarray:
    """Return the array in an idx file of unsigned bytes.

    The file has a magic number whose last byte is the number of dimensions, the dimensions, and
    the values; the numbers are big-endian and have 32 bits.

    Args:
        path: The file, gzipped when its name ends in `.gz`.
        magic: The magic number that the file must start with.

    Raises:
        ValueError: when the file is damaged, of another kind, too short or too long.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file ({error}); fetch it again.") from error
    dimensions = magic & 0xFF
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise ValueError(
            f"{path} must start with a header of {start} bytes, but has {len(content)} bytes in "
            "all; fetch it again."
        )
    found, *shape = struct.unpack(f">{1 + dimensions}I", content[:start])
    if found != magic:
        raise ValueError(
            f"{path} must start with the magic number {magic:#010x}, but starts with "
            f"{found:#010x}: it is not the file that its name says."
        )
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"{path} must have {math.prod(shape)} values for its shape {tuple(shape)}, but has "
            f"{len(content) - start}; fetch it again."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder} must hold {name}.gz or {name}, but has neither.")


def _download() -> tuple[Split, Split]:
    import keras  # here, so that the backend is chosen by then

    with _network_timeout(NETWORK_TIMEOUT):
        return keras.datasets.fashion_mnist.load_data()


@contextlib.contextmanager
def _network_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _fashion_mnist(splits: tuple[Split, Split], source: str, limit: int | None) -> ImageData:
    return _image_data("Fashion-MNIST", splits, 255, source, limit)


def _digits(limit: int | None) -> ImageData:
    from sklearn.datasets import load_digits  # only the demo extra has scikit-learn

    images, labels = load_digits(return_X_y=True)
    nearest = np.arange(28) * 8 // 28
    images = images.reshape(-1, 8, 8)[:, nearest][:, :, nearest]
    train, test = slice(DIGITS_FOR_TRAINING), slice(DIGITS_FOR_TRAINING, None)
    splits = (images[train], labels[train]), (images[test], labels[test])
    return _image_data("digits", splits, 16, "scikit-learn's digits, enlarged from 8x8", limit)


def _image_data(
    name: str, splits: tuple[Split, Split], brightest: int, source: str, limit: int | None
) -> ImageData:
    (x_train, y_train), (x_test, y_test) = (
        (
            np.float32(images[:limit, ..., np.newaxis]) / np.float32(brightest),
            np.int32(labels[:limit]),
        )
        for images, labels in splits
    )
    return ImageData(name, x_train, y_train, x_test, y_test, source)
