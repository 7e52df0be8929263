"""Priors on the codes of pretrained autoencoders: adapters, statistics, the pipeline and its command."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from flowprior import FlowPrior, InputError
from flowprior.cli import main
from flowprior.models.pretrained_autoencoders import Codec, as_codec
from flowprior.training.fit_images import encoded, fit_images, principal_channels, psnr
from flowprior.training.image_prior import ImagePrior

pytestmark = pytest.mark.filterwarnings("ignore:`latents` has .* few for an estimate")  # they are tiny

FOLDER = Path(os.environ.get("FLOWPRIOR_WEIGHTS", "weights"))  # read before the tests hide it
weights = pytest.mark.skipif(
    not (FOLDER / "taef2_encoder.pth").is_file(),
    reason="TAEF2's files are not in FLOWPRIOR_WEIGHTS",
)


def unshuffle(images: Tensor) -> Tensor:
    return torch.nn.functional.pixel_unshuffle(images, 4)


def shuffle(codes: Tensor) -> Tensor:
    return torch.nn.functional.pixel_shuffle(codes, 4)


def pictures(count: int = 60) -> Tensor:
    """Smooth random pictures (N, 3, 8, 8) in [0, 1]."""
    torch.manual_seed(0)
    return torch.nn.functional.interpolate(torch.rand(count, 3, 3, 3), 8, mode="bilinear")


def small(shape: tuple[int, ...]) -> FlowPrior:
    return FlowPrior(shape, transforms=2, hidden_features=(8,))


QUIET = {"epochs": 1, "progress": False, "device": "cpu"}


def test_principal_channels_standardize_and_find_the_rank() -> None:
    torch.manual_seed(0)
    parts = torch.randn(500, 3, 2, 2)
    codes = torch.cat((parts * torch.tensor([1.0, 20.0, 3.0]).view(3, 1, 1), parts[:, :1] - parts[:, 1:2]), 1)
    lines: list[str] = []
    mean, basis, inverse = principal_channels(codes + 5, None, lines.append)
    assert lines == ["channels: 4, of which 3 are independent"]
    pipeline = ImagePrior(small((3, 2, 2)), Codec(unshuffle, shuffle), mean, basis, inverse)
    z = pipeline.to_z(codes + 5)
    torch.testing.assert_close(pipeline.to_codes(z), codes + 5, rtol=1e-4, atol=1e-4)
    rows = z.transpose(0, 1).flatten(1)
    torch.testing.assert_close(rows.cov(correction=0), torch.eye(3), rtol=0, atol=1e-3)


def test_log_prob_is_that_of_the_codes_and_survives_saving(tmp_path: Path) -> None:
    images = pictures()
    pipeline, _ = fit_images((unshuffle, shuffle), images, prior=small, noise=0.0, channels=48, **QUIET)
    codes = unshuffle(images).requires_grad_()
    z = pipeline.to_z(codes)
    jacobian = torch.autograd.functional.jacobian(lambda c: pipeline.to_z(c[None])[0], codes[0].detach())
    size = z[0].numel()
    expected = pipeline.prior.log_prob(z) + torch.linalg.slogdet(jacobian.reshape(size, size)).logabsdet
    torch.testing.assert_close(pipeline.log_prob(images), expected, rtol=1e-4, atol=1e-2)
    pipeline.save_pretrained(tmp_path / "p")
    with pytest.raises(InputError, match="pass it as `autoencoder`"):
        ImagePrior.from_pretrained(tmp_path / "p")
    loaded = ImagePrior.from_pretrained(tmp_path / "p", (unshuffle, shuffle))
    torch.testing.assert_close(loaded.log_prob(images), pipeline.log_prob(images), rtol=0, atol=0)
    torch.manual_seed(1)
    drawn = pipeline.sample(5)
    torch.manual_seed(1)
    assert torch.equal(loaded.sample(5), drawn)
    assert drawn.shape == (5, 3, 8, 8)
    assert drawn.min() >= 0
    assert drawn.max() <= 1


def test_noise_is_the_largest_that_the_decoder_bears_and_compression_tells_its_cost() -> None:
    lines: list[str] = []
    pipeline, _ = fit_images(
        (unshuffle, shuffle), pictures(), prior=small, channels=12, most_loss=1.0, say=lines.append, **QUIET
    )
    assert "12 of 48 channels" in lines[1]
    scan = {
        float(part.split(" (")[0]): float(part.split(" (")[1].rstrip(")"))
        for part in lines[2].removeprefix("noise (dB): ").split(", ")
    }
    borne = [std for std, value in scan.items() if value >= scan[0.0] - 1.0]
    assert pipeline.std == max(borne)
    assert list(scan.values()) == sorted(scan.values(), reverse=True)


def test_codes_in_the_cache_are_read_and_another_autoencoder_has_its_own(tmp_path: Path) -> None:
    calls = 0

    class Counting(torch.nn.Conv2d):
        def forward(self, images: Tensor) -> Tensor:
            nonlocal calls
            calls += len(images)
            return super().forward(images)

    images, net = pictures(30), Counting(3, 4, 4, stride=4)
    codec = Codec(net, lambda codes: codes)
    first = encoded(codec, images, tmp_path, shard=8)
    assert (calls, len(list(tmp_path.iterdir()))) == (30, 4)
    assert torch.equal(encoded(codec, images, tmp_path, shard=8), first)
    assert calls == 30
    next(tmp_path.iterdir()).unlink()  # an interrupted encoding goes on
    assert torch.equal(encoded(codec, images, tmp_path, shard=8), first)
    assert 30 < calls < 40
    with torch.no_grad():
        net.weight.add_(1.0)
    assert not torch.equal(encoded(codec, images, tmp_path, shard=8), first)


def test_diffusers_autoencoders_from_objects_and_folders(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=2).eval()
    images = pictures(3)
    codec = as_codec(model)
    expected = model.encode(images * 2 - 1).latent_dist.mean
    torch.testing.assert_close(codec.encode(images), expected.detach())
    decoded = (model.decode(expected).sample + 1) / 2
    torch.testing.assert_close(codec.decode(expected), decoded.clamp(0, 1).detach())
    model.save_pretrained(tmp_path / "kl")
    torch.testing.assert_close(as_codec(str(tmp_path / "kl")).encode(images), codec.encode(images))
    tiny = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    assert as_codec(tiny.eval()).encode(images).shape == (3, 4, 4, 4)


@weights
def test_taef2_reconstructs_and_the_command_draws_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWPRIOR_WEIGHTS", str(FOLDER))
    codec = as_codec("taef2")
    images = torch.nn.functional.interpolate(pictures(24), 16, mode="bilinear")
    codes = codec.encode(images)
    assert codes.shape == (24, 32, 2, 2)
    decoded = codec.decode(codes)  # of so few pixels; pictures of 32 come back at 24 dB
    assert psnr(decoded, images) > psnr(decoded, images.roll(1, 0)) + 5
    np.save(tmp_path / "x.npy", (images.permute(0, 2, 3, 1) * 255).byte().numpy())
    out = tmp_path / "prior"
    words = [str(tmp_path / "x.npy"), "--autoencoder", "taef2", "--out", str(out), "--epochs", "1", "--quiet"]
    main(["fit-images", *words, "--noise", "0.1", "--device", "cpu"], standalone_mode=False)
    grid = tmp_path / "grid.png"
    main(["sample", str(out), "-n", "4", "--out", str(grid), "--device", "cpu"], standalone_mode=False)
    from PIL import Image

    with Image.open(grid) as drawn:
        assert drawn.size[0] > 32
    with pytest.raises(InputError, match="exists already"):
        main(["fit-images", *words], standalone_mode=False)


def test_what_is_no_autoencoder_is_answered_by_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    for given, words in [
        (3, "must be a pair of callables"),
        ("taef9", "must be 'taef2', a folder"),
        (str(tmp_path), "names the class 'UNet2DModel'"),
    ]:
        with pytest.raises(InputError, match=words):
            as_codec(given)
    with pytest.raises(InputError, match="encoder returned"):
        Codec(lambda x: x.mean(), shuffle).encode(pictures(2))
