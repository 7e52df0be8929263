"""`Source`: any data set by its name or path."""

import difflib
import os
from pathlib import Path

from torch import Tensor

from flowprior.data.arrays import read_arrays
from flowprior.data.dataset import Dataset, Loaded, thin
from flowprior.data.embedded import TOYS, digits, toy
from flowprior.data.pictures import Pictures, decode, list_folder
from flowprior.data.published import PUBLISHED, read_published
from flowprior.data.shaping import Shaping
from flowprior.errors import InputError

NAMES = ("digits", *TOYS, *PUBLISHED)
"""The data sets known by name; anything else is a path to an .npz or .npy file or a folder of pictures."""


class Source:
    """A data set by name or path; its splits are read when first asked for, then kept.

    Args:
        name: one of `NAMES` ("fashion_mnist", "FashionMNIST" and "Fashion-MNIST" are the same), or the path,
            absolute, under `root` or here, of an .npz or .npy file or of a folder of pictures.
        root: the folder of the data sets, in torchvision's layout; by default `FLOWPRIOR_DATA`, then "data".
        size: side of the square images in pixels; None keeps the stored size.
        channels: 1 (gray) or 3 (RGB); None keeps what is stored.
        crop: side of the central square cut out first; by default 140 for CelebA (as WAE and RAE; Dai & Wipf
            take 128, Lucic et al. 160, others 108 or 148), elsewhere nothing.
        resize: "bicubic", "bilinear", "nearest" or "pad" (a black border); by default "pad" where MNIST and
            Fashion-MNIST grow, elsewhere "bicubic".
        download: whether a published set that is not in `root` may be downloaded.
        limit: keep at most so many examples of each split, evenly spaced.
        held_out: the part held out as test set where a user's data has none.
        memory_limit: decoded pictures larger than this many bytes are kept in a memory-mapped file.

    Raises:
        InputError: on bad arguments at once; on missing, damaged or empty data when a split is read.

    >>> source = Source("digits")
    >>> source.image_shape, len(source.train()), len(source.test())
    ((1, 8, 8), 1438, 359)
    """

    def __init__(
        self,
        name: str,
        root: str | Path | None = None,
        *,
        size: int | None = None,
        channels: int | None = None,
        crop: int | None = None,
        resize: str | None = None,
        download: bool = False,
        limit: int | None = None,
        held_out: float = 0.1,
        memory_limit: int = 2**30,
    ) -> None:
        self.root = Path(root or os.environ.get("FLOWPRIOR_DATA") or "data").expanduser()
        self.name, self.path = self._resolve(name)
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise InputError(f"`limit` (={limit!r}) must be a positive int or None, e.g. 1000.")
        if not 0 < held_out < 1:
            raise InputError(f"`held_out` (={held_out!r}) must lie between 0 and 1, e.g. 0.1.")
        self.limit, self.held_out, self.download, self.memory_limit = limit, held_out, download, memory_limit
        published = PUBLISHED.get(self.name)
        if published is not None:
            crop = crop or published.crop
            grows = published.pad and size is not None and size > (crop or published.shape[1])
            resize = resize or ("pad" if grows else None)
        self.shaping = Shaping(size, crop, channels, resize or "bicubic")
        if self.name in TOYS and self.shaping != Shaping():
            raise InputError(
                f"`name` (={name!r}) is a set of vectors: leave out size, channels, crop and resize."
            )
        self._splits: dict[bool, Dataset] = {}

    def _resolve(self, name: str) -> tuple[str, Path | None]:
        plain = {_plain(known): known for known in NAMES}
        if _plain(name) in plain:
            return plain[_plain(name)], None
        for path in (self.root / Path(name).expanduser(), Path(name).expanduser()):
            if path.is_dir() or (path.is_file() and path.suffix in (".npz", ".npy")):
                return path.stem if path.is_file() else path.name, path
        close = difflib.get_close_matches(_plain(name), plain, n=1)
        hint = f"did you mean {plain[close[0]]!r}?" if close else f"known names are {', '.join(NAMES)}."
        raise InputError(
            f"`name` (={name!r}) is neither a known data set nor an .npz or .npy file or a folder "
            f"in {str(self.root)!r} or here: {hint}"
        )

    def __repr__(self) -> str:
        return f"Source({str(self.path or self.name)!r}, root={str(self.root)!r}, {self.shaping.describe()})"

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one example, (C, H, W) or (D,); known without reading wherever it can be."""
        size, channels, crop = self.shaping.size, self.shaping.channels, self.shaping.crop
        if self.name in PUBLISHED:
            stored, height, width = PUBLISHED[self.name].shape
            side = size or crop
            return (channels or stored, side or height, side or width)
        return tuple(self.train().x.shape[1:])

    def train(self) -> Dataset:
        """The training examples."""
        return self._split(True)

    def test(self) -> Dataset:
        """The test examples: as published, a user's own test array or folder, or a held-out part."""
        return self._split(False)

    def _split(self, train: bool) -> Dataset:
        if train not in self._splits:
            self._splits[train] = self._read(train)
        return self._splits[train]

    def _read(self, train: bool) -> Dataset:
        found = self._find(train)
        if isinstance(found, Pictures):
            found = found.limited(self.limit)
            x = decode(found, self.shaping, self.memory_limit)
            return Dataset(self.name, x, found.label, found.classes, self.shaping.describe())
        rows = thin(len(found.x), self.limit)
        x, label = (found.x, found.label) if len(rows) == len(found.x) else _at(rows, found.x, found.label)
        if x.dim() == 4:
            return Dataset(self.name, self.shaping(x), label, found.classes, self.shaping.describe())
        if self.shaping != Shaping():
            raise InputError(
                f"{self.name!r} holds vectors, not images: leave out size, channels, crop and resize."
            )
        return Dataset(self.name, x, label, found.classes)

    def _find(self, train: bool) -> Loaded | Pictures:
        if self.path is not None:
            read = list_folder if self.path.is_dir() else read_arrays
            return read(self.path, train, self.held_out)
        if self.name in PUBLISHED:
            return read_published(self.name, self.root, train, self.download)
        return digits(train) if self.name == "digits" else toy(self.name, train)


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def _at(rows: Tensor, x: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return x[rows], None if label is None else label[rows]
