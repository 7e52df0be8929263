"""Tiny data sets in the true formats and folder layouts of the published ones."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile

import numpy as np
from PIL import Image
from scipy.io import savemat

from flowprior.data.drawing import JOINTS


def random_images(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def idx_bytes(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(root, folder="MNIST", end="", n=12):
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    written = {}
    for split, count, seed in (("train", n, 1), ("t10k", n // 2, 2)):
        images, labels = random_images(count, 28, 28, seed=seed), np.arange(count, dtype=np.uint8) % 10
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx_bytes(array)
            (raw / f"{split}-{kind}-ubyte{end}").write_bytes(gzip.compress(content) if end else content)
        written[split] = images, labels
    return written


def _cifar_batches(n):
    for i, name in enumerate([f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]):
        data = random_images(n, 3072, seed=i)
        yield name, {"batch_label": name, "labels": [(i + j) % 10 for j in range(n)], "data": data}


def write_cifar10(root, n=3):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    entries = dict(_cifar_batches(n))
    for name, entry in entries.items():
        (folder / name).write_bytes(pickle.dumps(entry, protocol=2))
    return entries


def write_cifar10_archive(root, n=3):
    entries = dict(_cifar_batches(n))
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as tar:
        for name, entry in entries.items():
            content = pickle.dumps(entry, protocol=2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        evil = tarfile.TarInfo("../../escaped.txt")
        tar.addfile(evil, io.BytesIO(b""))
    return entries


def write_svhn(folder, n=10):
    folder.mkdir(parents=True, exist_ok=True)
    images = random_images(n, 32, 32, 3)
    labels = np.arange(1, n + 1).reshape(-1, 1)  # 1..10, where 10 means the digit 0
    for split in ("train", "test"):
        savemat(folder / f"{split}_32x32.mat", {"X": images.transpose(1, 2, 3, 0), "y": labels})
    return images


def write_stl10(root, n=2):
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    images = random_images(n, 96, 96, 3)
    for split in ("train", "test"):
        (folder / f"{split}_X.bin").write_bytes(images.transpose(0, 3, 2, 1).tobytes())
        (folder / f"{split}_y.bin").write_bytes(bytes(range(1, n + 1)))
    unlabeled = np.concatenate([images, images[::-1]]).transpose(0, 3, 2, 1)
    (folder / "unlabeled_X.bin").write_bytes(unlabeled.tobytes())
    return images


def _celeba_pictures(n):
    x = np.linspace(0, 255, 178)
    for i in range(n):
        picture = np.broadcast_to(x[None, :, None], (218, 178, 3)).copy()
        picture[..., 1] = 20 * i
        stream = io.BytesIO()
        Image.fromarray(picture.astype(np.uint8)).save(stream, "JPEG", quality=95)
        yield f"{i + 1:06d}.jpg", stream.getvalue()


def write_celeba(root, n=8, archive=False):
    """Pictures 1.. are in the splits 0, 0, 1, 2, 0, 0, 1, 2, ...; the i-th has green 20 i."""
    folder = root / "celeba"
    folder.mkdir(parents=True)
    pictures = dict(_celeba_pictures(n))
    splits = [(0, 0, 1, 2)[i % 4] for i in range(n)]
    lines = [f"{name} {split}" for name, split in zip(pictures, splits, strict=True)]
    (folder / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    if archive:
        with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as file:
            for name, content in pictures.items():
                file.writestr(f"img_align_celeba/{name}", content)
    else:
        (folder / "img_align_celeba").mkdir()
        for name, content in pictures.items():
            (folder / "img_align_celeba" / name).write_bytes(content)


def write_pairs(folder, n=20, side=40):
    """x and y of equal names, in two folders."""
    for part, seed in (("x", 1), ("y", 2)):
        (folder / part).mkdir(parents=True)
        for i, picture in enumerate(random_images(n, side, side, 3, seed=seed)):
            Image.fromarray(picture).save(folder / part / f"{i:02d}.png")


def write_poses(folder, n=20, side=40):
    """An index of poses, every fourth a test picture, and its pictures."""
    (folder / "img").mkdir(parents=True)
    names = [f"img/{i:02d}.png" for i in range(n)]
    for name, picture in zip(names, random_images(n, side, side, 3), strict=True):
        Image.fromarray(picture).save(folder / name)
    joints = np.random.default_rng(0).uniform(0.1, 0.9, (n, len(JOINTS), 2)).astype(np.float32)
    train = [i % 4 > 0 for i in range(n)]
    index = {"joint_order": list(JOINTS), "imgs": names, "train": train, "joints": joints}
    (folder / "index.p").write_bytes(pickle.dumps(index, protocol=2))
