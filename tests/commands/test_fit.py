"""`flowprior fit` and `flowprior sample PRIOR`."""

import json

import numpy as np
import pytest
import torch

from flowprior import FlowPrior, StandardNormal

FAST = ("--transforms", 2, "--hidden", "8", "--epochs", 2, "--quiet")


@pytest.fixture
def latents(tmp_path):
    path = tmp_path / "z.npy"
    np.save(path, 5 + np.random.default_rng(0).normal(size=(400, 3)) @ np.diag([1.0, 2.0, 3.0]))
    return path


def test_fit_then_sample(latents, flowprior, tmp_path):
    result = flowprior("fit", latents, "--out", tmp_path / "p", *FAST, "--base", "normal")
    assert result.exit_code == 0, result.stderr
    prior = FlowPrior.from_pretrained(tmp_path / "p")
    assert len(list(prior.bijector.parameters())) > 0
    report = json.loads((tmp_path / "p" / "report.json").read_text())
    assert report["settings"]["transforms"] == 2
    assert report["settings"]["epochs"] == 2
    for ending in (".npy", ".npz", ".pt"):
        result = flowprior("sample", tmp_path / "p", "-n", 2000, "--out", tmp_path / f"s{ending}")
        assert result.exit_code == 0, result.stderr
    z = np.load(tmp_path / "s.npy")
    assert z.shape == (2000, 3)
    assert np.allclose(z.mean(0), 5, atol=0.5)
    assert np.allclose(z.std(0), [1, 2, 3], rtol=0.2)
    with np.load(tmp_path / "s.npz") as archive:
        assert np.array_equal(archive["z"], z)
    held_out = report["metrics"]["held-out nll"]
    with torch.no_grad():
        nll = -prior.log_prob(torch.from_numpy(np.load(latents)).float()).mean().item()
    assert nll == pytest.approx(held_out, abs=0.5)


def test_same_seed_same_prior(latents, flowprior, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert flowprior("fit", latents, "--out", tmp_path / name, *FAST, "--seed", seed).exit_code == 0
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_conditional_fit_from_npz_and_pt(flowprior, tmp_path):
    generator = torch.Generator().manual_seed(0)
    context = torch.rand(300, 1, generator=generator)
    z = 10 * context + torch.randn(300, 2, generator=generator)
    np.savez(tmp_path / "z.npz", other=np.zeros(3), codes=z.numpy())
    torch.save(context, tmp_path / "c.pt")
    arguments = ("--key", "codes", "--context", tmp_path / "c.pt")
    result = flowprior(
        "fit",
        tmp_path / "z.npz",
        "--out",
        tmp_path / "p",
        *FAST,
        *arguments,
        "--epochs",
        40,
        "--batch-size",
        30,
    )
    assert result.exit_code == 0, result.stderr
    np.save(tmp_path / "rows.npy", np.array([[0.1], [0.9]], dtype=np.float32))
    result = flowprior(
        "sample", tmp_path / "p", "-n", 200, "--out", tmp_path / "s.npy", "--context", tmp_path / "rows.npy"
    )
    assert result.exit_code == 0, result.stderr
    samples = np.load(tmp_path / "s.npy")
    assert samples.shape == (200, 2, 2)
    assert samples[:, 1].mean() - samples[:, 0].mean() > 4
    result = flowprior("sample", tmp_path / "p", "--out", tmp_path / "s.npy")
    assert result.exit_code == 2
    assert "`context` is missing" in result.stderr


def test_latents_with_an_event_shape(flowprior, tmp_path):
    np.save(tmp_path / "z.npy", np.random.default_rng(0).normal(size=(50, 2, 3)))
    assert (
        flowprior("fit", tmp_path / "z.npy", "--out", tmp_path / "p", *FAST, "--base", "normal").exit_code
        == 0
    )
    assert flowprior("sample", tmp_path / "p", "-n", 4, "--out", tmp_path / "s.npy").exit_code == 0
    assert np.load(tmp_path / "s.npy").shape == (4, 2, 3)


def spoil(rows, kind):
    if kind == "nan":
        rows[7, 1] = np.nan
    return {"few": rows[:3], "flat": rows[:, 0]}.get(kind, rows)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("nan", ("NaN", "row 7")), ("few", ("3 rows", "too few")), ("flat", ("(400,)", "(N, D)"))],
)
def test_bad_latents_get_one_sentence(kind, words, latents, flowprior, tmp_path):
    np.save(latents, spoil(np.load(latents), kind))
    result = flowprior("fit", latents, "--out", tmp_path / "p", *FAST)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert all(word in result.stderr for word in words), result.stderr
    assert not (tmp_path / "p").exists()


def test_context_of_another_length_and_existing_folders_are_refused(latents, flowprior, tmp_path):
    np.save(tmp_path / "c.npy", np.zeros((5, 2)))
    result = flowprior("fit", latents, "--out", tmp_path / "p", *FAST, "--context", tmp_path / "c.npy")
    assert result.exit_code == 2
    assert "400 rows" in result.stderr
    assert flowprior("fit", latents, "--out", tmp_path / "p", *FAST).exit_code == 0
    before = (tmp_path / "p" / "model.safetensors").read_bytes()
    result = flowprior("fit", latents, "--out", tmp_path / "p", *FAST, "--seed", 3)
    assert result.exit_code == 2
    assert "exists" in result.stderr
    assert (tmp_path / "p" / "model.safetensors").read_bytes() == before


def test_a_damaged_prior_and_a_grid_of_latents_are_refused(latents, flowprior, tmp_path):
    assert flowprior("fit", latents, "--out", tmp_path / "p", *FAST).exit_code == 0
    result = flowprior("sample", tmp_path / "p", "--out", tmp_path / "s.png")
    assert result.exit_code == 2
    assert ".npy" in result.stderr
    model = tmp_path / "p" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"\x00\x01")
    result = flowprior("sample", tmp_path / "p", "--out", tmp_path / "s.npy")
    assert result.exit_code == 2
    assert "checksum" in result.stderr


def test_a_context_of_plain_numbers_is_a_column_for_fit_and_sample(latents, flowprior, tmp_path):
    np.save(tmp_path / "c.npy", np.arange(400.0))
    result = flowprior(
        "fit", latents, "--out", tmp_path / "p", *FAST, "--context", tmp_path / "c.npy", "--base", "normal"
    )
    assert result.exit_code == 0, result.stderr
    result = flowprior(
        "sample", tmp_path / "p", "-n", 2, "--context", tmp_path / "c.npy", "--out", tmp_path / "s.npy"
    )
    assert result.exit_code == 0, result.stderr
    assert np.load(tmp_path / "s.npy").shape == (2, 400, 3)


def test_where_nothing_can_be_written_is_said_before_the_work(latents, flowprior, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("flowprior.commands.fit.fit", lambda *_, **__: pytest.fail("fitted first"))
    result = flowprior("fit", latents, "--out", tmp_path / "p", *FAST)
    assert result.exit_code == 2
    assert "p cannot be written to (Permission denied): choose another `--out`" in result.stderr


def test_temperature_and_truncation_of_a_prior(flowprior, tmp_path):
    StandardNormal(2).save_pretrained(tmp_path / "p")
    out = tmp_path / "s.npy"
    settings = ("--temperature", 0.5, "--truncate", 0.5)
    assert flowprior("sample", tmp_path / "p", "-n", 500, "--out", out, *settings).exit_code == 0
    radius = np.square(np.load(out)).sum(1).max() / 0.25
    assert radius == pytest.approx(2 * np.log(2), rel=0.15)
    wrong = flowprior("sample", tmp_path / "p", "--out", tmp_path / "w.npy", "--truncate", 2)
    assert wrong.exit_code == 2
    assert "`truncate` (=2.0)" in wrong.stderr
    assert not (tmp_path / "w.npy").exists()
