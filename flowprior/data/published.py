"""Published image sets in torchvision's folder layout. Archives are read where they lie, never unpacked."""

import gzip
import io
import math
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from flowprior.bounds import RATIO, UNPACKED, check_regular, check_unpacked
from flowprior.data.arrays import read_arrays
from flowprior.data.dataset import Split
from flowprior.data.downloads import remote_files
from flowprior.data.embedded import DIGITS
from flowprior.data.garments import edges, silhouette
from flowprior.data.pictures import Pictures, stamp
from flowprior.data.unpickling import read_plain
from flowprior.errors import InputError, reason
from flowprior.registry import dataset

FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
STL = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
_CIFAR10 = "cifar-10-batches-py/, cifar-10-python.tar.gz or cifar10.npz"
_SVHN = "train_32x32.mat and test_32x32.mat"
_STL10 = "stl10_binary/ or stl10_binary.tar.gz"
_CELEBA = "list_eval_partition.txt and img_align_celeba.zip (or the folder in it) in celeba"
_READ_ERRORS = (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile)


class MissingFile(InputError):
    """A file of a published set is not there: the one case in which a download helps."""


def _find(*candidates: Path) -> Path:
    for path in candidates:
        if path.exists():
            return path
    raise MissingFile(f"{str(candidates[0])!r} is not there")


def _corrupt(path: Path, wrong: str, expected: str) -> InputError:
    return InputError(f"{str(path)!r} {wrong} but must {expected}: delete it and copy or download it again.")


@contextmanager
def _reading(path: Path, expected: str, errors: tuple[type[Exception], ...] = _READ_ERRORS) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except errors as error:
        raise _corrupt(path, f"cannot be read ({reason(error)})", expected) from error


def _like_mnist(name: str, classes: tuple[str, ...]) -> dict[str, Any]:
    """What is known of a set in MNIST's format, called `name` by torchvision."""
    files = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte"
    facts = {"layout": f"{files} (or .gz) in {name}/raw", "files": partial(remote_files, name)}
    return {"shape": (1, 28, 28), "classes": classes, "resize": "pad", **facts}


_FASHION = _like_mnist("FashionMNIST", FASHION)
_COMPUTED = _FASHION | {"size": 32, "context": (1, None, None)}


@dataset("mnist", **_like_mnist("MNIST", DIGITS))
def mnist(source: Any, train: bool) -> Split:
    """MNIST, gray 28x28 digits."""
    return _read_idx(source.root / "MNIST", train, DIGITS)


@dataset("fashion_silhouettes", **_COMPUTED, context_from=silhouette)
@dataset("fashion_edges", **_COMPUTED, context_from=edges)
@dataset("fashion_mnist", **_FASHION)
def fashion_mnist(source: Any, train: bool) -> Split:
    """Fashion-MNIST, gray 28x28 pictures of garments; alone, or with a context computed from each picture."""
    return _read_idx(source.root / "FashionMNIST", train, FASHION)


def _read_idx(folder: Path, train: bool, classes: tuple[str, ...]) -> Split:
    split = "train" if train else "t10k"
    x = _idx(folder, f"{split}-images-idx3-ubyte", 3)
    label = _idx(folder, f"{split}-labels-idx1-ubyte", 1)
    if len(x) != len(label):
        wrong = f"holds {len(x)} {split} images and {len(label)} labels"
        raise _corrupt(folder, wrong, "hold as many of both")
    return Split(rearrange(torch.from_numpy(x), "n h w -> n 1 h w"), torch.from_numpy(label).long(), classes)


def _idx(folder: Path, name: str, dims: int) -> np.ndarray:
    """An idx file of bytes: 0, 0, 8, dims, then `dims` sizes in big-endian uint32, then the values."""
    names = [variant + end for variant in (name, name.replace("-idx", ".idx")) for end in ("", ".gz")]
    path = _find(*(parent / each for parent in (folder / "raw", folder) for each in names))
    with _reading(path, "be a whole gzip file"):
        check_regular(path)
        raw = _gunzip(path) if path.suffix == ".gz" else path.read_bytes()
    start = 4 + 4 * dims
    if raw[:4] != bytes((0, 0, 8, dims)) or len(raw) < start:
        expected = f"open with 000008{dims:02x} and {dims} sizes (idx, uint8)"
        raise _corrupt(path, f"opens with {raw[:4].hex() or 'nothing'}", expected)
    shape = np.frombuffer(raw, ">u4", dims, 4).tolist()
    if len(raw) - start != np.prod(shape) or 0 in shape:
        raise _corrupt(path, f"holds {len(raw) - start} values", f"hold {'x'.join(map(str, shape))} of them")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy()


def _gunzip(path: Path) -> bytes:
    """The content of a gzip file, read no further than it may unpack to."""
    most = max(UNPACKED, RATIO * path.stat().st_size)
    with gzip.open(path) as file:
        raw = file.read(most + 1)
    check_unpacked(f"{str(path)!r}", len(raw), path.stat().st_size)
    return raw


def _member(root: Path, folder: str, name: str, packed: str) -> tuple[Path, bytes]:
    """Where `root/folder/name`, or that member of the archive beside the folder, is, and its bytes."""
    path = _find(root / folder / name, root / packed)
    try:
        with _reading(path, "be a whole file"):
            if path.name == name:
                check_regular(path)
                return path, path.read_bytes()
            check_regular(path)
            with tarfile.open(path, "r:gz") as tar:
                check_unpacked(f"{str(path)!r}", tar.getmember(f"{folder}/{name}").size, path.stat().st_size)
                file = tar.extractfile(f"{folder}/{name}")
                return path, file.read() if file else b""
    except KeyError as error:
        raise _corrupt(path, f"has no member {folder}/{name}", "be the published archive") from error


@dataset("cifar10", shape=(3, 32, 32), classes=CIFAR, layout=_CIFAR10, files=partial(remote_files, "CIFAR10"))
def cifar10(source: Any, train: bool) -> Split:
    """CIFAR-10, 32x32 photographs of ten classes."""
    root, folder, packed = source.root, "cifar-10-batches-py", "cifar-10-python.tar.gz"
    arrays = root / "cifar10.npz"
    if arrays.exists() and not (root / folder).exists() and not (root / packed).exists():
        return read_arrays(arrays, train, 0.1)._replace(classes=CIFAR)
    images, labels = [], []
    for name in [f"data_batch_{k}" for k in range(1, 6)] if train else ["test_batch"]:
        path, raw = _member(root, folder, name, packed)
        with _reading(path, "be a CIFAR-10 batch", (Exception,)):  # a damaged pickle ends in any exception
            entry = read_plain(raw)
            images.append(np.asarray(entry["data"], np.uint8).reshape(-1, 3, 32, 32))
            labels.append(np.asarray(entry["labels"], np.int64).reshape(len(images[-1])))
    return Split(torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels)), CIFAR)


@dataset("svhn", shape=(3, 32, 32), classes=DIGITS, layout=_SVHN, files=partial(remote_files, "SVHN"))
def svhn(source: Any, train: bool) -> Split:
    """SVHN, 32x32 photographs of house numbers."""
    from scipy.io import loadmat, whosmat

    name = f"{'train' if train else 'test'}_32x32.mat"
    path = _find(*(source.root / folder / name for folder in ("", "SVHN", "svhn")))
    with _reading(path, "hold uint8 X (32, 32, 3, N) and y (N, 1)", (Exception,)):  # SciPy raises any
        check_regular(path)
        for key, shape, _ in whosmat(path):
            check_unpacked(f"`{key}` in {str(path)!r}", math.prod(shape), path.stat().st_size)
        content = loadmat(path)
        images, labels = content["X"], content["y"].reshape(-1).astype(np.int64)
        if images.shape != (32, 32, 3, len(labels)) or images.dtype != np.uint8:
            raise ValueError(f"X is {images.dtype} of shape {images.shape} for {len(labels)} labels")
    x = np.ascontiguousarray(rearrange(images, "h w c n -> n c h w"))
    return Split(torch.from_numpy(x), torch.from_numpy(labels % 10), DIGITS)  # "10" stands for the digit 0


@dataset(
    "celeba", shape=(3, 218, 178), classes=(), crop=140, layout=_CELEBA, files=partial(remote_files, "CelebA")
)
def celeba(source: Any, train: bool) -> Pictures:
    """CelebA, aligned 218x178 pictures of faces."""
    folder, wanted = source.root / "celeba", "0" if train else "2"  # 1 is the validation split
    partition = _find(folder / "list_eval_partition.txt")
    images = _find(folder / "img_align_celeba", folder / "img_align_celeba.zip")
    with _reading(partition, "hold lines such as '000001.jpg 0'", (ValueError, OSError)):
        rows = [line.split() for line in partition.read_text().splitlines() if line.strip()]
        names = [name for name, split in rows if split == wanted]
    if not names:
        raise _corrupt(partition, f"names no picture of split {wanted}", "name those of splits 0, 1 and 2")
    if outside := [name for name in names if Path(name).name != name]:
        raise _corrupt(partition, f"names {outside[0]!r}, which leads elsewhere", "name files, not paths")
    if images.is_dir():
        _find(images / names[0])
        return Pictures.inside(images, names, folder)
    with _reading(images, "be a whole zip archive"):
        zipped = zipfile.ZipFile(images)

    def member(name: str) -> BinaryIO:
        try:
            return io.BytesIO(zipped.read(f"img_align_celeba/{name}"))
        except (KeyError, *_READ_ERRORS) as error:
            wrong = f"gives no {name} ({reason(error)})"
            raise _corrupt(images, wrong, "be the published archive") from error

    return Pictures(names, member, lambda name: stamp(images), folder / ".flowprior")


@dataset("stl10", shape=(3, 96, 96), classes=STL, layout=_STL10, files=partial(remote_files, "STL10"))
def stl10(source: Any, train: bool) -> Split:
    """STL-10, 96x96 photographs of ten classes, those with labels."""
    split, where, packed = "train" if train else "test", (source.root, "stl10_binary"), "stl10_binary.tar.gz"
    path, images = _member(*where, f"{split}_X.bin", packed)
    _, labels = _member(*where, f"{split}_y.bin", packed)
    pixels = 3 * 96 * 96
    if len(images) != pixels * len(labels) or not labels:
        expected = f"hold {pixels} for each of its {len(labels)} labels"
        raise _corrupt(path, f"holds {len(images)} bytes", expected)
    label = np.frombuffer(labels, np.uint8).astype(np.int64) - 1
    return Split(_stl10_images(images), torch.from_numpy(label), STL)


@dataset(
    "stl10_unlabeled", shape=(3, 96, 96), classes=(), layout=_STL10, files=partial(remote_files, "STL10")
)
def stl10_unlabeled(source: Any, train: bool) -> Split:
    """STL-10's 100,000 photographs without labels, and its 8,000 of the test split to test on."""
    name = "unlabeled_X.bin" if train else "test_X.bin"
    path, images = _member(source.root, "stl10_binary", name, "stl10_binary.tar.gz")
    if not images or len(images) % (3 * 96 * 96):
        raise _corrupt(path, f"holds {len(images)} bytes", f"hold {3 * 96 * 96} for each image")
    return Split(_stl10_images(images))


def _stl10_images(raw: bytes) -> Tensor:
    """Column by column -> (N, 3, 96, 96)."""
    columns = np.frombuffer(raw, np.uint8)
    x = rearrange(columns, "(n c w h) -> n c h w", c=3, w=96, h=96)
    return torch.from_numpy(np.ascontiguousarray(x))
