"""VGG features from local files: three formats against independently built networks, and the errors."""

import pytest
import torch
from torch import nn
from torchvision.models import vgg16, vgg19

from flowprior.errors import InputError
from flowprior.networks import VGGFeatures


def normalized_stack() -> nn.Sequential:
    """The published module list of the normalized VGG-19 up to relu3_1."""

    def conv(before: int, after: int) -> list[nn.Module]:
        return [nn.ReflectionPad2d(1), nn.Conv2d(before, after, 3), nn.ReLU()]

    def pool() -> nn.Module:
        return nn.MaxPool2d(2, 2, ceil_mode=True)

    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 3, 1),
        *conv(3, 64),
        *conv(64, 64),
        pool(),
        *conv(64, 128),
        *conv(128, 128),
        pool(),
    ]
    return nn.Sequential(*layers, *conv(128, 256))


@pytest.fixture(scope="module")
def normalized(tmp_path_factory):
    network = normalized_stack().eval()
    path = tmp_path_factory.mktemp("weights") / "vgg19_normalised_relu3_1.pth"
    torch.save(network.state_dict(), path)
    return network, path


def cut(network: nn.Sequential, images: torch.Tensor, places: tuple[int, ...]) -> list[torch.Tensor]:
    maps = []
    for place, module in enumerate(network):
        images = module(images)
        if place in places:
            maps.append(images)
    return maps


@pytest.mark.parametrize("size", [15, 28])
def test_normalized_file_gives_the_published_network(normalized, size):
    network, path = normalized
    images = torch.rand(2, 3, size, size)
    features = VGGFeatures(path, ("relu1_1", "relu1_2", "relu2_1", "relu2_2", "relu3_1"))
    with torch.no_grad():
        expected = cut(network, images, (3, 6, 10, 13, 17))
    for got, wanted in zip(features(images), expected, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    ("build", "places", "stages"),
    [
        (vgg16, (3, 8, 11, 15), ("relu1_2", "relu2_2", "relu3_1", "relu3_3")),
        (vgg19, (3, 8, 11, 17), ("relu1_2", "relu2_2", "relu3_1", "relu3_4")),
    ],
)
def test_torchvision_file_gives_torchvisions_network(build, places, stages, tmp_path):
    torch.manual_seed(0)
    with torch.device("meta"):
        whole = build(weights=None)
    network = whole.features.to_empty(device="cpu").double().eval()  # so that only mistakes differ
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    torch.save(
        {f"features.{key}": value for key, value in network.state_dict().items()}, tmp_path / "vgg.pth"
    )
    images = torch.rand(1, 3, 32, 32).double()
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)
    normal = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        expected = cut(network, normal, places)
    for got, wanted in zip(VGGFeatures(tmp_path / "vgg.pth", stages).double()(images), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1.3e-6, atol=1e-5)  # float32's, as the mean is


def test_gray_images_are_repeated(normalized):
    features = VGGFeatures(normalized[1])
    gray = torch.rand(2, 1, 12, 12)
    for one, three in zip(features(gray), features(gray.repeat(1, 3, 1, 1)), strict=True):
        torch.testing.assert_close(one, three)
    with pytest.raises(InputError, match="N, 1, H, W"):
        features(torch.rand(2, 2, 12, 12))


def test_stages_come_in_the_order_asked(normalized):
    images = torch.rand(1, 3, 12, 12)
    deep, shallow = VGGFeatures(normalized[1], ("relu3_1", "relu1_1"))(images)
    assert (deep.shape[1], shallow.shape[1]) == (256, 64)


def test_weights_are_neither_trained_nor_saved(normalized):
    features = VGGFeatures(normalized[1])
    assert list(features.parameters()) == []
    assert features.state_dict() == {}
    images = torch.rand(1, 3, 12, 12, requires_grad=True)
    sum(maps.sum() for maps in features(images)).backward()
    assert images.grad.abs().sum() > 0
    assert features.double().get_buffer("relu1_1_weight").dtype == torch.float64


def test_file_is_found_by_name_in_the_weights_folder(normalized, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWPRIOR_WEIGHTS", str(normalized[1].parent))
    images = torch.rand(1, 3, 12, 12)
    torch.testing.assert_close(VGGFeatures()(images), VGGFeatures(normalized[1])(images))


def test_missing_file_says_what_to_put_where(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWPRIOR_WEIGHTS", str(tmp_path))
    with pytest.raises(InputError, match=r"vgg19_normalised_relu3_1\.pth.*into") as caught:
        VGGFeatures()
    assert str(tmp_path) in str(caught.value)
    monkeypatch.delenv("FLOWPRIOR_WEIGHTS")
    with pytest.raises(InputError, match="FLOWPRIOR_WEIGHTS"):
        VGGFeatures()


def test_wrong_files_are_refused(normalized, tmp_path):
    network, path = normalized
    with pytest.raises(InputError, match="relu4_1"):
        VGGFeatures(path, ("relu4_1",))
    with pytest.raises(InputError, match="stages"):
        VGGFeatures(path, ())
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read"):
        VGGFeatures(damaged)
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(InputError, match="state dict"):
        VGGFeatures(tmp_path / "list.pth")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(InputError, match="not a VGG file"):
        VGGFeatures(tmp_path / "other.pth")
    torch.save(network, tmp_path / "pickled.pth")  # a pickled module would run code when loaded
    with pytest.raises(InputError, match="cannot be read"):
        VGGFeatures(tmp_path / "pickled.pth")
