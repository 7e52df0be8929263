"""Feature networks from stand-in weight files in the true format, against torchvision's and pytorch-fid's."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch.nn import functional

from flowprior.errors import InputError
from flowprior.metrics import extract, inception_features, inception_logits, squeezenet_features
from flowprior.metrics.cache import file_checksum
from flowprior.metrics.features import INCEPTION_FILE, SQUEEZENET_FILE


@pytest.fixture(autouse=True)
def _no_folders(tmp_path, monkeypatch):
    monkeypatch.delenv("FLOWPRIOR_WEIGHTS", raising=False)
    monkeypatch.setenv("FLOWPRIOR_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory) -> Path:
    from torchvision.models import squeezenet1_0

    path = tmp_path_factory.mktemp("weights") / SQUEEZENET_FILE
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(squeezenet1_0(weights=None).state_dict(), path)
    return path


def images(count: int, channels: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


def test_squeezenet_is_torchvisions_last_map_averaged(squeezenet):
    from torchvision.models import squeezenet1_0

    network = squeezenet_features(squeezenet)
    gray = images(3, 1, 28)
    twin = squeezenet1_0(weights=None).eval()
    twin.load_state_dict(torch.load(squeezenet, weights_only=True))
    large = functional.interpolate(gray, size=(64, 64), mode="bilinear", antialias=True).repeat(1, 3, 1, 1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = twin.features((large - mean.view(3, 1, 1)) / std.view(3, 1, 1)).mean((2, 3))
    (found,) = extract(gray, network)
    assert found.shape == (3, 512)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (network.metric, network.checksum) == ("fd_squeezenet", file_checksum(squeezenet))
    assert network.resize == "bilinear, antialiased, to 64x64"
    assert network.identity != squeezenet_features(squeezenet, size=96).identity


def test_weights_are_found_by_file_folder_and_variable(squeezenet, monkeypatch):
    by_file, by_folder = squeezenet_features(squeezenet), squeezenet_features(squeezenet.parent)
    monkeypatch.setenv("FLOWPRIOR_WEIGHTS", str(squeezenet.parent))
    assert by_file.identity == by_folder.identity == squeezenet_features().identity


def test_missing_and_wrong_weights_are_named(squeezenet, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=f"put {SQUEEZENET_FILE} into a folder and set FLOWPRIOR_WEIGHTS"):
        squeezenet_features()
    monkeypatch.setenv("FLOWPRIOR_WEIGHTS", str(tmp_path))
    with pytest.raises(InputError, match=r"is missing: put squeezenet1_0_deepcompression\.pth there"):
        squeezenet_features()
    with pytest.raises(InputError, match=f"put {INCEPTION_FILE} there"):
        inception_features()
    broken = tmp_path / SQUEEZENET_FILE
    broken.write_bytes(squeezenet.read_bytes()[:-1000])
    with pytest.raises(InputError, match="cannot be read as a state dict"):
        squeezenet_features()
    torch.save({"conv.weight": torch.zeros(1)}, broken)
    with pytest.raises(InputError, match="must be a state dict of torchvision's squeezenet1_0"):
        squeezenet_features()
    with pytest.raises(InputError, match=r"`size` \(=8\) must be an int of at least 32"):
        squeezenet_features(squeezenet, size=8)


def test_extraction_does_not_depend_on_batches_types_or_modes(squeezenet):
    network = squeezenet_features(squeezenet).train()  # stays in evaluation mode
    assert not network.network.training
    stored = (images(5, 3, 40) * 255).to(torch.uint8)
    state = torch.get_rng_state()
    whole = torch.cat(list(extract(stored, network)))
    parts = list(extract(stored.float() / 255, network, batch_size=2))
    assert [len(part) for part in parts] == [2, 2, 1]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-6)
    assert not whole.requires_grad
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.full((2, 1, 8, 8), 255.0), r"range over \[255, 255\] but must lie in \[0, 1\]"),
        (torch.full((2, 1, 8, 8), float("nan")), "range over"),
        (-torch.ones(2, 1, 8, 8), "rescale them"),
        (torch.zeros(2, 8, 8), r"shape \(2, 8, 8\)"),
        (torch.zeros(2, 4, 8, 8), "N, 1 or 3, H, W"),
        (torch.zeros(0, 1, 8, 8), "N > 0"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.int64), "torch.int64"),
    ],
)
def test_wrong_images_are_named(wrong, message):
    with pytest.raises(InputError, match=message):
        list(extract(wrong, torch.nn.Flatten()))
    with pytest.raises(InputError, match="`batch_size`"):
        list(extract(torch.zeros(2, 1, 8, 8), torch.nn.Flatten(), batch_size=0))


@pytest.fixture(scope="module")
def inception_state() -> dict[str, torch.Tensor]:
    """A state dict with the published file's keys and shapes, random."""
    from pytorch_fid import inception

    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        kept: dict[str, torch.Tensor] = {}
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: kept)
        patch.setattr(torch.nn.Module, "load_state_dict", lambda module, _: kept.update(module.state_dict()))
        inception.fid_inception_v3()
        for name, value in kept.items():  # as large as in a trained network, or nothing reaches the end
            if name.endswith("conv.weight"):
                value.mul_(6**0.5)
            elif name.endswith(("bn.bias", "running_mean")):
                value.normal_(std=0.1)
    return kept


@pytest.fixture(scope="module")
def inception_weights(inception_state, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / INCEPTION_FILE
    torch.save(inception_state, path)
    return path


def test_inception_equals_pytorch_fid(inception_state, inception_weights, monkeypatch):
    from pytorch_fid import inception

    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: inception_state)
    twin = inception.InceptionV3().eval()
    network = inception_features(inception_weights)
    rgb = images(2, 3, 32)
    (found,) = extract(rgb, network)
    with torch.no_grad():
        expected = twin(rgb)[0].flatten(1)
    assert found.shape == (2, 2048)
    assert (expected[0] - expected[1]).abs().mean() > 0.01  # else closeness means nothing
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert (network.metric, network.resize) == ("fid", "bilinear, not antialiased, to 299x299")
    assert network.facts == {"weights": "NOT the published file"}


def test_inception_logits_are_the_pool_times_the_last_weights(inception_state, inception_weights):
    network = inception_logits(inception_weights)
    x = images(2, 3, 40)
    (pool,), (logits,) = extract(x, inception_features(inception_weights)), extract(x, network)
    assert logits.shape == (2, 1008)
    torch.testing.assert_close(logits, pool @ inception_state["fc.weight"].T, rtol=1e-4, atol=1e-5)
    assert (network.metric, network.checksum) == ("is", file_checksum(inception_weights))


def test_a_missing_file_is_fetched_only_when_allowed(inception_weights, monkeypatch):
    asked: list[str] = []

    def fetch(url: str, path: str, hash_prefix: str) -> None:
        asked.append(f"{url} {hash_prefix}")
        Path(path).write_bytes(inception_weights.read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    with pytest.raises(InputError, match=r"FLOWPRIOR_WEIGHTS is not set.*or allow the download"):
        inception_features()
    assert asked == []
    fetched = inception_features(download=True)
    assert asked == [
        f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILE} 6726825d"
    ]
    assert inception_features().identity == fetched.identity  # the fetched file is found again
    assert len(asked) == 1


def test_without_a_network_the_answer_is_what_to_put_where(monkeypatch, tmp_path):
    def offline(*_: object, **__: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(InputError, match=f"no route.*put {INCEPTION_FILE} from https"):
        inception_features(tmp_path, download=True)
