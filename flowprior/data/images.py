"""`Source`: any data set by its name or path."""

import os
from pathlib import Path
from typing import Any

from flowprior.checks import check_count, check_number, check_one_of, nearest
from flowprior.data import embedded, pose_index, published, sprites, stick_figures  # noqa: F401 - registered
from flowprior.data.arrays import read_arrays
from flowprior.data.dataset import Dataset, Split, thin
from flowprior.data.downloads import download
from flowprior.data.drawing import draw_stick_man
from flowprior.data.pairs import HALVES, check_pairs
from flowprior.data.pictures import Pictures, decode, list_folder
from flowprior.data.pose_index import in_pixels
from flowprior.data.published import MissingFile
from flowprior.data.shaping import Shaping
from flowprior.errors import InputError, reason
from flowprior.registry import DATASETS, DataSet


class Source:
    """A data set by name or path; its splits are read when first asked for, then kept.

    Args:
        name: one of `flowprior.registry.DATASETS` ("fashion_mnist", "FashionMNIST" and "Fashion-MNIST" are
            the same), or the path, absolute, under `root` or here, of an .npz or .npy file or of a folder of
            pictures. With a context come "fashion_edges" and "fashion_silhouettes" (32 pixels),
            "stick_figures" (generated, 64 pixels, "joints" and "factors" known), "pairs" (a user's own, see
            `list_pairs`), "deepfashion" and "market" (an index of poses, see `list_index`; "joints" known).
        root: the folder of the data sets, in torchvision's layout; by default `FLOWPRIOR_DATA`, then "data".
        size, channels, crop, resize: as for `Shaping`; by default as stored, but CelebA is cropped to 140 (as
            in WAE and RAE; Dai & Wipf take 128, Lucic et al. 160, others 108 or 148), MNIST and Fashion-MNIST
            grow by "pad", and an index of poses changes by "stretch".
        download: whether a published set that is not in `root` may be downloaded.
        limit: at most this many examples of each split, evenly spaced.
        held_out: the part held out as test set where a user's data has none.
        memory_limit: decoded pictures larger than this many bytes are kept in a memory-mapped file.
        folder: of the pairs, or of the index of poses (by default its name under `root`).
        condition: the half that is the context of pictures side by side, "left" or "right".
        seed: of the generated figures.

    Raises:
        InputError: on bad arguments at once; on missing, damaged or empty data when a split is read.

    >>> source = Source("digits")
    >>> source.image_shape, len(source.classes), len(source.train()), len(source.test())
    ((1, 8, 8), 10, 1438, 359)
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
        self.limit = None if limit is None else check_count("limit", limit, fix="or None for all")
        self.held_out = check_number("held_out", held_out, above=0, below=1)
        self.download, self.memory_limit = download, memory_limit
        self.condition = check_one_of("condition", condition, HALVES)
        self.seed = check_count("seed", seed, least=0)
        self.folder = self._find_folder(folder)
        self.shaping = self._shaping({"size": size, "channels": channels, "crop": crop, "resize": resize})
        self._splits: dict[bool, Dataset] = {}

    def _resolve(self, name: str) -> tuple[str, Path | None]:
        plain = {_plain(known): known for known in DATASETS}
        if _plain(name) in plain:
            return plain[_plain(name)], None
        for path in (self.root / Path(name).expanduser(), Path(name).expanduser()):
            if path.is_dir() or (path.is_file() and path.suffix in (".npz", ".npy")):
                return path.stem if path.is_file() else path.name, path
        wrong = (
            f"is neither a known data set nor an .npz or .npy file or folder in {str(self.root)!r} or here"
        )
        hint = nearest(name, DATASETS) or f": known names are {', '.join(DATASETS)}."
        raise InputError(f"`name` (={name!r}) {wrong}{hint}")

    @property
    def record(self) -> DataSet:
        """What is known of the set before it is read: its record, or that of a user's file or folder."""
        path = self.path
        if path is None:
            return DATASETS[self.name]
        read = list_folder if path.is_dir() else read_arrays
        return DataSet(self.name, lambda source, train: read(path, train, source.held_out))

    def _shaping(self, given: dict[str, Any]) -> Shaping:
        """What is asked for, filled up with the defaults of the set."""
        record, shape = self.record, self.record.shape or ()
        defaults = {"channels": shape[0] if len(shape) == 3 else None, "resize": record.resize}
        fixed = [name for name in given if name not in record.shaped_by]
        if any(given[name] not in (None, defaults.get(name)) for name in fixed):
            listed = " and ".join(", ".join(fixed).rsplit(", ", 1))
            raise InputError(f"`name` (={self.name!r}) {record.because}: leave out {listed}.")
        size, crop = (getattr(record, key) if given[key] is None else given[key] for key in ("size", "crop"))
        grows = size is not None and len(shape) == 3 and size > (crop or shape[1] or 0)
        by_default = record.resize if record.resize != "pad" or grows else None
        return Shaping(size, crop, given["channels"], given["resize"] or by_default or "bicubic")

    def _find_folder(self, folder: str | Path | None) -> Path | None:
        """The folder of pairs or of an index of poses, under the root or here."""
        if self.record.folder == "refused":
            if folder is None:
                return None
            takers = ", ".join(repr(name) for name, record in DATASETS.items() if record.folder != "refused")
            wrong = f"belongs to {takers}, not to {self.name!r}"
            raise InputError(f"`folder` (={str(folder)!r}) {wrong}: leave it out.")
        if folder is None and self.record.folder == "required":
            raise InputError(f"`folder` (=None) must name the folder of the {self.name}, with x/ and y/.")
        path = Path(folder or self.name).expanduser()
        return path if path.is_dir() and not (self.root / path).is_dir() else self.root / path

    def __repr__(self) -> str:
        return f"Source({str(self.path or self.name)!r}, root={str(self.root)!r}, {self.shaping.describe()})"

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one example, (C, H, W) or (D,); known without reading wherever it can be."""
        shape = self.record.shape
        if shape is not None and len(shape) == 3:
            side = self.shaping.size or self.shaping.crop
            shape = (self.shaping.channels or shape[0], side or shape[1], side or shape[2])
        if shape is None or None in shape:
            return tuple(self.train().x.shape[1:])
        return tuple(length for length in shape if length is not None)

    @property
    def context_shape(self) -> tuple[int, ...] | None:
        """The shape of what an example is conditioned on, (Cy, H, W) or (K,); None if there is nothing."""
        if self.record.shape is None:
            context = self.train().context
            return None if context is None else tuple(context.shape[1:])
        if self.record.context is None:
            return None
        axes = enumerate(self.record.context)
        return tuple(self.image_shape[axis] if length is None else length for axis, length in axes)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, none of a set without labels; none is read where the record has them."""
        if self.record.classes is not None:
            return self.record.classes
        train = self.train()
        if train.classes is not None or train.label is None:
            return train.classes or ()
        return tuple(map(str, range(int(train.label.max()) + 1)))

    def train(self) -> Dataset:
        """The training examples, read once and kept."""
        return self._split(True)

    def test(self) -> Dataset:
        """The test examples: as published, a user's own test array or folder, or a held-out part."""
        return self._split(False)

    def _split(self, train: bool) -> Dataset:
        if train in self._splits:
            return self._splits[train]
        stored = self.stored(train)
        split = self._decoded(stored) if isinstance(stored, Pictures) else self._shaped(stored)
        if self.record.shape is not None and (split.context is None) != (self.record.context is None):
            got = f"is read with{'out' * (split.context is None)} a context"
            expected = f"its record says `context={self.record.context}`"
            raise InputError(f"Data set {self.name!r} {got}, but {expected}: correct the record.")
        split = split._replace(preprocessing=split.preprocessing or self.shaping.describe())
        return self._splits.setdefault(train, Dataset(self.name, **split._asdict()))

    def stored(self, train: bool) -> Split | Pictures:
        """One split as it is stored, neither thinned nor shaped; missing files are downloaded, if allowed."""
        record = self.record
        try:
            return record.function(self, train)
        except MissingFile as missing:
            what_to_do = f"put {record.layout} in the data root {str(self.root)!r}"
            if not self.download:
                fix = f"{what_to_do}, name another root by `root` or FLOWPRIOR_DATA, or allow the download"
                how = "with download=True (Source.download in a config)"
                wrong = f"was not found ({missing})"
                raise InputError(f"Data set {self.name!r} {wrong}: {fix} {how}.") from missing
            try:
                download(record.files() if record.files else [], self.root)
            except Exception as error:  # whatever network, checksum or disk raise, the way out is the same
                wrong = f"The download of data set {self.name!r} failed ({reason(error)})"
                raise InputError(f"{wrong}: {what_to_do} yourself.") from error
            return record.function(self, train)

    def _shaped(self, split: Split) -> Split:
        rows = thin(len(split.x), self.limit)
        split = split if len(rows) == len(split.x) else split.rows(rows)
        if split.x.dim() == 4:
            x, derive = self.shaping(split.x), self.record.context_from
            return split._replace(x=x, context=derive(x) if derive else split.context)
        if self.shaping != Shaping():
            fix = "leave out size, channels, crop and resize"
            raise InputError(f"{self.name!r} holds vectors, not images: {fix}.")
        return split

    def _decoded(self, pictures: Pictures) -> Split:
        pictures = pictures.limited(self.limit)
        check_pairs(pictures)
        split = Split(decode(pictures, self.shaping, self.memory_limit), pictures.label, pictures.classes)
        if pictures.context is not None:
            return split._replace(context=decode(pictures.context, self.shaping, self.memory_limit))
        if pictures.joints is None:
            return split
        height, width = split.x.shape[2:]
        if height != width:
            wrong = f"are {height} x {width} but poses are drawn on squares"
            raise InputError(f"The pictures of {self.name!r} {wrong}: pass `size`, e.g. 64.")
        joints = in_pixels(pictures.joints, width)
        return split._replace(context=draw_stick_man(joints, width), known={"joints": joints})


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())
