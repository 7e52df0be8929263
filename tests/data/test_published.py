import gzip
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from flowprior.data import Source
from flowprior.errors import InputError


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("Fashion-MNIST", "FashionMNIST")])
@pytest.mark.parametrize("end", ["", ".gz"])
def test_mnist(tmp_path, standins, name, folder, end):
    written = standins.write_mnist(tmp_path, folder, end)
    source = Source(name, tmp_path)
    for data, split in ((source.train(), "train"), (source.test(), "t10k")):
        images, labels = written[split]
        assert np.array_equal(data.x[:, 0].numpy(), images)
        assert data.label.tolist() == labels.tolist()
        assert data.x.shape[1:] == source.image_shape
        assert len(data.classes) == 10


def test_mnist_agrees_with_torchvision(tmp_path, standins):
    from torchvision.datasets import FashionMNIST

    standins.write_mnist(tmp_path, "FashionMNIST")
    ours = Source("fashion_mnist", tmp_path).train()
    theirs = FashionMNIST(tmp_path, train=True)
    assert torch.equal(ours.x[:, 0], theirs.data)
    assert torch.equal(ours.label, theirs.targets)


def test_mnist_grows_by_a_black_border(tmp_path, standins):
    images, _ = standins.write_mnist(tmp_path)["train"]
    padded = Source("mnist", tmp_path, size=32).train()
    assert np.array_equal(padded.x[:, 0, 2:30, 2:30].numpy(), images)
    assert padded.x.sum() == images.sum(dtype=int)
    assert padded.preprocessing == "pad to 32"
    resized = Source("mnist", tmp_path, size=32, resize="bilinear", channels=3)
    assert resized.train().x.shape[1:] == resized.image_shape == (3, 32, 32)
    assert resized.train().preprocessing == "bilinear to 32, RGB"
    assert Source("mnist", tmp_path, size=14).train().preprocessing == "bicubic to 14"


def cifar_images(entries, names):
    data = np.concatenate([entries[name]["data"] for name in names]).reshape(-1, 3, 32, 32)
    return data, [label for name in names for label in entries[name]["labels"]]


@pytest.mark.parametrize("archive", [False, True])
def test_cifar10(tmp_path, standins, archive):
    root = tmp_path / "root"
    root.mkdir()
    entries = (standins.write_cifar10_archive if archive else standins.write_cifar10)(root)
    source = Source("CIFAR10", root)
    for data, names in (
        (source.train(), [f"data_batch_{k}" for k in range(1, 6)]),
        (source.test(), ["test_batch"]),
    ):
        images, labels = cifar_images(entries, names)
        assert np.array_equal(data.x.numpy(), images)
        assert data.label.tolist() == labels
    assert not list(tmp_path.rglob("escaped.txt"))  # nothing is ever unpacked
    assert source.train().x.shape[1:] == source.image_shape


def test_cifar10_from_arrays_beside_it(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    np.savez(
        tmp_path / "cifar10.npz",
        train_images=images[:4], train_labels=np.arange(4), test_images=images[4:], test_labels=[8, 9],
        train_exact=np.ones(4, bool),
    )  # fmt: skip
    source = Source("cifar10", tmp_path)
    assert np.array_equal(source.train().x.permute(0, 2, 3, 1).numpy(), images[:4])
    assert source.test().label.tolist() == [8, 9]
    assert source.test().classes[9] == "truck"


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_a_cifar10_pickle_cannot_run_code(tmp_path, standins):
    standins.write_cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(InputError, match=r"test_batch.*(posix|nt)\.mkdir"):
        Source("cifar10", tmp_path).test()
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("folder", [".", "svhn", "SVHN"])
def test_svhn(tmp_path, standins, folder):
    images = standins.write_svhn(tmp_path / folder)
    data = Source("svhn", tmp_path).train()
    assert np.array_equal(data.x.permute(0, 2, 3, 1).numpy(), images)
    assert data.label.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


def test_stl10(tmp_path, standins):
    images = standins.write_stl10(tmp_path)
    data = Source("stl10", tmp_path).test()
    assert np.array_equal(data.x.permute(0, 2, 3, 1).numpy(), images)
    assert data.label.tolist() == [0, 1]
    assert Source("stl10", tmp_path, size=32).train().x.shape == (2, 3, 32, 32)
    without = Source("stl10_unlabeled", tmp_path)
    assert np.array_equal(
        without.train().x.permute(0, 2, 3, 1).numpy(), np.concatenate([images, images[::-1]])
    )
    assert np.array_equal(without.test().x.permute(0, 2, 3, 1).numpy(), images)
    assert without.train().label is None


@pytest.mark.parametrize("archive", [False, True])
def test_celeba(tmp_path, standins, archive):
    standins.write_celeba(tmp_path, archive=archive)
    source = Source("CelebA", tmp_path, size=64)
    train, test = source.train(), source.test()
    assert train.x.shape == (4, 3, 64, 64)
    assert train.x.shape[1:] == source.image_shape
    greens = [data.x[:, 1].float().mean((1, 2)).div(20).round().tolist() for data in (train, test)]
    assert greens == [[0, 1, 4, 5], [3, 7]]  # the validation split, 2 and 6, is in neither
    # The crop keeps columns 19..158 of a ramp over 178: a result pixel is the mean of about 2.2 of them.
    red = train.x[0, 0].float().mean(0)
    assert abs(red[0].item() - 19.6 * 255 / 177) < 4
    assert abs(red[-1].item() - 157.4 * 255 / 177) < 4
    assert train.preprocessing == "center crop 140, bicubic to 64"
    assert Source("celeba", tmp_path, crop=108).train().x.shape == (4, 3, 108, 108)


def test_large_pictures_are_decoded_once(tmp_path, standins, monkeypatch):
    standins.write_celeba(tmp_path)
    options = {"size": 32, "channels": 1}
    in_memory = Source("celeba", tmp_path, **options).train()
    mapped = Source("celeba", tmp_path, memory_limit=100, **options).train()
    assert torch.equal(in_memory.x, mapped.x)
    assert in_memory.fingerprint == mapped.fingerprint
    cached = list((tmp_path / "celeba" / ".flowprior").iterdir())
    assert [path.stat().st_size for path in cached] == [4 * 32 * 32]
    mapped.x.zero_()  # a private mapping: neither the file nor the next run sees it

    def no_decoding(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr("flowprior.data.pictures._decoded", no_decoding)
    again = Source("celeba", tmp_path, memory_limit=100, **options).train()
    assert torch.equal(in_memory.x, again.x)
    with pytest.raises(AssertionError, match="decoded again"):  # other settings are another set
        Source("celeba", tmp_path, memory_limit=100, size=32, channels=1, crop=160).train()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "svhn", "celeba", "stl10"])
def test_a_missing_set_says_what_to_put_where(tmp_path, name):
    layout = {
        "mnist": "MNIST/raw", "fashion_mnist": "FashionMNIST/raw", "cifar10": "cifar-10-batches-py",
        "svhn": "train_32x32.mat", "celeba": "list_eval_partition.txt", "stl10": "stl10_binary",
    }[name]  # fmt: skip
    with pytest.raises(InputError) as caught:
        Source(name, tmp_path / "nowhere").train()
    for part in (repr(name), layout, str(tmp_path / "nowhere"), "FLOWPRIOR_DATA", "download=True"):
        assert part in str(caught.value)


def test_the_environment_names_the_root(tmp_path, standins, monkeypatch):
    standins.write_mnist(tmp_path / "sets")
    monkeypatch.setenv("FLOWPRIOR_DATA", str(tmp_path / "sets"))
    assert len(Source("mnist").train()) == 12
    assert Source("mnist", tmp_path / "other").root == tmp_path / "other"


def fail_download(*_, **__):
    raise OSError("<urlopen error\n no network>")


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn", "celeba", "stl10"])
def test_a_failed_download_says_what_to_put_where_and_leaves_nothing(tmp_path, monkeypatch, name):
    monkeypatch.setattr("torchvision.datasets.utils.download_url", fail_download)
    monkeypatch.setattr("torchvision.datasets.utils.download_file_from_google_drive", fail_download)
    with pytest.raises(
        InputError, match=r"download .* failed \(<urlopen error no network>\): put .* yourself"
    ):
        Source(name, tmp_path, download=True).train()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_download_is_used_and_not_repeated(tmp_path, monkeypatch, standins):
    elsewhere = tmp_path / "elsewhere"
    standins.write_mnist(elsewhere, end=".gz")
    asked = []

    def download(url, folder, filename, md5):
        asked.append(url)
        if "s3" in url:  # the first mirror is down
            raise OSError("down")
        (type(elsewhere)(folder) / filename).write_bytes((elsewhere / "MNIST/raw" / filename).read_bytes())

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)
    source = Source("mnist", tmp_path / "root", download=True)
    assert len(source.train()) == 12
    assert len(asked) == 8  # four files, two mirrors each
    assert len(source.test()) == 6
    assert len(asked) == 8
    assert Source("mnist", tmp_path / "root").train().fingerprint == source.train().fingerprint


def mnist_files(root):
    return (
        root / "MNIST" / "raw" / "train-images-idx3-ubyte",
        root / "MNIST" / "raw" / "train-labels-idx1-ubyte",
    )


def test_damaged_idx_files(tmp_path, standins):
    standins.write_mnist(tmp_path)
    images, labels = mnist_files(tmp_path)
    whole = images.read_bytes()
    for damaged, message in [
        (b"", "opens with nothing"),
        (b"<html>not found</html>", "opens with 3c68746d but must open with 00000803"),
        (whole[:-1], "holds 9407 values but must hold 12x28x28"),
        (whole + b"x", "holds 9409 values"),
        (standins.idx_bytes(np.zeros((0, 28, 28), np.uint8)), "holds 0 values"),
        (standins.idx_bytes(np.zeros((5, 28, 28), np.uint8)), "5 train images and 12 labels"),
    ]:
        images.write_bytes(damaged)
        with pytest.raises(InputError, match=message) as caught:
            Source("mnist", tmp_path).train()
        assert str(tmp_path / "MNIST") in str(caught.value)
    images.write_bytes(whole)
    labels.unlink()
    with pytest.raises(InputError, match="was not found"):
        Source("mnist", tmp_path).train()


def test_damaged_archives_and_binaries(tmp_path, standins):
    standins.write_mnist(tmp_path, end=".gz")
    packed = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(InputError, match="whole gzip file"):
        Source("mnist", tmp_path).train()
    packed.write_bytes(gzip.compress(b"x"))
    with pytest.raises(InputError, match="opens with 78"):
        Source("mnist", tmp_path).train()
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"cifar-10-python\.tar\.gz.* cannot be read"):
        Source("cifar10", tmp_path).train()
    (tmp_path / "train_32x32.mat").write_bytes(b"no matrix")
    with pytest.raises(InputError, match=r"train_32x32\.mat.* must hold uint8 X"):
        Source("svhn", tmp_path).train()
    standins.write_stl10(tmp_path)
    (tmp_path / "stl10_binary" / "train_y.bin").write_bytes(b"\1\2\3")
    with pytest.raises(InputError, match="holds 55296 bytes but must hold 27648 for each of its 3 labels"):
        Source("stl10", tmp_path).train()
    standins.write_celeba(tmp_path)
    partition = tmp_path / "celeba" / "list_eval_partition.txt"
    for text, message in (("a b c\n", "cannot be read"), ("", "names no picture of split 0")):
        partition.write_text(text)
        with pytest.raises(InputError, match=message):
            Source("celeba", tmp_path).train()


@pytest.mark.parametrize(
    "name", ["mnist", "mnist.gz", "cifar10", "cifar10.tar", "svhn", "celeba", "celeba.zip"]
)
def test_flipped_bytes_end_in_data_or_one_sentence(tmp_path, standins, name):
    write, path = {
        "mnist": (standins.write_mnist, "MNIST/raw/t10k-images-idx3-ubyte"),
        "mnist.gz": (
            lambda root: standins.write_mnist(root, end=".gz"),
            "MNIST/raw/t10k-images-idx3-ubyte.gz",
        ),
        "cifar10": (standins.write_cifar10, "cifar-10-batches-py/test_batch"),
        "cifar10.tar": (standins.write_cifar10_archive, "cifar-10-python.tar.gz"),
        "svhn": (standins.write_svhn, "test_32x32.mat"),
        "celeba": (standins.write_celeba, "celeba/img_align_celeba/000004.jpg"),
        "celeba.zip": (lambda root: standins.write_celeba(root, archive=True), "celeba/img_align_celeba.zip"),
    }[name]
    write(tmp_path)
    target = tmp_path / path
    whole = target.read_bytes()
    generator = np.random.default_rng(5)
    for _ in range(12):
        damaged = bytearray(whole)
        for position in [*generator.integers(0, len(whole), 3), generator.integers(0, 60)]:
            damaged[position] ^= int(generator.integers(1, 256))
        target.write_bytes(damaged)
        message = ""
        try:
            data = Source(name.split(".")[0], tmp_path).test()
        except InputError as error:
            message = str(error)
        else:
            assert data.x.dtype == torch.uint8
        assert "\n" not in message


def test_a_celeba_picture_that_is_no_picture(tmp_path, standins):
    standins.write_celeba(tmp_path)
    folder = tmp_path / "celeba" / "img_align_celeba"
    (folder / "000002.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"'000002\.jpg' cannot be read"):
        Source("celeba", tmp_path).train()
    (folder / "000002.jpg").unlink()
    with pytest.raises(InputError, match=r"'000002\.jpg' cannot be read .*No such file"):
        Source("celeba", tmp_path).train()
    Image.new("RGB", (178, 100)).save(folder / "000002.jpg")
    with pytest.raises(InputError, match=r"`crop` \(=140\) is larger than the pictures, which are 100 x 178"):
        Source("celeba", tmp_path).train()
