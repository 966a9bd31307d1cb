import gzip
import socket
import struct

import keras
import numpy as np
import pytest

import data

TRAIN = 5
TEST = 3


def idx(array, magic):
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


def write_splits(folder, compress=True):
    """Write the four files; every image is filled with a value that tells it from the others."""
    for prefix, count, first in (("train", TRAIN, 51), ("t10k", TEST, 204)):
        fill = np.arange(first, first + count, dtype=np.uint8)
        images = np.broadcast_to(fill[:, None, None], (count, 28, 28))
        contents = {
            f"{prefix}-images-idx3-ubyte": idx(images, 0x803),
            f"{prefix}-labels-idx1-ubyte": idx(np.arange(count, dtype=np.uint8), 0x801),
        }
        for name, content in contents.items():
            if compress:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def no_data(monkeypatch, tmp_path):
    """Make a machine without Fashion-MNIST and without a network."""

    def fail():
        raise Exception("URL fetch failure on somewhere: None -- no route")

    monkeypatch.delenv("KERAS_DP_DATA", raising=False)
    monkeypatch.setattr(data, "DEBIAN_FOLDER", tmp_path / "absent")
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", fail)


@pytest.mark.parametrize("compress", [True, False])
def test_images_of_the_named_folder_are_scaled_to_one_and_have_a_channel_axis(
    no_data, monkeypatch, tmp_path, compress
):
    monkeypatch.setenv("KERAS_DP_DATA", str(write_splits(tmp_path, compress)))
    images = data.load_images()
    assert images.name == "Fashion-MNIST"
    assert str(tmp_path) in images.source
    assert images.x_train.shape == (TRAIN, 28, 28, 1)
    assert images.x_test.shape == (TEST, 28, 28, 1)
    assert images.x_train.dtype == images.x_test.dtype == np.float32
    assert images.y_train.dtype == images.y_test.dtype == np.int32
    np.testing.assert_array_equal(images.y_train, range(TRAIN))
    np.testing.assert_allclose(images.x_train[0], 0.2)
    np.testing.assert_allclose(images.x_test[0], 0.8)


def test_debian_folder_is_read_when_no_folder_is_named(no_data, monkeypatch, tmp_path):
    monkeypatch.setattr(data, "DEBIAN_FOLDER", write_splits(tmp_path))
    images = data.load_images()
    assert "Debian" in images.source
    assert len(images.x_train) == TRAIN


def test_download_is_taken_when_no_folder_has_the_files(no_data, monkeypatch):
    split = np.full((4, 28, 28), 255, np.uint8), np.zeros(4, np.uint8)
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", lambda: (split, split))
    images = data.load_images()
    assert "download" in images.source
    np.testing.assert_array_equal(images.x_test, 1.0)


def test_limit_keeps_the_first_examples_of_each_split(no_data, monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_DP_DATA", str(write_splits(tmp_path)))
    images = data.load_images(limit=2)
    assert images.x_train.shape == images.x_test.shape == (2, 28, 28, 1)
    np.testing.assert_array_equal(images.y_test, [0, 1])


def test_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="limit must be at least 1"):
        data.load_images(limit=0)


def test_digits_stand_in_and_say_so_when_nothing_else_is_there(no_data, capsys):
    before = socket.getdefaulttimeout()
    images = data.load_images()
    assert "no route" in capsys.readouterr().err
    assert images.name == "digits"
    assert len(images.x_train) + len(images.x_test) == 1_797
    assert images.x_train.shape[1:] == images.x_test.shape[1:] == (28, 28, 1)
    assert (images.x_train.min(), images.x_train.max()) == (0.0, 1.0)
    assert set(images.y_test) == set(range(10))
    assert socket.getdefaulttimeout() == before


def test_enlarged_digit_keeps_the_brightness_of_its_quarters(no_data):
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    small = sklearn_datasets.load_digits().images[0] / 16
    large = data.load_images().x_train[0, :, :, 0]
    for rows in (slice(0, 4), slice(4, 8)):
        quarter = large[rows.start * 7 // 2 : rows.stop * 7 // 2, :14]
        assert quarter.mean() == pytest.approx(small[rows, :4].mean(), abs=0.05)


def test_folder_without_a_file_is_refused(no_data, monkeypatch, tmp_path):
    (write_splits(tmp_path) / "t10k-labels-idx1-ubyte.gz").unlink()
    monkeypatch.setenv("KERAS_DP_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="must hold t10k-labels-idx1-ubyte"):
        data.load_images()


def test_splits_with_more_images_than_labels_are_refused(tmp_path):
    labels = idx(np.zeros(TRAIN - 1, np.uint8), 0x801)
    (write_splits(tmp_path) / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    with pytest.raises(ValueError, match="5 images but 4 labels"):
        data.read_folder(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(np.zeros(4, np.uint8), 0x803), "magic number 0x00000801, but starts with 0x00000803"),
        (idx(np.zeros(4, np.uint8), 0x801)[:-1], "must have 4 values .* but has 3"),
        (idx(np.zeros(4, np.uint8), 0x801) + b"\0", "must have 4 values .* but has 5"),
        (b"\0\0\x08", "header of 8 bytes, but has 3 bytes"),
        (b"", "header of 8 bytes, but has 0 bytes"),
    ],
    ids=["other magic", "too short", "too long", "half a header", "empty"],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_damaged_idx_file_is_refused_by_name(tmp_path, content, message, suffix):
    path = tmp_path / f"labels{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(ValueError, match=rf"labels.*{message}"):
        data.read_idx(path, 0x801)


@pytest.mark.parametrize("keep", [0, 5, -9], ids=["empty", "header only", "cut off"])
def test_truncated_gzip_file_is_refused_by_name(tmp_path, keep):
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(idx(np.zeros(4, np.uint8), 0x801))[:keep])
    with pytest.raises(ValueError, match=r"labels\.gz"):
        data.read_idx(path, 0x801)


def test_file_that_is_not_gzip_is_refused_by_name(tmp_path):
    path = tmp_path / "labels.gz"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"labels\.gz is not a whole gzip file"):
        data.read_idx(path, 0x801)
