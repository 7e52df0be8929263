"""`Source`: any data set by its name or path."""

import difflib
import os
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from flowprior.data.arrays import read_arrays
from flowprior.data.dataset import Dataset, Loaded, thin
from flowprior.data.drawing import draw_stick_man
from flowprior.data.embedded import TOYS, digits, toy
from flowprior.data.garments import edges, silhouette
from flowprior.data.pairs import HALVES, check_pairs, list_pairs
from flowprior.data.pictures import Pictures, decode, list_folder
from flowprior.data.pose_index import in_pixels, list_index
from flowprior.data.published import PUBLISHED, Published, read_published
from flowprior.data.shaping import Shaping
from flowprior.data.stick_figures import SIZE, TEST, TRAIN, stick_figures
from flowprior.errors import InputError

CONDITIONED: dict[str, Callable[[Tensor], Tensor]] = {
    "fashion_edges": edges,
    "fashion_silhouettes": silhouette,
}
"""Fashion-MNIST with a context that is computed from each picture, and how."""

INDEXED = ("deepfashion", "market")
NAMES = ("digits", *TOYS, *PUBLISHED, *CONDITIONED, "stick_figures", "pairs", *INDEXED)
"""The data sets known by name; anything else is a path to an .npz or .npy file or a folder of pictures."""


class Source:
    """A data set by name or path; its splits are read when first asked for, then kept.

    Args:
        name: one of `NAMES` ("fashion_mnist", "FashionMNIST" and "Fashion-MNIST" are the same), or the path,
            absolute, under `root` or here, of an .npz or .npy file or of a folder of pictures. With a context
            come "fashion_edges" and "fashion_silhouettes" (32 pixels), "stick_figures" (generated, 64 pixels,
            "joints" and "factors" known), "pairs" (a user's own, see `list_pairs`), "deepfashion" and
            "market" (an index of poses, see `list_index`; "joints" known).
        root: the folder of the data sets, in torchvision's layout; by default `FLOWPRIOR_DATA`, then "data".
        size: side of the square images in pixels; None keeps the stored size.
        channels: 1 (gray) or 3 (RGB); None keeps what is stored.
        crop: side of the central square cut out first; by default 140 for CelebA (as WAE and RAE; Dai & Wipf
            take 128, Lucic et al. 160, others 108 or 148), elsewhere nothing.
        resize: "bicubic", "bilinear", "nearest" or "pad" (a black border); by default "pad" where MNIST and
            Fashion-MNIST grow, "stretch" for an index of poses, elsewhere "bicubic".
        download: whether a published set that is not in `root` may be downloaded.
        limit: keep at most so many examples of each split, evenly spaced.
        held_out: the part held out as test set where a user's data has none.
        memory_limit: decoded pictures larger than this many bytes are kept in a memory-mapped file.
        folder: of the pairs, or of the index of poses (by default its name under `root`).
        condition: the half that is the context of pictures side by side, "left" or "right".
        seed: of the generated figures.

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
        folder: str | Path | None = None,
        condition: str = "left",
        seed: int = 0,
    ) -> None:
        self.root = Path(root or os.environ.get("FLOWPRIOR_DATA") or "data").expanduser()
        self.name, self.path = self._resolve(name)
        self._known = self.name if self.path is None else ""  # a user's folder may have a set's name
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise InputError(f"`limit` (={limit!r}) must be a positive int or None, e.g. 1000.")
        if not 0 < held_out < 1:
            raise InputError(f"`held_out` (={held_out!r}) must lie between 0 and 1, e.g. 0.1.")
        self.limit, self.held_out, self.download, self.memory_limit = limit, held_out, download, memory_limit
        if condition not in HALVES:
            raise InputError(f"`condition` (={condition!r}) must be 'left' or 'right'.")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise InputError(f"`seed` (={seed!r}) must be an int, e.g. 0.")
        self.condition, self.seed = condition, seed
        self.folder = self._place(folder)
        self.shaping = self._shaping(size, channels, crop, resize)
        if self._known in TOYS and self.shaping != Shaping():
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

    def _shaping(
        self, size: int | None, channels: int | None, crop: int | None, resize: str | None
    ) -> Shaping:
        """What is asked for, filled up with what the set needs."""
        if self._known in INDEXED:
            if crop is not None or resize not in (None, "stretch"):
                raise InputError(
                    f"`name` (={self.name!r}) has poses, which only stretching keeps in place: leave out "
                    "crop and resize."
                )
            resize = "stretch"
        if self._known == "stick_figures":
            if crop is not None or resize is not None or channels not in (None, 3):
                raise InputError(
                    f"`name` (={self.name!r}) is rendered in color at any `size`: leave out channels, crop "
                    "and resize."
                )
            size = SIZE if size is None else size
        if self._known in CONDITIONED and size is None:
            size = 32
        published = self._published
        if published is not None:
            crop = crop or published.crop
            grows = published.pad and size is not None and size > (crop or published.shape[1])
            resize = resize or ("pad" if grows else None)
        return Shaping(size, crop, channels, resize or "bicubic")

    def _place(self, folder: str | Path | None) -> Path | None:
        """The folder of pairs or of an index of poses, under the root or here."""
        if self._known != "pairs" and self._known not in INDEXED:
            if folder is not None:
                raise InputError(
                    f"`folder` (={str(folder)!r}) belongs to 'pairs', {', '.join(map(repr, INDEXED))}, "
                    f"not to {self.name!r}: leave it out."
                )
            return None
        if folder is None and self._known == "pairs":
            raise InputError("`folder` (=None) must name the folder of the pairs, with x/ and y/ in it.")
        path = Path(folder or self.name).expanduser()
        return path if path.is_dir() and not (self.root / path).is_dir() else self.root / path

    @property
    def _published(self) -> Published | None:
        """The published set that the pictures are of."""
        return PUBLISHED.get("fashion_mnist" if self._known in CONDITIONED else self._known)

    def __repr__(self) -> str:
        return f"Source({str(self.path or self.name)!r}, root={str(self.root)!r}, {self.shaping.describe()})"

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one example, (C, H, W) or (D,); known without reading wherever it can be."""
        size, channels, crop = self.shaping.size, self.shaping.channels, self.shaping.crop
        if self._published is not None:
            stored, height, width = self._published.shape
            side = size or crop
            return (channels or stored, side or height, side or width)
        if size is not None and (self.folder is not None or self._known == "stick_figures"):
            return (channels or 3, size, size)
        return tuple(self.train().x.shape[1:])

    @property
    def context_shape(self) -> tuple[int, ...] | None:
        """The shape of one example's context, None without one; known without reading wherever it can be."""
        if self._known in CONDITIONED:
            return (1, *self.image_shape[1:])
        if self._known == "stick_figures" or self._known in INDEXED:
            return (3, *self.image_shape[1:])
        if self._known == "pairs" and self.shaping.size is not None:
            return self.image_shape
        context = self.train().context
        return None if context is None else tuple(context.shape[1:])

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
            return self._decoded(found.limited(self.limit))
        rows = thin(len(found.x), self.limit)
        found = found if len(rows) == len(found.x) else found.rows(rows)
        if found.x.dim() == 4:
            x = self.shaping(found.x)
            context = CONDITIONED[self._known](x) if self._known in CONDITIONED else found.context
            rendered = self._known == "stick_figures"
            how = f"rendered at {self.shaping.size} pixels" if rendered else self.shaping.describe()
            return Dataset(self.name, x, found.label, found.classes, how, context, found.known)
        if self.shaping != Shaping():
            raise InputError(
                f"{self.name!r} holds vectors, not images: leave out size, channels, crop and resize."
            )
        return Dataset(self.name, found.x, found.label, found.classes)

    def _decoded(self, pictures: Pictures) -> Dataset:
        check_pairs(pictures)
        x, context, known = decode(pictures, self.shaping, self.memory_limit), None, {}
        if pictures.context is not None:
            context = decode(pictures.context, self.shaping, self.memory_limit)
        if pictures.joints is not None:
            height, width = x.shape[2:]
            if height != width:
                raise InputError(
                    f"The pictures of {self.name!r} are {height} x {width} but poses are drawn on squares: "
                    "pass `size`, e.g. 64."
                )
            known["joints"] = in_pixels(pictures.joints, height, width)
            context = draw_stick_man(known["joints"], width)
        how = self.shaping.describe()
        return Dataset(self.name, x, pictures.label, pictures.classes, how, context, known)

    def _find(self, train: bool) -> Loaded | Pictures:
        if self.path is not None:
            read = list_folder if self.path.is_dir() else read_arrays
            return read(self.path, train, self.held_out)
        if self.folder is not None:
            if self._known == "pairs":
                return list_pairs(self.folder, train, self.held_out, self.condition)
            return list_index(self.folder, train)
        if self._published is not None:
            name = "fashion_mnist" if self._known in CONDITIONED else self.name
            return read_published(name, self.root, train, self.download)
        if self._known == "stick_figures":
            rows = thin(TRAIN if train else TEST, self.limit)
            return stick_figures(train, rows, self.shaping.size or SIZE, self.seed)
        return digits(train) if self.name == "digits" else toy(self.name, train)


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())
