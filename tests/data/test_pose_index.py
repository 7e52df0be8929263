"""The published index of poses, in stand-in files of its layout, and pickles that must not run."""

import os
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from flowprior.data import Source
from flowprior.data.drawing import JOINTS, draw_stick_man
from flowprior.data.pose_index import list_index
from flowprior.data.stick_figures import stick_figures
from flowprior.data.unpickling import read_plain
from flowprior.errors import InputError


def contents(count=6):
    """Poses of stick figures in parts of a picture; example 2 lacks a wrist, 4 a hip, 1 and 5 are tests."""
    joints = stick_figures(True, torch.arange(count)).known["joints"].numpy() / 64
    joints[2, JOINTS.index("lwrist")] = -1.0
    joints[4, JOINTS.index("rhip"), 1] = -0.1
    return {
        "joint_order": list(JOINTS),
        "imgs": [f"img/{i}.jpg" for i in range(count)],
        "train": [i not in (1, 5) for i in range(count)],
        "joints": joints,
    }


def write(folder, index=None, size=(64, 64), protocol=2):
    index = contents() if index is None else index
    (folder / "img").mkdir(parents=True)
    for i in range(6):
        Image.new("RGB", size, (10 * i, 0, 0)).save(folder / "img" / f"{i}.jpg")
    (folder / "index.p").write_bytes(pickle.dumps(index, protocol=protocol))
    return index


@pytest.mark.parametrize("name", ["deepfashion", "market"])
@pytest.mark.parametrize(("side", "stored"), [(64, (64, 128)), (256, (256, 256))])
def test_pictures_come_with_their_stick_men(tmp_path, name, side, stored):
    index = write(tmp_path / name, size=stored)
    source = Source(name, tmp_path, size=side)
    assert source.image_shape == (3, side, side)
    train, test = source.train(), source.test()
    assert ((train.x[:, 0, 0, 0].float() / 10).round().tolist()) == [0, 2, 3]  # 4 has no right hip
    assert ((test.x[:, 0, 0, 0].float() / 10).round().tolist()) == [1, 5]
    assert train.context.shape == train.x.shape == (3, 3, side, side)
    known = train.known["joints"]
    torch.testing.assert_close(known[0], torch.from_numpy(index["joints"][0] * side))
    assert known[1, JOINTS.index("lwrist")].tolist() == [-1, -1]
    assert torch.equal(train.context, draw_stick_man(known, side))
    few = Source(name, tmp_path, size=side, limit=1)
    assert torch.equal(few.train().known["joints"], known[:1])


def test_another_order_more_joints_and_another_folder(tmp_path):
    index = contents()
    order = np.random.default_rng(0).permutation(15)
    extra = np.full((6, 1, 2), 0.5, np.float32)
    index["joint_order"] = ["cneck", *(JOINTS[i] for i in order)]
    index["joints"] = np.concatenate([extra, index["joints"][:, order]], 1).tolist()  # plain lists too
    index["imgs"], index["train"] = np.array(index["imgs"]), np.array(index["train"])
    write(tmp_path / "mine", index)
    write(tmp_path / "deepfashion")
    found, expected = Source("deepfashion", tmp_path, folder="mine"), Source("deepfashion", tmp_path)
    torch.testing.assert_close(found.train().known["joints"], expected.train().known["joints"])
    with pytest.raises(InputError, match=r"leave out\s+crop and resize"):
        Source("market", tmp_path, resize="bicubic")
    write(tmp_path / "market", size=(64, 128))
    with pytest.raises(InputError, match=r"are 128 x 64 but poses are drawn on squares: pass `size`"):
        Source("market", tmp_path).train()


class Python2:
    """Writes what cPickle of Python 2 writes with protocol 2: byte strings, and arrays of numpy.core."""

    def __init__(self):
        self.raw = b"\x80\x02"

    def text(self, value):
        encoded = value.encode("latin1")
        self.raw += b"U" + struct.pack("<B", len(encoded)) + encoded
        return self

    def array(self, value):
        self.raw += b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        self.raw += b"(" + b"".join(b"K" + bytes([n]) for n in value.shape) + b"t"
        self.raw += b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNN"
        self.raw += 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
        payload = value.astype("<f4").tobytes()
        self.raw += b"\x89T" + struct.pack("<i", len(payload)) + payload + b"tb"
        return self

    def op(self, raw):
        self.raw += raw
        return self


def test_an_index_of_python_2(tmp_path):
    index = write(tmp_path / "market")
    out = Python2().op(b"}(").text("joint_order").op(b"](")
    for name in JOINTS:
        out.text(name)
    out.op(b"e").text("imgs").op(b"](")
    for name in index["imgs"]:
        out.text(name)
    out.op(b"e").text("train").op(b"](" + b"".join(b"\x88" if flag else b"\x89" for flag in index["train"]))
    out.op(b"e").text("joints").array(index["joints"]).op(b"u.")
    (tmp_path / "market" / "index.p").write_bytes(out.raw)
    joints = Source("market", tmp_path).test().known["joints"]
    torch.testing.assert_close(joints, torch.from_numpy(index["joints"][[1, 5]] * 64))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_plain_values_survive(protocol):
    values = {
        "a": [1, 2.5, True, None, "é"], "b": (b"bytes", np.float32(3), np.bool_(True)),
        "c": np.arange(6.0).reshape(2, 3), "d": np.array(["x", "yy"]), "e": np.array(["o", 1], dtype=object),
    }  # fmt: skip
    found = read_plain(pickle.dumps(values, protocol=protocol))
    assert found["a"] == values["a"]
    assert found["b"] == values["b"]
    for key in "cde":
        assert np.array_equal(found[key], values[key])


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(("call", "named"), [
    (lambda mark: Calls(os.mkdir, mark), r"posix\.mkdir|nt\.mkdir"),
    (lambda mark: Calls(eval, f"__import__('os').mkdir({mark!r})"), r"__builtin__\.eval"),
    (lambda mark: Calls(getattr, "a", "upper"), r"__builtin__\.getattr"),
    (lambda mark: Calls(np.load, mark), r"numpy\.load"),
    (lambda mark: Calls(torch.load, mark), r"torch\.serialization\.load"),
])  # fmt: skip
@pytest.mark.parametrize("place", ["whole", "joints", "imgs"])
def test_pickles_that_would_run_code_are_refused(tmp_path, call, named, place):
    mark = str(tmp_path / "ran")
    index = contents()
    evil = call(mark) if place == "whole" else index | {place: [call(mark)]}
    write(tmp_path / "deepfashion", evil)
    with pytest.raises(InputError, match=rf"index\.p' cannot be read \(it asks for ({named})\)") as caught:
        Source("deepfashion", tmp_path).train()
    assert not os.path.exists(mark)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("raw", [
    b"\x80\x02cnumpy.core.multiarray\n_reconstruct.__self__.__loader__\n.",
    b"\x80\x04\x8c\x05numpy\x8c\x13ndarray.__reduce_ex__\x93.",  # a dotted name, protocol 4
    b"\x80\x02cnumpy.lib.utils\nsafe_eval\nU\x011\x85R.",
    b"\x80\x02c__builtin__\nexec\nU\x04pass\x85R.",
    b"\x80\x02(ios\nsystem\n.",
    b"\x80\x02U\x01aQ.",  # a persistent id
    b"\x82\x01.",  # the extension registry
])  # fmt: skip
def test_byte_code_tricks_are_refused(tmp_path, raw):
    write(tmp_path / "deepfashion")
    (tmp_path / "deepfashion" / "index.p").write_bytes(raw)
    with pytest.raises(InputError, match=r"index\.p' cannot be read \("):
        Source("deepfashion", tmp_path).train()


@pytest.mark.parametrize(("change", "message"), [
    ({"imgs": None}, "holds other values than names and numbers"),
    ({"joint_order": list(JOINTS[1:])}, "has no joint 'rankle' in its joint_order"),
    ({"imgs": ["img/0.jpg"]}, r"has 1 imgs, train of shape \(6,\) and joints of shape \(6, 15, 2\)"),
    ({"joints": np.zeros((6, 15, 3))}, r".* joints of shape \(6, 15, 3\)"),
    ({"joints": np.full((6, 15, 2), np.nan)}, "holds joints that are not parts of a picture"),
    ({"joints": np.full((6, 15, 2), 128.0)}, "holds joints that are not parts of a picture"),
    ({"joints": [["a"]]}, "holds other values than names and numbers"),
    ({"joints": np.full((6, 15, 2), -1.0)}, "has no training example with both hips and both shoulders"),
    ({"train": [False] * 6}, "has no training example"),
    ({"imgs": ["../0.jpg"] * 6}, r"names the picture '\.\./0\.jpg', which is no path beside it"),
    ({"imgs": ["/etc/0.jpg"] * 6}, "names the picture '/etc/0.jpg', which is no path"),
    ({"imgs": [3] * 6}, "names the picture 3, which is no path"),
    ({"imgs": [f"img/{i + 3}.jpg" for i in range(6)]}, r"names the picture 'img/6\.jpg', which is not there"),
])  # fmt: skip
def test_a_broken_index_is_named_in_one_sentence(tmp_path, change, message):
    write(tmp_path / "deepfashion", contents() | change)
    with pytest.raises(InputError, match=rf"deepfashion/index\.p' {message}") as caught:
        Source("deepfashion", tmp_path).train()
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(InputError, match=r"There is no index '.*market/index\.p': put the published"):
        Source("market", tmp_path).train()
    write(tmp_path / "market")
    path = tmp_path / "market" / "index.p"
    whole = path.read_bytes()
    for raw, message in [
        (b"", "cannot be read"), (whole[:-20], "cannot be read"), (b"no pickle", "cannot be read"),
        (pickle.dumps([1]), "holds list"), (pickle.dumps({}), "holds nothing"),
        (pickle.dumps({"imgs": []}), "holds imgs"),
    ]:  # fmt: skip
        path.write_bytes(raw)
        with pytest.raises(InputError, match=rf"market/index\.p' {message}"):
            Source("market", tmp_path).train()
    path.write_bytes(whole)
    (tmp_path / "market" / "img" / "3.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"The picture 'img/3\.jpg' cannot be read"):
        Source("market", tmp_path).train()
    assert len(list_index(tmp_path / "market", train=False).names) == 2
