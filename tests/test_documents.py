"""What README.md and docs/guarantees.md say, run and looked up as it stands."""

import re
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]


def test_the_bijector_of_the_readme_is_one():
    text = (ROOT / "README.md").read_text("utf-8")
    (block,) = re.findall(r"^```python bijector\n(.*?)^```", text, re.M | re.S)
    names = {}
    exec(block, names)
    prior, z = names["prior"], torch.randn(5, 16)
    with torch.no_grad():
        prior.bijector.log_scale.copy_(torch.linspace(-1, 1, 16))
    expected = torch.distributions.Normal(0.0, (-prior.bijector.log_scale).exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(prior.log_prob(z), expected)
    torch.testing.assert_close(prior.from_base(prior.to_base(z)[0])[0], z)


def test_every_guarantee_names_a_test_that_exists():
    page = (ROOT / "docs" / "guarantees.md").read_text("utf-8")
    assert len(page.splitlines()) <= 120
    named = re.findall(r"`(\w+/test_\w+\.py)(?:::(\w+))?`", page)
    assert len(named) >= 20
    for path, function in named:
        text = (ROOT / "tests" / path).read_text("utf-8")
        assert not function or f"def {function}(" in text, (path, function)
    sentences = re.split(r"^- ", page, flags=re.M)[1:]
    assert all("`" in each and "test_" in each for each in sentences)
