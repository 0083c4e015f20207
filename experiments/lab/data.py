"""Real images: digits from scikit-learn, Fashion-MNIST, or a folder of idx files.

    images = load()                           # digits: 1,797 images of 8 x 8, in the wheel
    images = load("fashion-mnist")            # as below; `download=True` where nothing is found
    images = load("/data/mnist")              # any folder with four idx files, gzipped or not
    images.train_images, images.train_labels  # float32 (examples, pixels) in [0, 1]; int32
    print(images.origin)                      # what was read and from where, for reports
    tuning = with_validation(images, seed=0)  # training images only; chooses settings

Fashion-MNIST is looked for in `$NESTED_JAX_DATA/fashion-mnist`, in `$NESTED_JAX_DATA` itself,
where Debian's package `dataset-fashion-mnist` puts it, and among what was downloaded before. What
is called so has the published contents, by checksum. A `DataError` is a `ValueError`: on the
command line it ends in one line.
"""

import gzip
import hashlib
import math
import os
import urllib.request
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

import nested_jax as nj
from nested_jax.sweeps import write_file

SYSTEM = Path("/usr/share/datasets/fashion-mnist")
"""Of Debian's package `dataset-fashion-mnist`."""
ADDRESS = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
"""Where its authors keep the files."""
FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
# SHA-256 of the contents, unpacked: Debian packs them anew.
FASHION_MNIST = {
    "train_images": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train_labels": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "test_images": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "test_labels": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
UNSIGNED_BYTE = 8
"""The idx format's code of the only kind of number that such images come in."""
DIGITS_TEST = 0.2
"""Share of the digits that is kept for testing: they come without a division of their own."""
SECONDS = 60
"""How long a server may be silent."""


class DataError(ValueError):
    """Images that are not there, or are not what they are said to be; names the file."""


class Images(NamedTuple):
    """Images in classes, divided for training and testing.

    Attributes:
        train_images: Pixels from 0 to 1, an image a row.
        train_labels: Classes, from 0.
        test_images: Likewise.
        test_labels: Likewise.
        shape: Height and width of an image.
        name: What the data is called.
        source: Where it was read.
        licence: Under which it is given away, as far as known.
    """

    train_images: Float32[np.ndarray, "train pixels"]
    train_labels: Int32[np.ndarray, " train"]
    test_images: Float32[np.ndarray, "test pixels"]
    test_labels: Int32[np.ndarray, " test"]
    shape: tuple[int, int]
    name: str
    source: str
    licence: str

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(max(self.train_labels.max(), self.test_labels.max())) + 1

    @property
    def origin(self) -> str:
        """What was read, in a sentence."""
        height, width = self.shape
        return (
            f"{self.name}: {len(self.train_labels):,} training and {len(self.test_labels):,} test "
            f"images of {height} × {width} pixels in {self.classes} classes, from {self.source} "
            f"({self.licence})."
        )


def load(name: str | os.PathLike[str] = "digits", *, download: bool = False) -> Images:
    """Return images by name, or of a folder.

    Args:
        name: "digits", "fashion-mnist", or a folder with idx files named as those of MNIST.
        download: Whether Fashion-MNIST may be fetched from its authors where it is not found.

    Raises:
        DataError: If there is no such data, or a file is damaged or not what it should be.
    """
    if name == "digits":
        return _digits()
    if name == "fashion-mnist":
        return _fashion_mnist(download)
    folder = Path(name)
    missing = [file for file in FILES.values() if _file(folder, file) is None]
    if missing:
        raise DataError(
            '`--data` must be "digits", "fashion-mnist" or a folder of idx files, got '
            f"{str(name)!r}, which has no {missing[0]}."
        )
    parts, known = _read(folder, required=False)
    return _images(
        parts,
        name="Fashion-MNIST" if known else folder.resolve().name,
        source=str(folder),
        licence="MIT" if known else "licence unknown",
    )


def with_validation(images: Images, *, seed: int = 0) -> Images:
    """Return the training images, divided into training and validation.

    Settings are compared on the validation images, which stand in place of the test images. Test
    images that have chosen nothing then measure the chosen setting without bias.

    Args:
        images: Images with their test part.
        seed: Seed of the split.

    Returns:
        Images with as many validation images as there were test images, but at most half of the
        training images.

    Raises:
        DataError: If there is only one training image.
    """
    count = len(images.train_labels)
    if count < 2:
        raise DataError(f"A validation split needs at least 2 training images, got {count}.")
    share = min(len(images.test_labels), count // 2) / count
    train, held_out = nj.split_indices(count, (1 - share, share), seed=seed)
    return images._replace(
        train_images=images.train_images[train],
        train_labels=images.train_labels[train],
        test_images=images.train_images[held_out],
        test_labels=images.train_labels[held_out],
    )


def _digits() -> Images:
    try:
        import sklearn
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError(
            '`--data` digits needs scikit-learn: pip install "nested-jax[experiments]".'
        ) from None
    pixels, classes = load_digits(return_X_y=True)
    images, labels = np.asarray(pixels, np.float32) / 16, np.asarray(classes, np.int32)
    train, test = nj.split_indices(len(labels), (1 - DIGITS_TEST, DIGITS_TEST))
    return Images(
        images[train],
        labels[train],
        images[test],
        labels[test],
        shape=(8, 8),
        name="Optical recognition of handwritten digits (UCI), its test part",
        source=f"scikit-learn {sklearn.__version__}",
        licence="CC BY 4.0",
    )


def _fashion_mnist(download: bool) -> Images:
    places = _places()
    found = [place for place in places if all(_file(place, file) for file in FILES.values())]
    if not found and not download:
        where = ", ".join(map(str, places))
        raise DataError(
            f"`--data` fashion-mnist is in none of {where}: install Debian's package "
            "dataset-fashion-mnist, set NESTED_JAX_DATA, or pass --download."
        )
    folder = found[0] if found else _download()
    parts, _ = _read(folder, required=True)
    return _images(parts, name="Fashion-MNIST", source=str(folder), licence="MIT")


def _places() -> list[Path]:
    given = os.environ.get("NESTED_JAX_DATA")
    return [_downloads(), Path(given), SYSTEM] if given else [SYSTEM, _downloads()]


def _downloads() -> Path:
    given = os.environ.get("NESTED_JAX_DATA")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given or Path(cache) / "nested_jax") / "fashion-mnist"


def _file(folder: Path, name: str) -> Path | None:
    """Return the path of an idx file, packed or not, its name as here or with a dot."""
    for stem in (name, name.replace("-idx", ".idx")):
        for path in (folder / f"{stem}.gz", folder / stem):
            if path.is_file():
                return path
    return None


def _download() -> Path:
    """Fetch the files that are missing; none is in its place before its contents were checked."""
    folder = _downloads()
    for part, name in FILES.items():
        if _file(folder, name) is not None:
            continue
        path, address = folder / f"{name}.gz", f"{ADDRESS}{name}.gz"
        print(f"Downloading {address}", flush=True)
        try:
            with urllib.request.urlopen(address, timeout=SECONDS) as answer:
                packed = answer.read()
        except (OSError, ValueError) as error:
            raise DataError(f"{address} could not be downloaded ({error}).") from error
        _check_contents(address, _unpacked(address, packed), FASHION_MNIST[part])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_file(path, packed)
        except OSError as error:
            raise DataError(f"{path} could not be written ({error}).") from error
    return folder


def _read(folder: Path, *, required: bool) -> tuple[dict[str, np.ndarray], bool]:
    """Return the arrays of a folder, and whether they are Fashion-MNIST's."""
    parts, known = {}, True
    for part, name in FILES.items():
        path = _file(folder, name)
        assert path is not None
        try:
            contents = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} could not be read ({error}).") from error
        contents = _unpacked(path, contents) if path.suffix == ".gz" else contents
        parts[part] = _decoded(path, contents, dimensions=3 if "images" in part else 1)
        if required:
            _check_contents(path, contents, FASHION_MNIST[part])
        known = known and _digest(contents) == FASHION_MNIST[part]
    for kind in ("train", "test"):
        _check_together(folder, kind, parts[f"{kind}_images"], parts[f"{kind}_labels"])
    shapes = {part: parts[part].shape[1:] for part in ("train_images", "test_images")}
    if len(set(shapes.values())) > 1:
        path = _file(folder, FILES["test_images"])
        raise DataError(
            f"{path} holds images of {shapes['test_images']} pixels, and the training images have "
            f"{shapes['train_images']}."
        )
    return parts, known


def _unpacked(path: object, packed: bytes) -> bytes:
    try:
        return gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged: it cannot be unpacked ({error}).") from error


def _digest(contents: bytes) -> str:
    return hashlib.sha256(contents).hexdigest()


def _check_contents(path: object, contents: bytes, expected: str) -> None:
    found = _digest(contents)
    if found != expected:
        raise DataError(
            f"{path} is not Fashion-MNIST's: the SHA-256 of its contents is {found[:12]}… and not "
            f"{expected[:12]}…"
        )


def _decoded(path: Path, contents: bytes, dimensions: int) -> np.ndarray:
    """Return the array of an idx file: 0, 0, kind, dimensions, sizes of 32 bits, bytes."""
    magic = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if contents[:4] != magic:
        raise DataError(
            f"{path} is not an idx file with {dimensions} dimensions: it begins with "
            f"{contents[:4].hex() or 'nothing'} and not {magic.hex()}."
        )
    header = 4 + 4 * dimensions
    if len(contents) < header:
        raise DataError(f"{path} is cut off: its header has {len(contents)} of {header} bytes.")
    shape = tuple(np.frombuffer(contents, ">u4", dimensions, offset=4).tolist())
    expected, found = math.prod(shape), len(contents) - header
    if found != expected:
        what = "is cut off" if found < expected else "is too long"
        raise DataError(f"{path} {what}: {expected} bytes of data are announced, {found} there.")
    if not expected:
        raise DataError(f"{path} is empty: its shape is {shape}.")
    return np.frombuffer(contents, np.uint8, offset=header).reshape(shape)


def _check_together(folder: Path, kind: str, images: np.ndarray, labels: np.ndarray) -> None:
    if len(images) != len(labels):
        path = _file(folder, FILES[f"{kind}_labels"])
        raise DataError(
            f"{path} holds {len(labels)} labels, and there are {len(images)} {kind} images."
        )


def _images(parts: dict[str, np.ndarray], **about: str) -> Images:
    train, test = parts["train_images"], parts["test_images"]
    return Images(
        train.reshape(len(train), -1).astype(np.float32) / 255,
        parts["train_labels"].astype(np.int32),
        test.reshape(len(test), -1).astype(np.float32) / 255,
        parts["test_labels"].astype(np.int32),
        shape=(train.shape[1], train.shape[2]),
        **about,
    )
