"""EfficientNet by its package, DINOv2 and CLIP from local folders in their true layout."""

import pytest
import torch
from torch.nn import functional

from flowprior.errors import InputError
from flowprior.metrics import clip_features, dinov2_features, efficientnet_features, extract

IMAGES = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def seen(network) -> torch.Tensor:
    return torch.cat(list(extract(IMAGES, network)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny models, as transformers saves them."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, Dinov2Config, Dinov2Model

    home = tmp_path_factory.mktemp("weights")
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dino = Dinov2Config(**small, patch_size=14, image_size=28)
        Dinov2Model(dino).save_pretrained(home / "dinov2")
        clip = CLIPVisionConfig(**small, intermediate_size=32, projection_dim=8, patch_size=8, image_size=16)
        CLIPVisionModelWithProjection(clip).save_pretrained(home / "clip")
    return home


def prepared(size: int, mean, std) -> torch.Tensor:
    large = functional.interpolate(IMAGES, size=(size, size), mode="bicubic", antialias=True)
    return (large.repeat(1, 3, 1, 1) - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def test_efficientnet_knows_its_thousand_classes():
    from efficientnet_lite_pytorch import EfficientNet

    network = efficientnet_features(size=64)
    found = seen(network)
    assert found.shape == (3, 1280)
    assert network.metric == "fd_efficientnet"
    twin = EfficientNet.from_name("efficientnet-lite0").eval()
    twin.load_state_dict(network.network[1].network.state_dict())
    large = functional.interpolate(IMAGES, size=(64, 64), mode="bilinear", antialias=True).repeat(1, 3, 1, 1)
    with torch.no_grad():
        expected = twin((large * 255 - 127) / 128)
        torch.testing.assert_close(twin._fc(found), expected, atol=1e-3, rtol=1e-3)
    assert network.identity != efficientnet_features(size=96).identity


def test_dinov2_is_the_class_token(folder, monkeypatch):
    from transformers import Dinov2Model

    monkeypatch.setenv("FLOWPRIOR_WEIGHTS", str(folder))
    twin = Dinov2Model.from_pretrained(folder / "dinov2").eval()
    pixels = prepared(28, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        expected = twin(pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(seen(dinov2_features(size=28)), expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match="multiple of the patches' 14"):
        dinov2_features(size=30)


def test_clip_is_the_embedding_of_length_one(folder):
    from transformers import CLIPVisionModelWithProjection

    twin = CLIPVisionModelWithProjection.from_pretrained(folder / "clip").eval()
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    with torch.no_grad():
        expected = functional.normalize(twin(prepared(16, mean, std)).image_embeds, dim=1)
    network = clip_features(folder / "clip")
    torch.testing.assert_close(seen(network), expected, atol=1e-5, rtol=1e-4)
    assert network.resize == "bicubic, antialiased, to 16x16"


def test_missing_and_wrong_folders_are_named(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("FLOWPRIOR_WEIGHTS", raising=False)
    with pytest.raises(InputError, match="FLOWPRIOR_WEIGHTS is not set: put"):
        dinov2_features()
    with pytest.raises(InputError, match="is missing or incomplete"):
        clip_features(tmp_path)
    with pytest.raises(InputError, match="lacks weights of a CLIPVisionModelWithProjection"):
        clip_features(folder / "dinov2")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="no CLIPVisionModelWithProjection that transformers can read"):
        clip_features(tmp_path)
