"""Downloads of published image sets, from the addresses and with the checksums that torchvision knows."""

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Remote:
    """A file to download: addresses to try (or a Google Drive id), the folder under the root, and its MD5."""

    urls: tuple[str, ...]
    folder: str
    filename: str
    md5: str


def download(remotes: Iterable[Remote], root: Path) -> None:
    """Download the files that `root` lacks, as they are; raises whatever network, checksum or disk do.

    Each is downloaded beside its target, its MD5 checked, then renamed: a broken download never looks whole.
    """
    from torchvision.datasets import utils

    for remote in remotes:
        folder = root / remote.folder
        if (folder / remote.filename).exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            for i, url in enumerate(remote.urls):
                fetch = utils.download_url if "://" in url else utils.download_file_from_google_drive
                try:
                    fetch(url, temporary, remote.filename, remote.md5)
                    break
                except (OSError, RuntimeError):
                    if i == len(remote.urls) - 1:
                        raise
            os.replace(Path(temporary) / remote.filename, folder / remote.filename)


def remote_files(name: str) -> list[Remote]:
    """The files of MNIST, FashionMNIST, SVHN, CelebA, CIFAR10 or STL10, as torchvision names the set."""
    from torchvision import datasets

    kind = getattr(datasets, name)
    if name in ("MNIST", "FashionMNIST"):
        files = [(file, md5, tuple(mirror + file for mirror in kind.mirrors)) for file, md5 in kind.resources]
        return [Remote(urls, f"{name}/raw", file, md5) for file, md5, urls in files]
    if name == "SVHN":
        return [
            Remote((url,), "", file, md5) for url, file, md5 in map(kind.split_list.get, ("train", "test"))
        ]
    if name == "CelebA":  # aligned pictures and partition, by their ids at Google Drive
        wanted = ("img_align_celeba.zip", "list_eval_partition.txt")
        return [Remote((key,), "celeba", file, md5) for key, md5, file in kind.file_list if file in wanted]
    return [Remote((kind.url,), "", kind.filename, kind.tgz_md5)]
