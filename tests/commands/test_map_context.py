"""`fit` and `sample` with a context file of maps."""

import json

import numpy as np
import pytest
import torch

from flowprior.commands import fit, sample
from flowprior.errors import InputError
from flowprior.priors import Prior


def test_fit_and_sample_read_maps(tmp_path):
    generator = np.random.default_rng(0)
    c = generator.normal(size=(300, 1, 4, 4)).astype("float32")
    z = np.concatenate((c, -c), 1) + 0.1 * generator.normal(size=(300, 2, 4, 4)).astype("float32")
    np.save(tmp_path / "z.npy", z)
    np.save(tmp_path / "c.npy", c)
    np.save(tmp_path / "few.npy", c[:5])
    fit.run(
        tmp_path / "z.npy",
        out=tmp_path / "prior",
        context=tmp_path / "c.npy",
        flow={"recipe": "spatial", "transforms": 2, "hidden_features": (8, 8)},
        training={"epochs": 4, "standardize": None},
        device="cpu",
        progress=False,
    )
    prior = Prior.from_pretrained(tmp_path / "prior")
    assert prior.context_features == (1, 4, 4)
    assert json.loads((tmp_path / "prior" / "config.json").read_text())["arguments"]["context_features"] == [
        1,
        4,
        4,
    ]
    draws = sample.run(
        tmp_path / "prior", out=tmp_path / "draws.npy", count=200, context=tmp_path / "few.npy", device="cpu"
    )
    assert draws.shape == (200, 5, 2, 4, 4)
    expected = torch.as_tensor(np.concatenate((c[:5], -c[:5]), 1))
    assert (draws.mean(0) - expected).abs().mean() < 0.2
    np.save(tmp_path / "flat.npy", c.reshape(300, 16))
    with pytest.raises(InputError, match=r"must be rows of \(1, 4, 4\)"):
        sample.run(tmp_path / "prior", out=tmp_path / "d.npy", context=tmp_path / "flat.npy", device="cpu")
    np.save(tmp_path / "odd.npy", c.reshape(300, 2, 2, 2, 2))
    with pytest.raises(InputError, match=r"`context_features` \(=\(2, 2, 2, 2\)\) must be"):
        fit.run(tmp_path / "z.npy", out=tmp_path / "other", context=tmp_path / "odd.npy", progress=False)
