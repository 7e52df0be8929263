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
    """Download the files that `root` lacks, as they are: nothing is unpacked.

    Each is downloaded beside its target, its MD5 checked, then renamed: a broken download never looks whole.

    Raises:
        Exception: whatever network, checksum or disk raise.
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


def mnist_files(name: str) -> list[Remote]:
    """The four files of MNIST or FashionMNIST, as torchvision names the set."""
    from torchvision import datasets

    kind = getattr(datasets, name)
    return [
        Remote(tuple(mirror + file for mirror in kind.mirrors), f"{name}/raw", file, md5)
        for file, md5 in kind.resources
    ]


def svhn_files() -> list[Remote]:
    """The two .mat files of SVHN."""
    from torchvision import datasets

    files = [datasets.SVHN.split_list[split] for split in ("train", "test")]
    return [Remote((url,), "", file, md5) for url, file, md5 in files]


def celeba_files() -> list[Remote]:
    """CelebA's aligned pictures and its partition."""
    from torchvision import datasets

    wanted = ("img_align_celeba.zip", "list_eval_partition.txt")
    files = [entry for entry in datasets.CelebA.file_list if entry[2] in wanted]
    return [Remote((file_id,), "celeba", file, md5) for file_id, md5, file in files]


def archive(name: str) -> list[Remote]:
    """The archive of CIFAR10 or STL10, as torchvision names the set."""
    from torchvision import datasets

    kind = getattr(datasets, name)
    return [Remote((kind.url,), "", kind.filename, kind.tgz_md5)]
