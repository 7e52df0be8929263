"""Downloads of published image sets, from the addresses and with the checksums that torchvision knows."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Remote:
    """A file to download: addresses to try (or a Google Drive id), the folder under the root, and its MD5."""

    urls: tuple[str, ...]
    folder: str
    filename: str
    md5: str


def download_set(name: str, root: Path) -> None:
    """Download the files of the published set `name` that `root` lacks, as they are: nothing is unpacked.

    Raises:
        Exception: whatever network, checksum or disk raise.
    """
    for remote in _remotes(name):
        _download(remote, root)


def _remotes(name: str) -> list[Remote]:
    from torchvision import datasets

    if name in ("mnist", "fashion_mnist"):
        kind = datasets.MNIST if name == "mnist" else datasets.FashionMNIST
        return [
            Remote(tuple(mirror + file for mirror in kind.mirrors), f"{kind.__name__}/raw", file, md5)
            for file, md5 in kind.resources
        ]
    if name == "svhn":
        files = [datasets.SVHN.split_list[split] for split in ("train", "test")]
        return [Remote((url,), "", file, md5) for url, file, md5 in files]
    if name == "celeba":
        wanted = ("img_align_celeba.zip", "list_eval_partition.txt")
        files = [entry for entry in datasets.CelebA.file_list if entry[2] in wanted]
        return [Remote((file_id,), "celeba", file, md5) for file_id, md5, file in files]
    kind = {"cifar10": datasets.CIFAR10, "stl10": datasets.STL10}[name]
    return [Remote((kind.url,), "", kind.filename, kind.tgz_md5)]


def _download(remote: Remote, root: Path) -> None:
    """Download beside the target, check the MD5, then rename: a broken download never looks whole."""
    from torchvision.datasets import utils

    folder = root / remote.folder
    if (folder / remote.filename).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        for i, url in enumerate(remote.urls):
            try:
                if "://" in url:
                    utils.download_url(url, temporary, remote.filename, remote.md5)
                else:
                    utils.download_file_from_google_drive(url, temporary, remote.filename, remote.md5)
                break
            except (OSError, RuntimeError):
                if i == len(remote.urls) - 1:
                    raise
        os.replace(Path(temporary) / remote.filename, folder / remote.filename)
