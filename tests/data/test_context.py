"""Contexts and known facts of a data set: checked, counted in the fingerprint, batched."""

import pytest
import torch

from flowprior.data import Batches, Dataset
from flowprior.errors import InputError

X = torch.arange(48, dtype=torch.uint8).view(3, 1, 4, 4)
MAPS = torch.arange(96, dtype=torch.uint8).view(3, 2, 4, 4)
VECTORS = torch.arange(6.0).view(3, 2)


@pytest.mark.parametrize("context", [MAPS, VECTORS])
def test_images_and_vectors_are_contexts(context):
    data = Dataset("set", X, torch.arange(3), context=context, known={"factors": VECTORS})
    assert list(data.tensors()) == ["x", "label", "context"]  # what is only known is never trained on
    assert data.tensors()["context"] is context


def test_batches_give_contexts_with_their_examples():
    batch = next(Batches(Dataset("set", X, context=MAPS).tensors(), 3).epoch(0))
    assert batch["context"].dtype == torch.float32
    first = (batch["x"][:, 0, 0, 0] * 255 / 16).round()
    assert torch.equal((batch["context"][:, 0, 0, 0] * 255 / 32).round(), first)
    torch.testing.assert_close(batch["context"].sort(0).values, MAPS / 255, rtol=0, atol=0)
    vectors = next(Batches(Dataset("set", X, context=VECTORS).tensors(), 3).epoch(0))["context"]
    assert torch.equal(vectors.sort(0).values, VECTORS)


def test_the_fingerprint_sees_context_and_known_facts():
    prints = [
        Dataset("a", X).fingerprint,
        Dataset("a", X, context=VECTORS).fingerprint,
        Dataset("a", X, context=VECTORS + 1).fingerprint,
        Dataset("a", X, context=MAPS).fingerprint,
        Dataset("a", X, known={"factors": VECTORS}).fingerprint,
        Dataset("a", X, known={"joints": VECTORS}).fingerprint,
        Dataset("a", X, known={"factors": VECTORS + 1}).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    both = {"joints": VECTORS, "factors": VECTORS + 1}
    turned = dict(reversed(both.items()))
    assert Dataset("a", X, known=both).fingerprint == Dataset("b", X, known=turned).fingerprint


@pytest.mark.parametrize(("given", "message"), [
    ({"context": MAPS.float()}, r"`context` .* of shape \(3, 2, 4, 4\) but must be non-empty uint8"),
    ({"context": torch.arange(3)}, "`context` .* must be non-empty uint8 images"),
    ({"context": MAPS[:2]}, "`context` has 2 rows but must have one for each of the 3 examples"),
    ({"context": VECTORS / 0}, "`context` holds NaN or infinity in 3 of 3 rows, first in row 0"),
    ({"known": {"factors": VECTORS.double()}}, r"`known\['factors'\]` .* must be float32 of shape \(N,"),
    ({"known": {"factors": VECTORS[:, 0]}}, r"`known\['factors'\]` .* of shape \(3,\) but"),
    ({"known": {"joints": VECTORS[1:]}}, r"`known\['joints'\]` has 2 rows but .* the 3 examples"),
    ({"known": {"joints": VECTORS.log().unsqueeze(1)}}, r"`known\['joints'\]` holds NaN .* first in row 0"),
])  # fmt: skip
def test_unusable_contexts_and_facts(given, message):
    with pytest.raises(InputError, match=message):
        Dataset("set", X, **given)
