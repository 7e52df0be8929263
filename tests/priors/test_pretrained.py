"""Saving and loading: exact, strict, whole or not at all, and one sentence for what is wrong."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch.distributions.transforms import AffineTransform

from flowprior import DecoupledPrior, FlowPrior, InputError, MixturePrior, Prior, StandardNormal
from flowprior.bijectors import Recipe


def _saved(folder: Path) -> FlowPrior:
    prior = FlowPrior(3, transforms=2, hidden_features=(8,))
    prior.initialize(torch.randn(50, 3) * 4 + 1)
    prior.save_pretrained(folder)
    return prior


def test_everything_that_builds_a_prior_is_stored(tmp_path):
    recipe = Recipe(
        mask="alternating", permute_every=3, permutation_seed=5, transforms=3, hidden_features=(4,)
    )
    base = MixturePrior((2, 3), components=4, covariance="full", start="em")
    prior = DecoupledPrior(FlowPrior((2, 3), recipe=recipe, context_features=2, backend="pyro", base=base))
    prior.save_pretrained(tmp_path)
    loaded = DecoupledPrior.from_pretrained(tmp_path)
    z, context = torch.randn(5, 2, 3), torch.randn(5, 2)
    assert torch.equal(loaded.log_prob(z, context), prior.log_prob(z, context))
    assert Recipe(**loaded.prior.arguments()["recipe"]) == recipe
    inner = loaded.prior.base
    assert (inner.components, inner.covariance, inner.start) == (4, "full", "em")
    assert {name: p.shape for name, p in loaded.named_parameters()} == {
        name: p.shape for name, p in prior.named_parameters()
    }
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_the_base_class_finds_the_class_and_a_subclass_insists(tmp_path):
    StandardNormal((2, 2)).save_pretrained(tmp_path)
    assert isinstance(Prior.from_pretrained(tmp_path), StandardNormal)
    assert StandardNormal.from_pretrained(tmp_path).event_shape == (2, 2)
    with pytest.raises(InputError, match="holds a StandardNormal, not a FlowPrior: call StandardNormal"):
        FlowPrior.from_pretrained(tmp_path)


def test_own_transforms_are_asked_for(tmp_path):
    prior = FlowPrior(3, bijector=AffineTransform(torch.ones(3), 2 * torch.ones(3)))
    prior.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="own bijector \\(AffineTransform\\)"):
        FlowPrior.from_pretrained(tmp_path)
    loaded = FlowPrior.from_pretrained(tmp_path, bijector=AffineTransform(torch.zeros(3), torch.ones(3)))
    z = torch.randn(4, 3)
    assert torch.equal(loaded.log_prob(z), prior.log_prob(z))  # its tensors are stored, its code is not
    StandardNormal(3).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="`bijector` was given but"):
        StandardNormal.from_pretrained(tmp_path, bijector=AffineTransform(0.0, 1.0))


def test_missing_things_are_named(tmp_path):
    with pytest.raises(InputError, match="nowhere'\\) is not a folder"):
        FlowPrior.from_pretrained(tmp_path / "nowhere")
    for name in ("config.json", "model.safetensors"):
        _saved(tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(InputError, match=f"{name} cannot be read \\(No such file"):
            FlowPrior.from_pretrained(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file: name a folder"):
        StandardNormal(2).save_pretrained(tmp_path / "file")


def test_every_flipped_byte_is_noticed(tmp_path):
    _saved(tmp_path)
    path = tmp_path / "model.safetensors"
    payload = path.read_bytes()
    for place in (3, 50, len(payload) // 2, len(payload) - 1):
        path.write_bytes(payload[:place] + bytes([payload[place] ^ 1]) + payload[place + 1 :])
        with pytest.raises(InputError, match="does not match the checksum"):
            FlowPrior.from_pretrained(tmp_path)
    path.write_bytes(payload[: len(payload) // 2])
    with pytest.raises(InputError, match="does not match the checksum"):
        FlowPrior.from_pretrained(tmp_path)


def _edit(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_strange_config_is_refused(tmp_path):
    prior = _saved(tmp_path)
    arguments = json.loads((tmp_path / "config.json").read_text())["arguments"]
    for text in ("", "{", "[]", '{"format": "1"}', "\x00\x01"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match="is damaged or was not written by save_pretrained"):
            FlowPrior.from_pretrained(tmp_path)
    for changes, match in (
        ({"format": 99}, "format 99, newer than"),
        ({"class": "os.system"}, "names the class 'os.system', which is not a known prior"),
        ({"class": ["FlowPrior"]}, "is not a known prior"),
        ({"class": "InvertiblePrior"}, "cannot build a InvertiblePrior"),
        ({"arguments": 3}, "is not a known prior"),
        ({"arguments": arguments | {"depth": 3}}, "cannot build a FlowPrior"),
        ({"arguments": arguments | {"backend": "jax"}}, "cannot build a FlowPrior: `backend`"),
        ({"arguments": arguments | {"transforms": 3}}, "does not fit the prior of its config.json"),
        ({"dtype": "int64"}, "names the dtype 'int64'"),
    ):
        prior.save_pretrained(tmp_path)
        _edit(tmp_path, **changes)
        with pytest.raises(InputError, match=match) as caught:
            Prior.from_pretrained(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_subclass_of_the_same_name_does_not_take_the_place(tmp_path):
    """gin makes one of each class that it configures."""
    wrapped = type("FlowPrior", (FlowPrior,), {"__init__": lambda self, *_, **__: pytest.fail("built")})
    _saved(tmp_path)
    assert type(Prior.from_pretrained(tmp_path)) is FlowPrior is not wrapped


def test_an_interrupted_save_leaves_the_old_file_or_is_noticed(tmp_path, monkeypatch):
    old = _saved(tmp_path)
    new = FlowPrior(3, transforms=2, hidden_features=(8,))
    new.initialize(torch.randn(50, 3))
    replace, calls = os.replace, []

    def broken(source, target):
        calls.append(target)
        if len(calls) == fail_at:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", broken)
    fail_at = 1
    with pytest.raises(OSError, match="No space left"):
        new.save_pretrained(tmp_path)
    z = torch.randn(4, 3)
    assert torch.equal(FlowPrior.from_pretrained(tmp_path).log_prob(z), old.log_prob(z))
    assert len([path for path in tmp_path.iterdir() if path.is_file()]) == 2  # no temporary file stays
    calls.clear()
    fail_at = 2
    with pytest.raises(OSError, match="No space left"):
        new.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="its saving was interrupted"):
        FlowPrior.from_pretrained(tmp_path)
