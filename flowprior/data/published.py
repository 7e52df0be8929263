"""Published image sets in torchvision's folder layout. Archives are read where they lie, never unpacked."""

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from flowprior.data.arrays import read_arrays
from flowprior.data.dataset import Loaded, reason
from flowprior.data.downloads import download_set
from flowprior.data.pictures import Pictures, stamp
from flowprior.data.unpickling import read_plain
from flowprior.errors import InputError

DIGITS = tuple(str(digit) for digit in range(10))
FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
STL = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
_READ_ERRORS = (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile)


class MissingFile(InputError):
    """A file of a published set is not there: the one case in which a download helps."""


@dataclass(frozen=True)
class Published:
    """A published set: one image's shape, where its files belong under the root, how a split is read."""

    shape: tuple[int, int, int]
    layout: str
    read: Callable[[Path, bool], Loaded | Pictures]
    crop: int | None = None
    pad: bool = False  # whether growing means a black border


def _find(*candidates: Path) -> Path:
    for path in candidates:
        if path.exists():
            return path
    raise MissingFile(f"{str(candidates[0])!r} is not there")


def _corrupt(path: Path, found: str, expected: str) -> InputError:
    return InputError(f"{str(path)!r} {found} but must {expected}: delete it and copy or download it again.")


def _mnist(folder: str, classes: tuple[str, ...]) -> Callable[[Path, bool], Loaded]:
    def read(root: Path, train: bool) -> Loaded:
        split = "train" if train else "t10k"
        x = _idx(root / folder, f"{split}-images-idx3-ubyte", 3)
        label = _idx(root / folder, f"{split}-labels-idx1-ubyte", 1)
        if len(x) != len(label):
            found = f"holds {len(x)} {split} images and {len(label)} labels"
            raise _corrupt(root / folder, found, "hold as many of both")
        return Loaded(torch.from_numpy(x).unsqueeze(1), torch.from_numpy(label).long(), classes)

    return read


def _idx(folder: Path, name: str, dims: int) -> np.ndarray:
    """An idx file of bytes: 0, 0, 8, dims, then `dims` sizes in big-endian uint32, then the values."""
    names = [variant + end for variant in (name, name.replace("-idx", ".idx")) for end in ("", ".gz")]
    path = _find(*(place / each for place in (folder / "raw", folder) for each in names))
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except _READ_ERRORS as error:
        raise _corrupt(path, f"cannot be read ({reason(error)})", "be a whole gzip file") from error
    start = 4 + 4 * dims
    if raw[:4] != bytes((0, 0, 8, dims)) or len(raw) < start:
        found = f"opens with {raw[:4].hex() or 'nothing'}"
        raise _corrupt(path, found, f"open with 000008{dims:02x} and {dims} sizes (idx, uint8)")
    shape = np.frombuffer(raw, ">u4", dims, 4).tolist()
    if len(raw) - start != np.prod(shape) or 0 in shape:
        raise _corrupt(path, f"holds {len(raw) - start} values", f"hold {'x'.join(map(str, shape))} of them")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy()


def _member(root: Path, folder: str, name: str, archive: str) -> tuple[Path, bytes]:
    """Where `root/folder/name`, or that member of the archive beside the folder, is, and its bytes."""
    path = _find(root / folder / name, root / archive)
    try:
        if path.name == name:
            return path, path.read_bytes()
        with tarfile.open(path, "r:gz") as tar:
            file = tar.extractfile(f"{folder}/{name}")
            return path, file.read() if file else b""
    except KeyError as error:
        raise _corrupt(path, f"has no member {folder}/{name}", "be the published archive") from error
    except _READ_ERRORS as error:
        raise _corrupt(path, f"cannot be read ({reason(error)})", "be a whole file") from error


def _cifar10(root: Path, train: bool) -> Loaded:
    folder, archive = "cifar-10-batches-py", "cifar-10-python.tar.gz"
    arrays = root / "cifar10.npz"
    if arrays.exists() and not (root / folder).exists() and not (root / archive).exists():
        return read_arrays(arrays, train, 0.1)._replace(classes=CIFAR)
    images, labels = [], []
    for name in [f"data_batch_{k}" for k in range(1, 6)] if train else ["test_batch"]:
        path, raw = _member(root, folder, name, archive)
        try:
            entry = read_plain(raw)
            images.append(np.asarray(entry["data"], np.uint8).reshape(-1, 3, 32, 32))
            labels.append(np.asarray(entry["labels"], np.int64).reshape(len(images[-1])))
        except Exception as error:  # a damaged pickle ends in any exception
            raise _corrupt(path, f"cannot be read ({reason(error)})", "be a CIFAR-10 batch") from error
    return Loaded(torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels)), CIFAR)


def _svhn(root: Path, train: bool) -> Loaded:
    from scipy.io import loadmat

    name = f"{'train' if train else 'test'}_32x32.mat"
    path = _find(root / name, root / "SVHN" / name, root / "svhn" / name)
    try:
        content = loadmat(path)
        images, labels = content["X"], content["y"].reshape(-1).astype(np.int64)
        if images.shape != (32, 32, 3, len(labels)) or images.dtype != np.uint8:
            raise ValueError(f"X is {images.dtype} of shape {images.shape} for {len(labels)} labels")
    except Exception as error:  # damaged .mat files end in any exception of SciPy's reader
        expected = "hold uint8 X (32, 32, 3, N) and y (N, 1)"
        raise _corrupt(path, f"cannot be read ({reason(error)})", expected) from error
    x = np.ascontiguousarray(images.transpose(3, 2, 0, 1))
    return Loaded(torch.from_numpy(x), torch.from_numpy(labels % 10), DIGITS)  # "10" stands for the digit 0


def _stl10(root: Path, train: bool) -> Loaded:
    split, layout = "train" if train else "test", ("stl10_binary", "stl10_binary.tar.gz")
    path, images = _member(root, layout[0], f"{split}_X.bin", layout[1])
    _, labels = _member(root, layout[0], f"{split}_y.bin", layout[1])
    pixels = 3 * 96 * 96
    if len(images) != pixels * len(labels) or not labels:
        expected = f"hold {pixels} for each of its {len(labels)} labels"
        raise _corrupt(path, f"holds {len(images)} bytes", expected)
    x = np.frombuffer(images, np.uint8).reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)  # column by column
    label = np.frombuffer(labels, np.uint8).astype(np.int64) - 1
    return Loaded(torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(label), STL)


def _celeba(root: Path, train: bool) -> Pictures:
    folder = root / "celeba"
    home = folder / ".flowprior"
    partition = _find(folder / "list_eval_partition.txt")
    images = _find(folder / "img_align_celeba", folder / "img_align_celeba.zip")
    try:
        rows = [line.split() for line in partition.read_text().splitlines() if line.strip()]
        wanted = "0" if train else "2"  # 1 is the validation split
        names = [name for name, split in rows if split == wanted]
    except (ValueError, OSError) as error:
        expected = "hold lines such as '000001.jpg 0'"
        raise _corrupt(partition, f"cannot be read ({reason(error)})", expected) from error
    if not names:
        raise _corrupt(partition, f"names no picture of split {wanted}", "name those of splits 0, 1 and 2")
    if images.is_dir():
        first = images / names[0]
        if not first.exists():
            raise MissingFile(f"{str(first)!r} is not there")
        return Pictures(
            names, lambda name: open(images / name, "rb"), lambda name: stamp(images / name), home
        )
    try:
        archive = zipfile.ZipFile(images)
    except _READ_ERRORS as error:
        raise _corrupt(images, f"cannot be read ({reason(error)})", "be a whole zip archive") from error

    def member(name: str) -> BinaryIO:
        try:
            return io.BytesIO(archive.read(f"img_align_celeba/{name}"))
        except (KeyError, *_READ_ERRORS) as error:
            raise _corrupt(
                images, f"gives no {name} ({reason(error)})", "be the published archive"
            ) from error

    return Pictures(names, member, lambda name: stamp(images), home)


_IDX = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte"
PUBLISHED: dict[str, Published] = {
    "mnist": Published((1, 28, 28), f"{_IDX} (or .gz) in MNIST/raw", _mnist("MNIST", DIGITS), pad=True),
    "fashion_mnist": Published(
        (1, 28, 28), f"{_IDX} (or .gz) in FashionMNIST/raw", _mnist("FashionMNIST", FASHION), pad=True
    ),
    "cifar10": Published(
        (3, 32, 32), "cifar-10-batches-py/, cifar-10-python.tar.gz or cifar10.npz", _cifar10
    ),
    "svhn": Published((3, 32, 32), "train_32x32.mat and test_32x32.mat", _svhn),
    "celeba": Published(
        (3, 218, 178),
        "list_eval_partition.txt and img_align_celeba.zip (or the folder in it) in celeba",
        _celeba,
        crop=140,
    ),
    "stl10": Published((3, 96, 96), "stl10_binary/ or stl10_binary.tar.gz", _stl10),
}


def read_published(name: str, root: Path, train: bool, download: bool) -> Loaded | Pictures:
    """One split of the published set `name` from `root`; a local copy is used first.

    Raises:
        InputError: if a file is damaged, or missing and not downloadable; it says what to put where.
    """
    published = PUBLISHED[name]
    try:
        return published.read(root, train)
    except MissingFile as missing:
        place = f"put {published.layout} in the data root {str(root)!r}"
        if not download:
            raise InputError(
                f"Data set {name!r} was not found ({missing}): {place}, name another root by `root` or "
                "FLOWPRIOR_DATA, or allow the download with download=True (Source.download in a config)."
            ) from missing
        try:
            download_set(name, root)
        except Exception as error:  # whatever network, checksum or disk raise, the way out is the same
            raise InputError(
                f"The download of data set {name!r} failed ({reason(error)}): {place} yourself."
            ) from error
        return published.read(root, train)
