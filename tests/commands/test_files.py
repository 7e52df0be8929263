"""Arrays in and out of files: kinds, keys, and bad input."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from flowprior.errors import InputError
from flowprior.files import check_writable, read_array, write_array

ROWS = torch.arange(6, dtype=torch.float32).reshape(3, 2)


@pytest.mark.parametrize("ending", [".npy", ".npz", ".pt"])
def test_round_trip(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "out" / f"z{ending}"
    path.parent.mkdir()
    write_array(path, ROWS, "z")
    assert torch.equal(read_array(path), ROWS)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_whole_numbers_and_float64_become_float32(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(4))
    assert read_array(tmp_path / "a.npy").dtype == torch.float32


def test_key_chooses_among_several_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train=ROWS.numpy(), test=ROWS.numpy() + 1)
    torch.save({"train": ROWS, "test": ROWS + 1}, tmp_path / "a.pt")
    for name in ("a.npz", "a.pt"):
        assert torch.equal(read_array(tmp_path / name, "test"), ROWS + 1)
        with pytest.raises(InputError, match=r"holds several arrays; give `--key`, one of train, test"):
            read_array(tmp_path / name)
        with pytest.raises(InputError, match=r"no array 'tets': did you mean `test`"):
            read_array(tmp_path / name, "tets")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (open, ("ran", "w"))


def test_bad_files_get_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.npy").write_text("not numpy")
    (tmp_path / "text.npz").write_text("not a zip")
    (tmp_path / "text.pt").write_text("not torch")
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    np.save(tmp_path / "scalar.npy", np.array(3.0))
    np.save(tmp_path / "none.npy", np.zeros((0, 3)))
    np.save(tmp_path / "complex.npy", np.zeros(3, dtype=complex))
    np.save(tmp_path / "objects.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    torch.save([Evil()], tmp_path / "evil2.pt")
    (tmp_path / "whole.npy").write_bytes(b"x")
    (tmp_path / "half.npy").write_bytes(_bytes_of(ROWS)[:-4])
    for path in [*tmp_path.iterdir(), tmp_path / "missing.npy", tmp_path / "z.csv", tmp_path]:
        with pytest.raises(InputError) as caught:
            read_array(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
    assert not (tmp_path / "ran").exists()
    write_array(tmp_path / "one.npy", ROWS, "z")
    with pytest.raises(InputError, match="nothing to choose from"):
        read_array(tmp_path / "one.npy", "z")


def _bytes_of(rows: torch.Tensor) -> bytes:
    import io

    stream = io.BytesIO()
    np.save(stream, rows.numpy())
    return stream.getvalue()


def test_an_output_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, words in [
        (tmp_path / "z.csv", "must end in .npy, .npz or .pt"),
        (tmp_path / "file" / "z.npy", "cannot be made"),
    ]:
        with pytest.raises(InputError, match=words):
            check_writable(path, (".npy", ".npz", ".pt"))
    check_writable(tmp_path / "new" / "z.npy", (".npy",))
    assert (tmp_path / "new").is_dir()
