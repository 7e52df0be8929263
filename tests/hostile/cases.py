# ruff: noqa: E501
"""Hostile inputs and wrong uses: what is planted in a folder, and the commands that meet it there.

Each command must end with status 2 and one sentence, soon, in little memory, and with nothing planted run.
`python tests/hostile/cases.py` runs all of them and prints what came of each kind.
"""

import hashlib
import io
import itertools
import json
import os
import pickle
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save

from flowprior import FlowPrior
from flowprior.cli import main

SECONDS, GIGABYTES = 10, 2
MANY = 10**12
BOMB = 2**30 + 2**28  # bytes that a bomb unpacks to
SENTINEL = "planted-code-ran"
MOONS = ["train", "dpvae/moons", "--steps", "1", "--quiet", "--out", "new"]
DIGITS = ["train", "glf/digits", "--steps", "1", "--quiet", "--out", "new", "-b", "Source.limit = 20"]


class Evil:
    """Pickled, it would write a file when it is read."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (open, (SENTINEL, "w"))


# ---------------------------------------------------------------- configs

IMPORTS = (
    "import os",
    "import os.path as p",
    "from os import system",
    "from __gin__ import dynamic_registration",
    "import flowprior.cli",
    "from . import plugin",
)
NO_LITERALS = (
    "__import__('os').system('touch planted-code-ran')",
    "open('planted-code-ran', 'w')",
    "10**10**10",
    "[0] * 10**10",
    "'a' * 10**12",
    "[x for x in range(10**12)]",
    "lambda: 0",
    "f'{1}'",
    "(x := 3)",
    "os.environ",
    "print",
    "...",
    "1j",
    "b'bytes'",
    "{1, 2}",
    "1e999",
    "-1e999",
    "nan",
    "inf",
    "@",
    "%",
    "@os.system()",
    "@__import__()",
    "@gin.macro()",
    "@builtins.open()",
    "@../FlowPrior",
    "%gin.REQUIRED",
    "@a/b/c/d/e/f/FlowPrior()()",
    "0x" + "f" * 20_000,
    "1" * 5_000,
    "'" + "a" * 100_000,
    "(" * 60_000,
    "{" * 60_000,
    "[" * 150 + "]" * 150,
    "[" * 40_000 + "]" * 40_000,
    "(" + "1," * 60_000 + ")",
    "{'a': " * 300 + "1" + "}" * 300,
    "-" * 50_000 + "1",
    "[@FlowPrior, " * 80 + "]" * 80,
)


def bomb(depth: int, pair: str = "[{0}, {0}]") -> str:
    """Macros of which each holds the next one twice."""
    lines = [f"M{k} = " + pair.format(f"%M{k + 1}") for k in range(depth)]
    return "\n".join([*lines, f"M{depth} = 1"])


def plant_configs() -> list[list[str]]:
    """Configs in files: what is too deep, too large, circular, or no text."""
    top = "include 'dpvae/moons.gin'\n"
    texts = {
        "bomb_list": f"{top}{bomb(40)}\nexperiment.stages = %M0\n",
        "bomb_tuple": f"{top}{bomb(40, '({0}, {0})')}\nencoder/MLP.hidden = %M0\n",
        "bomb_dict": f"{top}{bomb(40, '{{1: {0}, 2: {0}}}')}\nstudy.rows = %M0\nexperiment.metrics = %M0\n",
        "bomb_call": top + "\n".join(
            f"m{k}/by_size.cpu = [@m{k + 1}/by_size(), @m{k + 1}/by_size()]" for k in range(40)
        ) + "\nm40/by_size.cpu = 1\nexperiment.stages = @m0/by_size()\n",
        "long_chain": top + "".join(f"M{k} = %M{k + 1}\n" for k in range(3000)) + "M3000 = 3\nexperiment.seed = %M0\n",
        "circle_of_one": f"{top}A = %A\nexperiment.seed = %A\n",
        "circle_of_two": f"{top}A = %B\nB = %A\nexperiment.seed = %A\n",
        "circle_in_list": f"{top}A = [%B]\nB = [%A]\nexperiment.stages = %A\n",
        "circle_of_calls": f"{top}a/by_size.cpu = @b/by_size()\nb/by_size.cpu = @a/by_size()\nexperiment.seed = @a/by_size()\n",
        "model_in_model": f"{top}autoencoder.encoder = @autoencoder\n",
        "prior_in_prior": f"{top}autoencoder.prior = @decoupled_prior\ndecoupled_prior.prior = @decoupled_prior\n",
        "include_itself": "include 'include_itself.gin'\n",
        "include_there": "include 'include_back.gin'\n",
        "include_back": "include 'include_there.gin'\n",
        "include_passwd": "include '/etc/passwd'\n",
        "include_above": "include '../../../etc/passwd'\n",
        "include_url": "include 'https://example.org/x.gin'\n",
        "include_fifo": "include 'pipe.gin'\n",
        "include_link": "include 'zero.gin'\n",
        "include_folder": "include 'folder.gin'\n",
        "include_missing": "include 'missing.gin'\n",
        "include_nothing": "include ''\n",
        "statements": top + "".join(f"A{k} = {k}\n" for k in range(60_000)),
        "long_name": top + f"{'A' * 500_000}.b = 1\n",
        "long_line": f"{top}experiment.name = '{'a' * 3_000_000}'\n",
        "scopes": top + f"{'a/' * 50_000}FlowPrior.transforms = 1\n",
        "blocks": "experiment:\n" * 2000,
        "brackets": "experiment.stages = " + "[" * 200_000,
        "unclosed": "experiment.name = '''",
        "no_experiment": "A = 1\n",
        "nothing": "",
        "comment": "# nothing but a comment",
        "plugin_named": f"# plugins: os_evil\n{top}",
    }  # fmt: skip
    for name, text in texts.items():
        Path(f"{name}.gin").write_text(text)
    for k in range(30):
        Path(f"twice{k}.gin").write_text(f"include 'twice{k + 1}.gin'\n" * 2)
    Path("twice30.gin").write_text("include 'dpvae/moons.gin'\n")
    for k in range(1500):
        Path(f"chain{k}.gin").write_text(f"include 'chain{k + 1}.gin'\n")
    Path("chain1500.gin").write_text("include 'dpvae/moons.gin'\n")
    Path("latin.gin").write_bytes("# Grüße\nexperiment.name = 'é'\n".encode("latin-1"))
    Path("wide.gin").write_text("include 'dpvae/moons.gin'\n", encoding="utf-16")
    Path("zeros.gin").write_bytes(b"\0" * 1000)
    Path("binary.gin").write_bytes(bytes(range(256)) * 10)
    with open("sparse.gin", "wb") as file:
        file.truncate(MANY)
    os.mkfifo("pipe.gin")
    os.symlink("/dev/zero", "zero.gin")
    os.symlink("loop.gin", "loop.gin")
    os.mkdir("folder.gin")
    for k, line in enumerate(IMPORTS):
        Path(f"import{k}.gin").write_text(f"{top}{line}\n")
    files = [*texts, "twice0", "chain0", "latin", "wide", "zeros", "binary", "sparse", "pipe", "zero", "loop"]
    files += ["folder", *(f"import{k}" for k in range(len(IMPORTS)))]
    cases = [["train", f"{name}.gin", *MOONS[2:]] for name in files]
    cases += [
        ["compare", f"{name}.gin", "--out", "new"] for name in ("bomb_dict", "twice0", "sparse", "pipe")
    ]
    cases += [[*MOONS, "-b", line] for line in IMPORTS]
    return cases + [[*MOONS, "-b", f"experiment.stages = {value}"] for value in NO_LITERALS]


# ---------------------------------------------------------------- files of numbers


def npy(shape: tuple[int, ...], dtype: str = "<f4", body: bytes = b"\0" * 16) -> bytes:
    """An .npy file whose header claims a shape."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue() + body


def npz_bomb(path: str, name: str = "bomb.npy") -> None:
    """An .npz that holds a small array and one that unpacks to `BOMB` bytes; the file has a hundredth."""
    stream = io.BytesIO()
    np.save(stream, np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("good.npy", stream.getvalue())
        with archive.open(name, "w", force_zip64=True) as member:
            member.write(npy((BOMB // 8, 2), body=b""))
            write_zeros(member)


def write_zeros(file: Any) -> None:
    """`BOMB` zeros."""
    for _ in range(BOMB // 2**22):
        file.write(b"\0" * 2**22)


def plant_arrays() -> list[list[str]]:
    """Arrays for `fit` and for `sample --context`: bombs, lies about sizes, code, things that are no file."""
    good = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    np.save("good.npy", good.numpy())
    claims = {
        "huge": npy((MANY,)), "huge2": npy((MANY, 2)), "square": npy((10**6, 10**6)), "large": npy((2**33, 4)),
        "negative": npy((-1, 2)), "over": npy((2**62, 8)), "flat": npy((50,)), "empty_rows": npy((0, 2), body=b""),
        "objects": npy((3,), "|O"), "text": npy((4,), "<U1"), "times": npy((2,), "<M8[s]"), "complex": npy((2,), "<c8"),
        "void": npy((4,), "|V4"), "records": npy((2,), "|V8"), "half_body": npy((50, 2)), "scalar": npy((), body=b"\0" * 4),
        "bytes": npy((16,), "|S1"), "many_axes": npy((1,) * 32 + (4,)), "raw": b"\x93NUMPY", "zeros": b"\0" * 100,
        "version": b"\x93NUMPY\x09\x00" + b"\0" * 100, "long_head": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 100,
        "code_head": b"\x93NUMPY\x01\x00\x40\x00" + b"__import__('os').system('touch planted-code-ran')".ljust(63) + b"\n",
        "deep_head": b"\x93NUMPY\x01\x00\xff\xff" + (b"(" * 65534) + b"\n", "nothing": b"",
    }  # fmt: skip
    for name, content in claims.items():
        Path(f"{name}.npy").write_bytes(content)
    np.save("pickled.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    np.save("nan.npy", np.full((50, 2), np.nan, np.float32))
    np.save("inf.npy", np.where(np.arange(100).reshape(50, 2) == 7, np.inf, 1.0))
    np.save("big.npy", np.full((50, 2), 1e39))
    with open("sparse.npy", "wb") as file:
        file.write(npy((MANY // 4,), body=b""))
        file.truncate(MANY)
    os.mkfifo("pipe.npy")
    os.symlink("/dev/zero", "zero.npy")
    os.symlink("loop.npy", "loop.npy")
    os.mkdir("folder.npy")
    names = [f"{name}.npy" for name in claims]
    names += [
        f"{k}.npy" for k in ("pickled", "nan", "inf", "big", "sparse", "pipe", "zero", "loop", "folder")
    ]
    npz_bomb("bomb.npz")
    for name, content in (
        ("text.npz", b"no zip"),
        ("empty.npz", b"PK\5\6" + b"\0" * 18),
        ("cut.npz", b"PK\3\4xx"),
    ):
        Path(name).write_bytes(content)
    np.savez("pickled.npz", z=np.array([Evil()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile("names.npz", "w") as archive:
        archive.writestr("../../outside.npy", npy((2, 2)))
        archive.writestr("/etc/outside.npy", npy((2, 2)))
    with zipfile.ZipFile("plain.npz", "w") as archive:
        archive.writestr("readme.txt", "no array")
    with zipfile.ZipFile("huge.npz", "w") as archive:
        archive.writestr("z.npy", npy((MANY,)))
    names += [f"{k}.npz" for k in ("bomb", "text", "empty", "cut", "pickled", "names", "plain", "huge")]
    names += _plant_tensors(good)
    cases = [["fit", name, "--out", "new", "--epochs", "1", "--quiet"] for name in names]
    cases += [["fit", "bomb.npz", "--key", key, "--out", "new"] for key in ("bomb", "other", "")]
    cases.append(["fit", "cut.npz", "--key", "z", "--out", "new"])
    used = (
        "huge.npy",
        "sparse.npy",
        "pipe.npy",
        "zero.npy",
        "bomb.npz",
        "bomb.pt",
        "sparse.pt",
        "expanded.pt",
    )
    cases += [["fit", "good.npy", "--context", name, "--out", "new"] for name in used]
    cases += [["sample", "conditional", "--context", name, "-n", "1", "--out", "z.npy"] for name in used]
    return cases


def _plant_tensors(good: torch.Tensor) -> list[str]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        contents = {
            "sparse": good.to_sparse(), "csr": good.to_sparse_csr(), "meta": torch.empty(50, 2, device="meta"),
            "quantized": torch.quantize_per_tensor(good, 0.1, 0, torch.qint8), "expanded": torch.zeros(1, 2).expand(MANY, 2),
            "expanded2": torch.zeros(1).expand(10**6, 10**5), "complex": good.to(torch.complex64), "scalar": torch.tensor(1.0),
            "none": None, "number": 3, "words": "words", "list": [1, "a", None], "dict": {}, "nested": {"a": {"b": good}},
            "keys": {1: good, 2: good}, "empty": torch.empty(0, 2), "nan": good * torch.nan, "vector": good[:, 0], "bool": {"a": True},
            "overlapping": torch.zeros(10**5).as_strided((10**5 - 9, 9), (1, 1)).expand(10**4, 10**5 - 9, 9),
        }  # fmt: skip
        for name, content in contents.items():
            torch.save(content, f"{name}.pt")
        torch.save([Evil()], "evil.pt")
        torch.save([Evil()], "evil_old.pt", _use_new_zipfile_serialization=False)
        torch.save(torch.nn.Linear(2, 2), "module.pt")
    Path("pickle.pt").write_bytes(pickle.dumps(Evil()))
    Path("text.pt").write_text("no torch")
    Path("cut.pt").write_bytes(Path("nan.pt").read_bytes()[:-100])
    Path("empty_file.pt").write_bytes(b"")
    os.mkfifo("pipe.pt")
    os.symlink("/dev/zero", "zero.pt")
    with open("huge.pt", "wb") as file:
        file.truncate(MANY)
    with zipfile.ZipFile("bomb.pt", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with zipfile.ZipFile("nan.pt") as parts:
            for name in parts.namelist():
                archive.writestr(name, parts.read(name))
        with archive.open("nan/data/1", "w", force_zip64=True) as member:
            write_zeros(member)
    more = (
        "evil",
        "evil_old",
        "module",
        "pickle",
        "text",
        "cut",
        "empty_file",
        "pipe",
        "zero",
        "huge",
        "bomb",
    )
    return [f"{name}.pt" for name in (*contents, *more)]


# ---------------------------------------------------------------- folders and archives of pictures


def png(width: int, height: int, body: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG file whose header claims a size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))
        )

    head = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def plant_pictures() -> list[list[str]]:
    """Folders of pictures, each with one that is a bomb, a lie, or no picture; and archives of arrays."""
    from PIL import Image

    text = b"zTXt" + b"Comment\0\0" + zlib.compress(b"\0" * 200_000_000, 1)
    ztxt = struct.pack(">L", len(text) - 4) + text + struct.pack(">L", zlib.crc32(text))
    files = {
        "bomb": png(50_000, 50_000, b"\0" * 10**6), "wide": png(2**31 - 1, 1), "tall": png(1, 2**31 - 1),
        "middle": png(11_000, 11_000, b"\0" * (11_001 * 11_000)), "text_bomb": png(8, 8, b"\0" * 72, ztxt),
        "zero": png(0, 0), "cut": png(8, 8, b"\0" * 72)[:-30], "no_data": png(8, 8), "word": b"not a picture", "empty": b"",
    }  # fmt: skip
    for name, content in files.items():
        os.makedirs(f"p_{name}")
        for each in "abc":
            Path(f"p_{name}/{each}.png").write_bytes(content)
    Path("p_word/b.jpg").write_bytes(b"\xff\xd8\xff\xe0" + b"\0" * 50)
    others = {
        "ppm": ("a.ppm", b"P6 100000 100000 255\n" + b"\0" * 100), "pgm": ("a.pgm", b"P5 9999999999 9 255\n"),
        "bmp": ("a.bmp", b"BM" + struct.pack("<LLLLllHHLL", 100, 0, 54, 40, 100_000, 100_000, 1, 24, 0, 0) + b"\0" * 60),
        "tiff": ("a.tif", b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 100), "webp": ("a.webp", b"RIFF\xff\xff\xff\xffWEBPVP8X"),
    }  # fmt: skip
    for name, (path, content) in others.items():
        os.makedirs(f"p_{name}")
        for each in "abc":
            Path(f"p_{name}/{each}{path}").write_bytes(content)
    for name in ("pipe", "device", "loop", "folder", "hidden", "nothing", "sizes", "deep16", "sparse"):
        os.makedirs(f"p_{name}")
    for folder in ("pipe", "device", "loop", "folder", "sizes", "deep16", "sparse"):
        Image.new("L", (8, 8)).save(f"p_{folder}/a.png")
    os.mkfifo("p_pipe/b.png")
    os.symlink("/dev/zero", "p_device/b.png")
    os.symlink("b.png", "p_loop/b.png")
    os.makedirs("p_folder/b.png")
    Image.new("L", (8, 8)).save("p_hidden/.a.png")
    for k in range(6):
        Image.new("L", (8, 9 + k)).save(f"p_sizes/{k}.png")
    for k in range(6):
        Image.new("I;16", (8, 8)).save(f"p_deep16/{k}.png")
    with open("p_sparse/b.png", "wb") as file:
        file.truncate(MANY)
    names = [f"p_{name}" for name in (*files, *others)]
    names += [
        f"p_{k}"
        for k in ("pipe", "device", "loop", "folder", "hidden", "nothing", "sizes", "deep16", "sparse")
    ]
    np.savez("labels.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.array([Evil()] * 4, dtype=object))
    np.savez("alpha.npz", images=np.zeros((4, 8, 8, 4), np.uint8))
    np.savez("wide_values.npz", images=np.full((4, 8, 8), 70_000))
    np.savez("short.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.arange(3))
    np.savez("others.npz", pixels=np.zeros((4, 8, 8), np.uint8))
    np.savez("nan.npz", images=np.full((4, 8, 8), np.nan))
    arrays = ["labels.npz", "alpha.npz", "wide_values.npz", "short.npz", "others.npz", "nan.npz"]
    npz_bomb("images.npz", name="images.npy")
    arrays += ["images.npz", "huge.npy", "sparse.npy", "pipe.npy", "zero.npy", "huge.npz", "text.npz"]
    _plant_published()
    published = ["--data-root", "published"]
    known = ("mnist", "fashion_mnist", "cifar10", "svhn", "celeba", "stl10", "deepfashion", "market")
    cases = [[*DIGITS, "-b", f"Source.name = '{name}'"] for name in (*names, *arrays)]
    return cases + [[*DIGITS, *published, "-b", f"Source.name = '{name}'"] for name in known]


def _plant_published() -> None:
    """Published sets whose files unpack to far more than they are, or hold code."""
    import gzip
    import tarfile

    root = Path("published")
    (root / "MNIST/raw").mkdir(parents=True)
    with gzip.open(root / "MNIST/raw/train-images-idx3-ubyte.gz", "wb", 1) as file:
        file.write(bytes((0, 0, 8, 3)) + struct.pack(">LLL", BOMB // 2**10, 32, 32))
        write_zeros(file)
    (root / "FashionMNIST/raw").mkdir(parents=True)
    os.mkfifo(root / "FashionMNIST/raw/train-images-idx3-ubyte")
    (root / "cifar-10-batches-py").mkdir()
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        (root / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(Evil()))
    (root / "train_32x32.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + b"\xff" * 100)
    (root / "celeba").mkdir()
    (root / "celeba/list_eval_partition.txt").write_text(
        "../../../../etc/passwd 0\n/dev/zero 0\n/dev/zero 2\n"
    )
    (root / "celeba/img_align_celeba").mkdir()
    with tarfile.open(root / "stl10_binary.tar.gz", "w:gz", compresslevel=1) as tar:
        info = tarfile.TarInfo("stl10_binary/train_X.bin")
        info.size = BOMB
        with open(root / "zeros", "wb") as file:
            file.truncate(info.size)
        with open(root / "zeros", "rb") as file:
            tar.addfile(info, file)
    (root / "zeros").unlink()
    for name in ("deepfashion", "market"):
        (root / name).mkdir()
    (root / "deepfashion/index.p").write_bytes(pickle.dumps(Evil()))
    os.mkfifo(root / "market/index.p")


# ---------------------------------------------------------------- folders of priors and runs


def plant_priors() -> list[list[str]]:
    """Folders of priors whose config or weights were changed, with a checksum that fits."""
    FlowPrior(2, transforms=2, hidden_features=(4,)).save_pretrained("prior")
    FlowPrior(2, transforms=2, hidden_features=(4,), context_features=2).save_pretrained("conditional")
    config, tensors = json.loads(Path("prior/config.json").read_text()), load_file("prior/model.safetensors")
    first = next(name for name, value in tensors.items() if value.is_floating_point())

    def write(name: str, changed: object, payload: bytes | None = None) -> None:
        shutil.copytree("prior", f"q_{name}")
        if payload is not None:
            Path(f"q_{name}/model.safetensors").write_bytes(payload)
            changed = {**config, "sha256": hashlib.sha256(payload).hexdigest()}
        text = changed if isinstance(changed, str) else json.dumps(changed)
        Path(f"q_{name}/config.json").write_text(text)

    arguments = config["arguments"]
    changes = {
        "transforms": MANY, "hidden_features": [MANY], "features": MANY, "context_features": MANY, "base": "x", "backend": "os",
        "recipe": {"transforms": MANY}, "bijector": "os.system", "standardize": 3,
    }  # fmt: skip
    for name, value in changes.items():
        write(f"arguments_{name}", {**config, "arguments": {**arguments, name: value}})
    write(
        "arguments_both",
        {**config, "arguments": {**arguments, "features": 10**5, "hidden_features": [10**6]}},
    )
    write("arguments_unknown", {**config, "arguments": {**arguments, "code": "x"}})
    nested: object = config
    for _ in range(400):
        nested = {**config, "class": "DecoupledPrior", "arguments": {"prior": nested}}
    write("nested", nested)
    for name, value in (
        ("os.system", "os.system"),
        ("object", "object"),
        ("number", 3),
        ("none", None),
        ("Saved", "Saved"),
    ):
        write(f"class_{name}", {**config, "class": value})
    write("mixture", {**config, "class": "MixturePrior", "arguments": {"features": 2, "components": MANY}})
    write(
        "mixture2", {**config, "class": "MixturePrior", "arguments": {"features": 10**5, "components": 10**5}}
    )
    for name, value in (("format", MANY), ("dtype", "float8_e4m3fn"), ("sha256", "0" * 64)):
        write(f"changed_{name}", {**config, name: value})
    write("list", "[]")
    write("deep", "[" * 100_000)
    write("deep_closed", "[" * 50_000 + "]" * 50_000)
    write("empty", "")
    write("number", "1" * 10_000)
    write("latin", "\xff")
    good = Path("prior/model.safetensors").read_bytes()
    length = int.from_bytes(good[:8], "little")
    damaged = {
        "empty": b"", "short": good[:7], "head_only": good[:8], "cut": good[:-10], "more": good + b"\0" * 10,
        "length": struct.pack("<Q", 2**62) + good[8:], "length0": struct.pack("<Q", 0) + good[8:],
        "json": good[:8] + b"{" * length + good[8 + length :], "spaces": good[:8] + b" " * length + good[8 + length :],
        "offset": good.replace(b"[0,", b"[9,", 1), "dtype": good.replace(b"F32", b"F99", 1), "nan": save({**tensors, first: tensors[first] * torch.nan}),
        "inf": save({**tensors, first: tensors[first] + torch.inf}), "missing": save({k: v for k, v in tensors.items() if k != first}),
        "extra": save({**tensors, "evil": torch.zeros(3)}), "shape": save({**tensors, first: torch.zeros(7, 7)}), "none": save({}),
        "ints": save({k: torch.zeros(v.shape, dtype=torch.int64) for k, v in tensors.items()}), "pickle": pickle.dumps(Evil()),
    }  # fmt: skip
    for name, payload in damaged.items():
        write(f"weights_{name}", config, payload)
    for kind in ("config.json", "model.safetensors"):
        for name in ("pipe", "device", "folder", "missing"):
            folder = Path(f"q_{kind[:5]}_{name}")
            shutil.copytree("prior", folder)
            (folder / kind).unlink()
            if name == "pipe":
                os.mkfifo(folder / kind)
            elif name == "device":
                os.symlink("/dev/zero", folder / kind)
            elif name == "folder":
                os.mkdir(folder / kind)
    return [["sample", path.name, "-n", "3", "--out", "z.npy"] for path in sorted(Path().glob("q_*"))]


def plant_runs(run: Path) -> list[list[str]]:
    """Copies of a run folder, each with one file changed."""
    cases = []

    def copy(name: str) -> Path:
        folder = Path(f"r_{name}")
        shutil.copytree(run, folder)
        cases.append(["eval", folder.name, "--metrics", "nll", "--samples", "10"])
        return folder

    config = (run / "config.gin").read_text()
    for name, line in {
        "import": "import os", "bomb": bomb(40) + "\nexperiment.metrics = %M0", "size": f"FlowPrior.transforms = {MANY}",
        "include": "include '/etc/passwd'", "word": "experiment.seed = 'x'", "name": "experiment.name = '../../up'",
    }.items():  # fmt: skip
        (copy(f"config_{name}") / "config.gin").write_text(f"{config}\n{line}\n")
    (copy("config_binary") / "config.gin").write_bytes(b"\xff\xfe" * 100)
    reports = {
        "deep": "[" * 100_000,
        "list": "[]",
        "word": "x",
        "empty": "",
        "binary": "\0",
        "number": "3",
        "big": "1" * 9_999,
    }
    for name, text in reports.items():
        (copy(f"report_{name}") / "report.json").write_text(text)
    for name, target in (("config", "config.gin"), ("report", "report.json")):
        for kind in ("pipe", "device"):
            folder = copy(f"{name}_{kind}")
            (folder / target).unlink()
            os.mkfifo(folder / target) if kind == "pipe" else os.symlink("/dev/zero", folder / target)
    return cases


# ---------------------------------------------------------------- values, and things in wrong places

COUNTS = (
    "FlowPrior.transforms", "FlowPrior.hidden_features", "autoencoder.features", "encoder/MLP.hidden", "decoder/MLP.hidden",
    "experiment.seed", "experiment.threads", "joint_stage.batch_size", "joint_stage.epochs", "joint_stage.clip", "joint_stage.ema",
    "joint_stage.validation", "joint_stage.patience", "OptimizerSettings.lr", "Source.seed", "Source.limit", "Source.size",
)  # fmt: skip
OPTIONS = {  # of a verb: words before, and options that take a number
    "sample": (["prior", "--out", "z.npy"], ["-n", "--seed", "--batch"]),
    "fit": (["good.npy", "--out", "new", "--quiet"], ["--transforms", "--hidden", "--epochs", "--batch-size", "--lr", "--patience", "--seed"]),
    "compare": (["dpvae/moons", "--out", "new"], ["--seeds", "--jobs"]),
    "benchmark": (["--quick", "--out", "new"], ["--features", "--depth", "--width", "--batch", "--threads", "--seconds", "--seed"]),
}  # fmt: skip
WORDS = (str(MANY * 10**20), "-1", "nan", "inf", "-inf", "1e999", "x", "", "0x10", "1_0_", "1;2", "٣x")


def numbers() -> list[list[str]]:
    """Counts that are too large, negative, fractions, not numbers."""
    cases = []
    for target, value in itertools.product(COUNTS, (MANY, 10**30, -1, "many", 1e308)):
        text = f"({value!r},)" if target.endswith(("hidden", "hidden_features")) else repr(value)
        if (target, value) in (("experiment.seed", MANY), ("Source.seed", MANY)):
            continue  # a fine seed
        flow = ["-b", "autoencoder.prior = @FlowPrior"]
        cases.append([*MOONS, *flow, "-b", f"{target} = {text}"])
    for verb, (before, options) in OPTIONS.items():
        cases += [[verb, *before, f"{option}={word}"] for option in options for word in WORDS]
    return cases


PLACES = {  # what belongs there stands for itself
    "experiment.model": ("autoencoder", False), "experiment.source": ("Source", True),
    "autoencoder.encoder": ("encoder/MLP", False), "autoencoder.decoder": ("decoder/MLP", False),
    "autoencoder.prior": ("FlowPrior", False), "autoencoder.posterior": ("GaussianPosterior", True),
    "autoencoder.likelihood": ("GaussianLikelihood", True), "joint_stage.objective": ("ELBO", False),
    "joint_stage.optimizers": ("OptimizerSettings", True),
}  # fmt: skip
THINGS = (
    "ELBO",
    "FlowPrior",
    "MLP",
    "Source",
    "GaussianPosterior",
    "OptimizerSettings",
    "autoencoder",
    "joint_stage",
    "by_size",
)


def misplaced() -> list[list[str]]:
    """Things where others belong, called where they are not, and not called where they are."""
    cases = []
    for place, (own, called) in PLACES.items():
        wrong = [f"@{own}()" if not called else f"@{own}", f"[@{own}]", "'word'", "3", "{}"]
        wrong += [f"@{thing}{'()' if called else ''}" for thing in THINGS if thing not in own]
        cases += [[*MOONS, "-b", f"{place} = {value}"] for value in wrong]
    stages = (
        "@joint_stage()",
        "@joint_stage",
        "[@joint_stage()]",
        "[@ELBO]",
        "[@FlowPrior]",
        "['joint']",
        "[3]",
        "'x'",
    )
    return cases + [[*MOONS, "-b", f"experiment.stages = {value}"] for value in stages]


NAMES = (
    "../up",
    "/tmp/absolute",
    "a/../../b",
    "..",
    ".",
    "",
    "a\0b",
    "a\nb",
    "~/x",
    "a//b",
    " ",
    "a" * 300,
)


def names() -> list[list[str]]:
    """Names of experiments and rows that would leave the folder of runs."""
    cases = [["train", "dpvae/moons", "--steps", "1", "-b", f"experiment.name = {name!r}"] for name in NAMES]
    row = "study.rows = {{{!r}: ()}}"
    return cases + [["compare", "dpvae/moons", "--out", "new", "-b", row.format(name)] for name in NAMES]


def wrong_uses(run: Path) -> list[list[str]]:
    """What people type: no such file, verb, option, device, metric, figure; things of another kind."""
    verbs = ("list", "train", "sample", "eval", "plot", "compare", "fit", "benchmark", "runs", "completion")
    needed = {
        "train": ["glf/digits"],
        "sample": ["prior", "--out", "z.npy"],
        "eval": [str(run), "--metrics", "nll"],
    }
    needed |= {"plot": [str(run)], "compare": ["dpvae/moons"], "fit": ["good.npy", "--out", "new"]}
    cases = [
        [verb, *needed.get(verb, []), option] for verb in verbs for option in ("--nope", "--verson", "-z")
    ]
    cases += [
        [verb, *needed.get(verb, []), "one", "too", "many"] for verb in verbs if verb not in ("plot", "list")
    ]
    devices = (
        "cpu:7",
        "cuda",
        "cuda:9",
        "mps",
        "tpu",
        "cpu:-1",
        "",
        "gpu",
        "cpu:x",
        "meta",
        "cuda:99999999999",
    )
    with_device = {k: v for k, v in needed.items() if k not in ("compare",)}
    cases += [[verb, *words, "--device", each] for verb, words in with_device.items() for each in devices]
    cases += [[verb] for verb in ("train", "sample", "eval", "plot", "compare", "fit")]
    for place in (
        "nowhere",
        "good.npy",
        "prior",
        "p_nothing",
        "\udcff",
        "a" * 5000,
        "/dev/null",
        "/proc/self/mem",
        "",
    ):
        cases += [["eval", place, "--metrics", "nll"], ["plot", place], ["runs", place]]
        cases += [["sample", place, "--out", "z.npy"]] if place != "prior" else []
        cases += [["fit", place, "--out", "new"]] if place != "good.npy" else []
        cases += [["train", place], ["compare", place]]
    outs = ("z.csv", "z", "good.npy/z.npy", "/proc/z.npy", "p_nothing", "/dev/null", "z.PNG")
    cases += [["sample", "prior", "--out", out] for out in outs] + [
        ["sample", str(run), "--out", out] for out in outs
    ]
    cases += [
        ["sample", "prior", "--out", "grid.png"],
        ["sample", str(run), "-n", "100000", "--out", "grid.png"],
    ]
    for metrics in ("fdi", "nll,,fdi", ",", "", "nll;fid", "FID", "all", "nll nll", "fid,prd", "lp_fid"):
        cases.append(["eval", str(run), "--metrics", metrics])
    for figures in (["sampels"], ["samples", "x"], [""], ["SAMPLES"], ["samples,curves"]):
        cases.append(["plot", str(run), *figures])
    cases += [
        ["sample", "prior", "--context", "good.npy", "--out", "z.npy"],
        ["sample", "conditional", "--out", "z.npy"],
    ]
    cases += [
        ["sample", "conditional", "--context", each, "--out", "z.npy"]
        for each in ("nan.npy", "flat.npy", "nowhere.npy")
    ]
    steps = (
        ["--step", "7"],
        ["--step", "-1"],
        ["--step", "x"],
        ["--step", str(MANY * 10**20)],
        ["--step", "1", "--best"],
    )
    cases += [[verb, *needed[verb][:-2], *needed[verb][-2:], *each] for verb in ("eval",) for each in steps]
    cases += [["sample", str(run), "--out", "z.npy", *each] for each in steps]
    cases += [["train", "glf/digits", *each] for each in (
        ["--devices", "0"], ["--devices", str(MANY)], ["--strategy", "x"], ["--precision", "x"], ["--precision", "16-mixed", "--device", "cpu"],
        ["--sync-batch-norm"], ["--size", "x"], ["--steps", "-1"], ["--seed", "-1"], ["--seed", str(2**64)], ["--seed", "x"],
        ["--checkpoint-every", "0"], ["--keep", "0"], ["--log-every", "x"], ["--eval-every", "-1"], ["--plugin", "nowhere"],
        ["--plugin", "nowhere.py"], ["--plugin", ""], ["--plugin", "good.npy"], ["--gin_file", "nowhere.gin"], ["--data-root", "good.npy", "-b", "Source.name = 'mnist'"],
        ["--log-file", "p_nothing"], ["--out", "good.npy"], ["--out", str(run)], ["-b", "x"], ["-b", "= 3"], ["-b", "x ="],
    )]  # fmt: skip
    return cases


# ---------------------------------------------------------------- running them

Case = tuple[str, list[str]]


def plant(run: Path) -> dict[str, list[list[str]]]:
    """Plant all of it in the present folder; the commands by kind. `run` is a trained run of vectors."""
    return {
        "configs": plant_configs(), "arrays": plant_arrays(), "pictures": plant_pictures(), "priors": plant_priors(),
        "runs": plant_runs(run), "numbers": numbers(), "misplaced": misplaced(), "names": names(), "wrong uses": wrong_uses(run),
    }  # fmt: skip


def call(words: list[str]) -> Result:
    """The command line in this process."""
    return CliRunner().invoke(main, words)


def complaint(words: list[str], result: Result, seconds: float) -> str:
    """What is wrong with the way in which a command ended; "" if nothing."""
    lines = result.stderr.strip().splitlines()
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"traceback: {result.exception!r}"[:300]
    if result.exit_code != 2:
        return f"status {result.exit_code}: {result.stderr[-300:]} {result.stdout[-100:]}"
    if len(lines) != 1 or not lines[0].startswith("flowprior: "):
        return f"{len(lines)} lines: {result.stderr[:300]}"
    if len(lines[0]) > 720:
        return f"a sentence of {len(lines[0])} characters: {lines[0][:200]}"
    if Path(SENTINEL).exists():
        return "it was run"
    return f"{seconds:.1f} seconds" if seconds > SECONDS else ""


def _hangs(number: int, frame: Any) -> None:
    raise TimeoutError("it hangs")


if __name__ == "__main__":
    only, home = sys.argv[1:], Path(tempfile.mkdtemp())
    os.chdir(home)
    signal.signal(signal.SIGALRM, _hangs)
    assert call([*MOONS[:-1], "run", "-b", "Source.limit = 60"]).exit_code == 0
    kinds = plant(Path("run"))
    for kind, cases in kinds.items():
        wrong, slowest = 0, 0.0
        for words in cases if not only or kind in only else []:
            began = time.perf_counter()
            signal.alarm(3 * SECONDS)
            said = complaint(words, call(words), seconds := time.perf_counter() - began)
            signal.alarm(0)
            slowest = max(slowest, seconds)
            wrong += bool(said)
            if said:
                print(" ".join(words)[:150].replace("\n", " "), "->", said, flush=True)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{kind}: {len(cases)} cases, {wrong} not refused well; slowest {slowest:.1f} s, {memory:.2f} GB",
            flush=True,
        )
    shutil.rmtree(home)
