"""Tests of the images: what is read, where it is looked for, and what a damaged file says."""

import gzip
import hashlib
import io
import re

import numpy as np
import pytest
from sklearn.datasets import load_digits

from experiments.lab import data as _data

SIZES = {"train": 12, "test": 5}
SYSTEM = _data.SYSTEM


def idx(array):
    """Return the idx file of an array of bytes."""
    head = bytes([0, 0, 8, array.ndim]) + np.asarray(array.shape, ">u4").tobytes()
    return head + array.tobytes()


def arrays():
    """Return small images and labels by the names of `_data.FILES`."""
    rng = np.random.default_rng(0)
    images = {f"{kind}_images": (n, 4, 3) for kind, n in SIZES.items()}
    labels = {f"{kind}_labels": (n,) for kind, n in SIZES.items()}
    return {
        **{part: rng.integers(0, 256, shape, np.uint8) for part, shape in images.items()},
        **{part: (np.arange(*shape) % 3).astype(np.uint8) for part, shape in labels.items()},
    }


def written(folder, packed=True, **changes):
    """Write the four files; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, array in (arrays() | changes).items():
        contents = array if isinstance(array, bytes) else idx(array)
        name = _data.FILES[part]
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(contents))
        else:
            (folder / name).write_bytes(contents)
    return folder


@pytest.fixture
def known(monkeypatch):
    """Let the small files be the published ones."""
    digests = {part: hashlib.sha256(idx(x)).hexdigest() for part, x in arrays().items()}
    monkeypatch.setattr(_data, "FASHION_MNIST", digests)


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch, tmp_path):
    """Let nothing be found but what a test writes."""
    monkeypatch.delenv("NESTED_JAX_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(_data, "SYSTEM", tmp_path / "system")


def test_digits_are_scikit_learns():
    images = _data.load()
    pixels, labels = load_digits(return_X_y=True)
    together = np.concatenate([images.train_images, images.test_images])
    assert together.shape == pixels.shape
    assert {x.dtype for x in images[:4]} == {np.dtype("float32"), np.dtype("int32")}
    # As sets of rows with their labels: each example is there once.
    given = np.column_stack([pixels, labels])
    found = np.column_stack(
        [together * 16, np.concatenate([images.train_labels, images.test_labels])]
    )
    np.testing.assert_array_equal(np.unique(found, axis=0), np.unique(given, axis=0))
    assert images.classes == 10
    assert images.shape == (8, 8)
    assert "1,438 training and 359 test images of 8 × 8 pixels in 10 classes" in images.origin


@pytest.mark.parametrize("packed", [True, False])
def test_a_folder_of_idx_files(packed, tmp_path):
    images = _data.load(written(tmp_path / "letters", packed))
    expected = arrays()
    for kind in SIZES:
        pixels = expected[f"{kind}_images"].reshape(SIZES[kind], 12) / 255
        np.testing.assert_allclose(getattr(images, f"{kind}_images"), pixels, rtol=1e-7)
        np.testing.assert_array_equal(getattr(images, f"{kind}_labels"), expected[f"{kind}_labels"])
    assert (images.name, images.shape, images.classes) == ("letters", (4, 3), 3)
    assert images.licence == "licence unknown"
    assert str(tmp_path / "letters") in images.origin


def test_names_with_a_dot_are_found(tmp_path):
    folder = written(tmp_path, packed=False)
    (folder / "t10k-labels-idx1-ubyte").rename(folder / "t10k-labels.idx1-ubyte")
    assert _data.load(folder).classes == 3


@pytest.mark.usefixtures("known")
def test_known_contents_are_called_by_their_name(tmp_path):
    images = _data.load(written(tmp_path / "copy"))
    assert (images.name, images.licence) == ("Fashion-MNIST", "MIT")


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("place", ["given/fashion-mnist", "given", "system", "cache"])
def test_places_of_fashion_mnist(place, tmp_path, monkeypatch):
    if place.startswith("given"):
        monkeypatch.setenv("NESTED_JAX_DATA", str(tmp_path / "given"))
    below = "cache/nested_jax/fashion-mnist" if place == "cache" else place
    written(tmp_path / below)
    images = _data.load("fashion-mnist")
    assert images.source == str(tmp_path / below)
    assert images.name == "Fashion-MNIST"


def test_fashion_mnist_that_is_nowhere_is_said_to_be(tmp_path):
    with pytest.raises(_data.DataError, match="dataset-fashion-mnist") as error:
        _data.load("fashion-mnist")
    assert str(tmp_path / "system") in str(error.value)
    assert "--download" in str(error.value)
    assert "\n" not in str(error.value)


def test_other_images_are_not_called_fashion_mnist(tmp_path):
    written(tmp_path / "system")
    path = tmp_path / "system" / "train-images-idx3-ubyte.gz"
    with pytest.raises(_data.DataError, match=f"^{re.escape(str(path))} is not Fashion-MNIST's"):
        _data.load("fashion-mnist")


IMAGES = "train-images-idx3-ubyte"


@pytest.mark.parametrize(
    ("part", "contents", "message"),
    [
        (
            "train_images",
            b"",
            f"{IMAGES} is not an idx file with 3 dimensions: it begins with",
        ),
        ("train_images", b"\0\0\x08\x03\0\0", f"{IMAGES} is cut off: its header has 6 of 16 bytes"),
        (
            "train_images",
            b"\0\0\x0d\x03" + bytes(12),
            f"{IMAGES} is not an idx file with 3 dimensions: it begins with 00000d03 and not",
        ),
        (
            "train_images",
            idx(np.zeros(12, np.uint8)),
            f"{IMAGES} is not an idx file with 3 dimensions: it begins with 00000801 and not",
        ),
        (
            "train_images",
            idx(np.zeros((12, 4, 3), np.uint8))[:-1],
            f"{IMAGES} is cut off: 144 bytes of data are announced, 143 there.",
        ),
        (
            "train_images",
            idx(np.zeros((12, 4, 3), np.uint8)) + b"1",
            f"{IMAGES} is too long: 144 bytes of data are announced, 145 there.",
        ),
        ("train_images", idx(np.zeros((0, 4, 3), np.uint8)), f"{IMAGES} is empty: its shape is"),
        (
            "train_labels",
            idx(np.zeros(11, np.uint8)),
            "train-labels-idx1-ubyte holds 11 labels, and there are 12 train images.",
        ),
        (
            "test_images",
            idx(np.zeros((5, 3, 4), np.uint8)),
            "t10k-images-idx3-ubyte holds images of (3, 4) pixels, and the training images have",
        ),
    ],
)
def test_a_wrong_file_is_named(part, contents, message, tmp_path):
    folder = written(tmp_path / "a", packed=False, **{part: contents})
    with pytest.raises(_data.DataError, match=re.escape(f"{folder}/{message}")):
        _data.load(folder)


@pytest.mark.parametrize("damage", ["cut", "changed", "not gzip"])
def test_a_damaged_file_is_named(damage, tmp_path):
    path = written(tmp_path) / "t10k-images-idx3-ubyte.gz"
    packed = bytearray(path.read_bytes())
    if damage == "cut":
        del packed[-20:]
    elif damage == "changed":
        packed[40] ^= 1
    else:
        packed[0] = 0
    path.write_bytes(packed)
    with pytest.raises(_data.DataError, match=f"^{re.escape(str(path))} is damaged: it cannot be"):
        _data.load(tmp_path)


def test_a_folder_without_a_file_is_told(tmp_path):
    (written(tmp_path) / "t10k-labels-idx1-ubyte.gz").unlink()
    rule = '`--data` must be "digits", "fashion-mnist" or a folder of idx files'
    with pytest.raises(_data.DataError, match=f"^{rule}.* has no t10k-labels-idx1-ubyte"):
        _data.load(tmp_path)
    with pytest.raises(_data.DataError, match="has no train-images-idx3-ubyte"):
        _data.load("fashion")


@pytest.fixture
def server(monkeypatch):
    """Serve the small files in place of the network; return what was asked for, and the files."""
    asked, files = [], {}
    for part, array in arrays().items():
        files[f"{_data.FILES[part]}.gz"] = gzip.compress(idx(array))

    def urlopen(address, timeout):
        asked.append(address)
        assert address.startswith(_data.ADDRESS)
        assert timeout == _data.SECONDS
        return io.BytesIO(files[address.removeprefix(_data.ADDRESS)])

    monkeypatch.setattr(_data.urllib.request, "urlopen", urlopen)
    return asked, files


@pytest.mark.usefixtures("known")
def test_download_fetches_what_is_missing_once(server, tmp_path):
    asked, _ = server
    folder = tmp_path / "cache" / "nested_jax" / "fashion-mnist"
    images = _data.load("fashion-mnist", download=True)
    assert (images.name, images.source, len(asked)) == ("Fashion-MNIST", str(folder), 4)
    assert len([*folder.iterdir()]) == 4
    assert _data.load("fashion-mnist", download=True).classes == 3
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    assert _data.load("fashion-mnist", download=True).classes == 3
    assert len(asked) == 5


@pytest.mark.usefixtures("known")
def test_a_download_of_other_contents_is_refused_and_not_kept(server, tmp_path):
    _, files = server
    files["train-labels-idx1-ubyte.gz"] = gzip.compress(b"<html>not found</html>")
    message = "train-labels-idx1-ubyte.gz is not Fashion-MNIST's"
    with pytest.raises(_data.DataError, match=message):
        _data.load("fashion-mnist", download=True)
    folder = tmp_path / "cache" / "nested_jax" / "fashion-mnist"
    assert [path.name for path in folder.iterdir()] == ["train-images-idx3-ubyte.gz"]


def test_a_server_that_cannot_be_reached_is_told(monkeypatch):
    def urlopen(address, timeout):
        raise OSError("no route")

    monkeypatch.setattr(_data.urllib.request, "urlopen", urlopen)
    with pytest.raises(_data.DataError, match=r"could not be downloaded \(no route\)"):
        _data.load("fashion-mnist", download=True)


@pytest.mark.skipif(not SYSTEM.is_dir(), reason="Debian's package is not installed")
def test_the_system_files_are_fashion_mnist(monkeypatch):
    monkeypatch.setattr(_data, "SYSTEM", SYSTEM)
    images = _data.load("fashion-mnist")
    assert images.train_images.shape == (60_000, 784)
    assert images.test_images.shape == (10_000, 784)
    np.testing.assert_array_equal(np.bincount(images.train_labels), [6000] * 10)


def test_validation_images_are_training_images_and_no_test_images(tmp_path):
    images = _data.load(written(tmp_path / "made", train_images=distinct()))
    tuning = _data.with_validation(images, seed=3)
    assert (len(tuning.train_labels), len(tuning.test_labels)) == (7, 5)
    # Every training image is in one part, with its label.
    for parts, whole in (
        ((tuning.train_images, tuning.test_images), images.train_images),
        ((tuning.train_labels, tuning.test_labels), images.train_labels),
    ):
        together = np.concatenate([part.reshape(len(part), -1) for part in parts])
        assert sorted(map(tuple, together)) == sorted(map(tuple, whole.reshape(len(whole), -1)))
    order = [int(np.flatnonzero((images.train_images == x).all(1))[0]) for x in tuning.test_images]
    np.testing.assert_array_equal(images.train_labels[order], tuning.test_labels)
    # The seed decides the split; another seed gives another.
    again, other = (_data.with_validation(images, seed=seed) for seed in (3, 4))
    np.testing.assert_array_equal(again.test_images, tuning.test_images)
    assert (other.test_images != tuning.test_images).any()


def test_validation_takes_at_most_half_of_the_training_images(tmp_path):
    images = _data.load(written(tmp_path / "made"))
    few = images._replace(train_images=images.train_images[:5], train_labels=np.arange(5))
    assert len(_data.with_validation(few).test_labels) == 2
    one = images._replace(train_images=images.train_images[:1], train_labels=np.arange(1))
    with pytest.raises(_data.DataError, match="needs at least 2 training images, got 1"):
        _data.with_validation(one)


def distinct():
    """Return training images that differ from each other."""
    return np.arange(SIZES["train"] * 12, dtype=np.uint8).reshape(SIZES["train"], 4, 3)
