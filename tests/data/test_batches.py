import functools
import operator

import pytest
import torch

from flowprior.data.batches import Batches
from flowprior.errors import InputError


def rows(batches, epoch, start=0):
    return [batch["i"].tolist() for batch in batches.epoch(epoch, start)]


def indexed(n, *args, **kwargs):
    return Batches({"i": torch.arange(n)}, *args, **kwargs)


def test_order_follows_from_seed_and_epoch_alone():
    fresh, used = indexed(23, 5, seed=3), indexed(23, 5, seed=3)
    for epoch in range(4):
        list(used.epoch(epoch))
        torch.rand(7)
    assert rows(fresh, 4) == rows(used, 4)
    assert rows(fresh, 4, start=2) == rows(used, 4)[2:]
    assert rows(fresh, 4, start=4) == []
    assert rows(fresh, 4) != rows(fresh, 5)
    assert rows(fresh, 4) != rows(indexed(23, 5, seed=4), 4)


def test_the_stream_of_seed_and_epoch_is_pinned():
    # Resuming an older run depends on this order: a change here is a breaking one.
    assert indexed(8, 8, seed=1).order(2).tolist() == [0, 7, 3, 5, 4, 2, 6, 1]


@pytest.mark.parametrize(("n", "batch_size", "drop_last", "sizes"), [
    (10, 4, True, [4, 4]),
    (10, 4, False, [4, 4, 2]),
    (8, 4, True, [4, 4]),
    (8, 4, False, [4, 4]),
    (3, 4, True, [3]),
    (1, 1, True, [1]),
])  # fmt: skip
def test_partial_batches(n, batch_size, drop_last, sizes):
    batches = indexed(n, batch_size, drop_last=drop_last)
    drawn = rows(batches, 0)
    assert [len(batch) for batch in drawn] == sizes
    assert len(batches) == len(sizes)
    assert len(set(functools.reduce(operator.iadd, drawn, []))) == sum(sizes)


@pytest.mark.parametrize(
    ("n", "batch_size", "world_size"), [(48, 4, 3), (50, 4, 3), (7, 4, 3), (2, 4, 5), (11, 5, 2)]
)
@pytest.mark.parametrize("drop_last", [True, False])
def test_ranks_share_each_global_batch(n, batch_size, world_size, drop_last):
    options = {"seed": 1, "world_size": world_size, "drop_last": drop_last}
    per_rank = [rows(indexed(n, batch_size, rank=rank, **options), 6) for rank in range(world_size)]
    assert len({tuple(map(len, drawn)) for drawn in per_rank}) == 1  # equal count and sizes: no rank waits
    union = [i for drawn in per_rank for batch in drawn for i in batch]
    one_process = rows(indexed(n, batch_size * world_size, seed=1, drop_last=drop_last), 6)
    assert set(union) == {i for batch in one_process for i in batch}
    for step, batch in enumerate(one_process):  # a run on more ranks sees the same global batches
        assert set(batch) == {i for drawn in per_rank for i in drawn[step]} & set(batch)


def test_images_become_unit_floats_and_the_rest_stays():
    x = torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1, 1)
    batch = next(Batches({"x": x, "label": torch.arange(256), "mask": x}, 256).epoch(0))
    assert batch["x"].dtype == torch.float32
    assert batch["mask"].dtype == torch.uint8
    torch.testing.assert_close(batch["x"].flatten(), batch["label"] / 255, rtol=0, atol=0)
    vectors = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    out = next(Batches({"x": vectors}, 6).epoch(0))["x"]
    assert out.dtype == torch.float64
    assert torch.equal(out.sort(0).values, vectors.sort(0).values)


def test_batches_do_not_alias_the_set():
    x = torch.ones(4, 2)
    next(Batches({"x": x}, 4).epoch(0))["x"].zero_()
    assert x.sum() == 8


def test_a_set_too_large_to_be_resident_gives_the_same_batches(monkeypatch):
    x = torch.arange(40, dtype=torch.uint8).reshape(20, 2)
    resident = [batch["x"] for batch in Batches({"x": x}, 6).epoch(1)]
    monkeypatch.setattr("flowprior.data.batches.RESIDENT_BYTES", 8)
    travelling = [batch["x"] for batch in Batches({"x": x}, 6).epoch(1)]
    assert all(torch.equal(a, b) for a, b in zip(resident, travelling, strict=True))


@pytest.mark.parametrize("tensors", [
    {}, {"x": torch.zeros(0, 3)}, {"x": torch.tensor(1.0)}, {"x": torch.zeros(4, 2), "label": torch.zeros(3)},
])  # fmt: skip
def test_unusable_tensors(tensors):
    with pytest.raises(InputError, match=r"`tensors` .* same, positive length"):
        Batches(tensors, 2)


def test_bad_numbers():
    for batch_size in (0, -1, 2.0, True):
        with pytest.raises(InputError, match=r"`batch_size` .* int of at least 1"):
            indexed(4, batch_size)
    with pytest.raises(InputError, match=r"`rank` \(=2\) must be an int from 0 to 1"):
        indexed(4, 2, rank=2, world_size=2)
    for start in (-1, 3):
        with pytest.raises(
            InputError, match=r"`start` .* from 0 to 2: resume with the data set and batch size"
        ):
            indexed(4, 2).epoch(0, start)
