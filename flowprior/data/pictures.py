"""Picture files, in folders or a zip archive, decoded once into one uint8 tensor."""

import hashlib
import math
import os
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from flowprior.bounds import check_regular
from flowprior.data.dataset import split_rows, thin
from flowprior.data.shaping import Shaping
from flowprior.errors import InputError, reason

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"})
TEST_FOLDERS = ("test", "val", "valid", "validation")
_CHUNK = 64  # pictures a thread decodes per turn
_PARTS = 32  # turns planned ahead
MOST_PIXELS = 2**26  # of a picture; Pillow itself warns beyond 89 million
# what damaged pictures end in, beside Pillow's own two
_PILLOWS = (OSError, SyntaxError, EOFError, ValueError, struct.error, OverflowError, MemoryError, IndexError)
_ORIENTATION = 0x0112  # the tag of the camera's turn


@dataclass(frozen=True)
class Pictures:
    """Files of one split: their names, how to open one, when they changed, and their labels.

    `stamp(name)` is a text that changes when the file does; `cache` is the folder of decoded copies; `half`,
    "left" or "right", takes that of each picture only. What the pictures are conditioned on is either other
    pictures, `context`, or poses, `joints` (N, J, 2) in parts of a picture.
    """

    names: Sequence[str]
    open: Callable[[str], BinaryIO]
    stamp: Callable[[str], str]
    cache: Path
    label: Tensor | None = None
    classes: tuple[str, ...] | None = None
    half: str | None = None
    context: "Pictures | None" = None
    joints: Tensor | None = None

    @classmethod
    def inside(cls, folder: Path, names: Sequence[str], home: Path | None = None, **facts: Any) -> "Pictures":
        """The files `names` of a folder, `facts` as above; the cache is in `home`, by default there."""
        cache = (home or folder) / ".flowprior"
        return cls(
            names, lambda name: open_regular(folder / name), lambda name: stamp(folder / name), cache, **facts
        )

    def rows(self, rows: Tensor) -> "Pictures":
        """The pictures at `rows` only."""
        return replace(
            self,
            names=[self.names[row] for row in rows.tolist()],
            label=None if self.label is None else self.label[rows],
            context=None if self.context is None else self.context.rows(rows),
            joints=None if self.joints is None else self.joints[rows],
        )

    def limited(self, limit: int | None) -> "Pictures":
        """At most `limit` pictures, evenly spaced."""
        return self if limit is None else self.rows(thin(len(self.names), limit))


def list_folder(folder: Path, train: bool, fraction: float) -> Pictures:
    """One split of a folder of pictures.

    `folder/train` and `folder/test` (or `val`, `valid`, `validation`) are the splits where both exist;
    otherwise `held_out(size, fraction)` makes them. Subfolders are classes, unless pictures lie beside them.
    Without the folder, or a picture in it, there is an InputError.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {str(folder)!r}: check the path, or pass another `root`.")
    splits = split_folders(folder)
    if splits is not None:
        paths, others = (picture_paths(split) for split in (splits if train else reversed(splits)))
        return _labelled(splits[0] if train else splits[1], paths, paths + others, folder)
    paths = picture_paths(folder)
    everything = _labelled(folder, paths, paths, folder)
    return everything.rows(split_rows(len(paths), train, fraction, everything.label))


def split_folders(folder: Path) -> tuple[Path, Path] | None:
    """The folders of the training and the test split, where a folder has both."""
    tests = [folder / name for name in TEST_FOLDERS if (folder / name).is_dir()]
    return (folder / "train", tests[0]) if (folder / "train").is_dir() and tests else None


def picture_paths(folder: Path) -> list[Path]:
    """The pictures in a folder and below it, relative to it, none that is hidden; InputError without any."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    paths = sorted(path for path in found if not any(part.startswith(".") for part in path.parts))
    for path in paths:
        check_regular(folder / path, "The picture")
    if not paths:
        fix = f"put files ending in {', '.join(sorted(SUFFIXES))} there, or in one subfolder per class"
        raise InputError(f"The folder {str(folder)!r} holds no pictures: {fix}.")
    return paths


def _labelled(folder: Path, paths: list[Path], everything: list[Path], home: Path) -> Pictures:
    """The pictures at `paths`; where `everything` lies in subfolders, these are the classes."""
    names = [str(path) for path in paths]
    if any(len(path.parts) == 1 for path in everything):
        return Pictures.inside(folder, names, home)
    classes = tuple(sorted({path.parts[0] for path in everything}))
    index = {name: i for i, name in enumerate(classes)}
    label = torch.tensor([index[path.parts[0]] for path in paths])
    return Pictures.inside(folder, names, home, label=label, classes=classes)


def open_regular(path: Path) -> BinaryIO:
    """A file to read; an `InputError` for a pipe, which would wait for ever, and for a device."""
    if path.exists():
        check_regular(path, "The picture")
    return open(path, "rb")


def stamp(path: Path) -> str:
    """A text that changes when the file does."""
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def decode(pictures: Pictures, shaping: Shaping, memory_limit: float = math.inf) -> Tensor:
    """All pictures as one tensor: (N, C, H, W) uint8.

    A result larger than `memory_limit` bytes is decoded once into a file in `pictures.cache` and mapped from
    there. A picture that cannot be read, has more than 8 bits a channel, or another size than the others
    (where `shaping` sets none) raises an InputError.
    """
    if not pictures.names:
        raise InputError(f"A split of the pictures in {str(pictures.cache.parent)!r} is empty: add pictures.")
    with bombs_as_errors():
        return _decode(pictures, shaping, memory_limit)


@contextmanager
def bombs_as_errors() -> Iterator[None]:
    """Pillow's warning of a picture that unpacks to very many pixels is an error inside, in all threads."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # of what is damaged, and refused
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _decode(pictures: Pictures, shaping: Shaping, memory_limit: float) -> Tensor:
    shape = _load(pictures, 0, shaping).shape
    size = torch.Size((len(pictures.names), *shape))
    count = size.numel()
    if count <= memory_limit:
        return torch.cat(list(_decoded(pictures, shaping, shape)))
    path = pictures.cache / f"{_key(pictures, shaping)}.u8"
    return mapped(path, size, lambda: _decoded(pictures, shaping, shape))


def mapped(path: Path, size: torch.Size, parts: Callable[[], Iterator[Tensor]]) -> Tensor:
    """A uint8 tensor mapped from a file, which `parts` fill one after the other where it is not there yet."""
    count = size.numel()
    if not (path.is_file() and path.stat().st_size == count):
        _write_cache(path, parts())
    return torch.from_file(str(path), shared=False, size=count, dtype=torch.uint8).view(size)


def read_pictures(paths: Sequence[Path], shaping: Shaping) -> Tensor:
    """The pictures at some paths as one tensor, as `decode` makes it."""
    return decode(Pictures.inside(Path(), [str(path) for path in paths]), shaping)


def _key(pictures: Pictures, shaping: Shaping) -> str:
    digest = hashlib.sha256(f"{shaping!r}{pictures.half or ''}".encode())
    for name in pictures.names:
        digest.update(f"{name}\0{pictures.stamp(name)}\0".encode())
    return digest.hexdigest()[:32]


def _write_cache(path: Path, parts: Iterator[Tensor]) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(exist_ok=True, parents=True)
        try:
            with open(temporary, "wb") as file:
                for part in parts:
                    file.write(part.numpy().data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        wrong = f"cannot be written to {str(path.parent)!r} ({reason(error)})"
        fix = "make room there, or pass a larger `memory_limit`"
        raise InputError(f"The decoded pictures {wrong}: {fix}.") from error


def _decoded(pictures: Pictures, shaping: Shaping, shape: torch.Size) -> Iterator[Tensor]:
    """The pictures in order, in parts (n, *shape); threads decode, as Pillow needs no lock for it."""

    def load(start: int) -> Tensor:
        rows = range(start, min(start + _CHUNK, len(pictures.names)))
        part = [_load(pictures, row, shaping) for row in rows]
        for row, picture in zip(rows, part, strict=True):
            if picture.shape != shape:
                wrong = f"{pictures.names[row]!r} is {tuple(picture.shape)}"
                first = f"the first, {pictures.names[0]!r}, is {tuple(shape)}"
                raise InputError(f"The picture {wrong} but {first}: pass `size` to bring all to one.")
        return torch.stack(part)

    starts = range(0, len(pictures.names), _CHUNK)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for i in range(0, len(starts), _PARTS):  # no more parts than these wait to be used
            yield from pool.map(load, starts[i : i + _PARTS])


def stored_size(pictures: Pictures, row: int) -> tuple[int, int]:
    """Width and height of a stored picture held upright, from its header."""
    with _opened(pictures, row) as image:
        turned = image.getexif().get(_ORIENTATION, 1) > 4  # by a quarter
        return (image.height, image.width) if turned else (image.width, image.height)


@contextmanager
def _opened(pictures: Pictures, row: int) -> "Iterator[Image.Image]":
    """A picture; whatever Pillow finds wrong with it is said in one sentence."""
    from PIL import Image

    name = pictures.names[row]
    try:
        with pictures.open(name) as file, Image.open(file) as image:
            if image.width * image.height > MOST_PIXELS:
                size = f"{image.width} x {image.height} pixels, more than {MOST_PIXELS:,}"
                raise InputError(f"The picture {name!r} has {size}: make it smaller.")
            yield image
    except InputError:
        raise
    except (*_PILLOWS, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        wrong = f"cannot be read ({reason(error)})"
        raise InputError(f"The picture {name!r} {wrong}: replace or remove the file.") from error


def _load(pictures: Pictures, row: int, shaping: Shaping) -> Tensor:
    from PIL import ImageOps

    with _opened(pictures, row) as image:
        if image.mode.startswith(("I", "F")):
            wrong = f"has mode {image.mode} but must have 8 bits a channel"
            raise InputError(f"The picture {pictures.names[row]!r} {wrong}: convert it.")
        upright = ImageOps.exif_transpose(image)
        pixels = np.array(upright.convert("L" if shaping.channels == 1 else "RGB"), dtype=np.uint8)
    x = torch.from_numpy(pixels)
    if pictures.half is not None:
        x = x.chunk(2, dim=1)[pictures.half == "right"]
    return shaping(rearrange(x, "h w -> 1 1 h w" if x.dim() == 2 else "h w c -> 1 c h w"))[0]
