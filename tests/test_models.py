import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dpaat.attacks import pgd
from dpaat.errors import UserError
from dpaat.models import Classifier, build_model
from dpaat.weights import read_weights

FAMILIES = [
    "resnet18",
    "vgg11_bn",
    "densenet121",
    "mobilenetv3_small_100",
    "efficientnet_b0",
    "convnext_atto",
    "regnety_002",
    "inception_next_atto",
]
SMALL = {"num_classes": 3, "image_size": 32}


def reseeded(name: str = "test_resnet", seed: int = 0, **options) -> Classifier:
    torch.manual_seed(seed)
    return build_model(name, **{**SMALL, **options})


def final_map(model: Classifier, size: int) -> torch.Size:
    with torch.no_grad():
        return model.eval().network.forward_features(torch.zeros(1, 3, size, size)).shape


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "vgg11_bn" else ()) for name in FAMILIES]
)
def test_family_trains_and_is_attacked_at_64_pixels(name):
    model = reseeded(name, image_size=64).train()
    x, y = torch.rand(4, 3, 64, 64), torch.tensor([0, 1, 2, 0])
    eps = torch.tensor([0.0, 2 / 255, 8 / 255, 0.1])
    x_adv = pgd(model, x, y, eps=eps, steps=2)
    size = (x_adv - x).abs().amax((1, 2, 3))
    assert torch.equal(x_adv[0], x[0])
    assert torch.all(size <= eps + 1e-6)
    assert torch.all(size[1:] > 0.99 * eps[1:]), "two steps of 1.25 eps reach the border somewhere"
    assert all(module.training for module in model.modules())

    logits = model(x_adv)
    nn.functional.cross_entropy(logits, y).backward()
    assert logits.shape == (4, 3)
    without = [key for key, value in model.named_parameters() if value.grad is None]
    assert not without, "every parameter learns"
    assert any(value.grad.abs().sum() > 0 for value in model.parameters())


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "vgg11_bn"])  # which pools to 7 x 7 itself
def test_small_stem_keeps_a_map_of_3_pixels_at_32(name):
    model = reseeded(name, stem="auto", image_size=32)
    assert min(final_map(model, 32)[-2:]) >= 3
    original = reseeded(name, stem="original", image_size=64)
    shapes = {key: value.shape for key, value in original.state_dict().items()}
    assert {key: value.shape for key, value in model.state_dict().items()} == shapes, "kernels stay valid"


@pytest.mark.parametrize(
    ("size", "stem", "expected"), [(47, "auto", 6), (48, "auto", 2), (48, "small", 6), (47, "original", 2)]
)
def test_stem_auto_is_small_below_48_pixels(size, stem, expected):
    assert final_map(reseeded("resnet18", stem=stem, image_size=size), size)[-1] == expected


def test_normalization_is_inside_and_follows_the_network():
    model = reseeded("resnet18", image_size=64)
    assert model.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    x = torch.rand(2, 3, 64, 64)
    seen = []
    model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(x)
    assert torch.allclose(seen[0] * model.std + model.mean, x, atol=1e-6)


def test_grey_images():
    model = reseeded(channels=1)
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 3)
    assert model.mean.shape == (1, 1, 1, 1)


def test_building_leaves_batchnorm_untouched():
    fresh = reseeded("resnet18", image_size=64)
    assert all(not value.any() for key, value in fresh.state_dict().items() if key.endswith("running_mean"))
    assert all(value == 0 for key, value in fresh.state_dict().items() if key.endswith("num_batches_tracked"))


@pytest.mark.parametrize(
    ("name", "size", "stem"),
    [("inception_v3", 32, "original"), ("vit_tiny_patch16_224", 64, "auto"), ("densenet121", 8, "original")],
)
def test_too_small_an_input_is_one_line_that_names_the_model(name, size, stem):
    with pytest.raises(UserError, match=rf"{name}.*{size} x {size}.*--image-size") as error:
        build_model(name, num_classes=3, image_size=size, stem=stem)
    assert "\n" not in str(error.value)


def test_no_stem_to_make_small():
    with pytest.raises(UserError, match=r"vit_tiny_patch16_224.*--stem original"):
        build_model("vit_tiny_patch16_224", num_classes=3, image_size=224, stem="small")


def test_unknown_model_names_the_nearest():
    with pytest.raises(UserError, match="unknown model 'resnt18'; nearest: resnet18"):
        build_model("resnt18", **SMALL)


# --- weights


def save(model: Classifier, path: Path) -> Path:
    state = model.network.state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if path.stem == "nested" else state, path)
    return path


@pytest.mark.parametrize("file", ["w.pth", "nested.pth", "w.safetensors"])
def test_weights_round_trip(tmp_path, file):
    source = reseeded(seed=1)
    loaded = reseeded(weights=save(source, tmp_path / file))
    state = loaded.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in source.state_dict().items())


def test_weights_with_another_head_keep_the_rest(tmp_path):
    source = reseeded(seed=1, num_classes=10)
    path = save(source, tmp_path / "w.pth")
    for key, value in reseeded(weights=path).state_dict().items():
        new = key.startswith("network.fc.")  # begins at zero
        assert torch.equal(value, torch.zeros_like(value) if new else source.state_dict()[key]), key


def test_rgb_weights_serve_a_grey_network(tmp_path):
    source = reseeded(seed=1)
    loaded = reseeded(weights=save(source, tmp_path / "w.pth"), channels=1)
    first = source.network.pretrained_cfg["first_conv"] + ".weight"
    colour, grey = source.network.state_dict()[first], loaded.network.state_dict()[first]
    assert grey.shape[1] == 1
    assert torch.allclose(grey, colour.sum(1, keepdim=True), atol=1e-6), "the sum answers a grey image as before"


def test_weights_of_another_model(tmp_path):
    path = save(reseeded("test_resnet"), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth: not weights of this model") as error:
        reseeded("resnet18", weights=path)
    assert "\n" not in str(error.value)


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("file", ["w.pth", "w.pt", "w.ckpt", "w.safetensors"])
@pytest.mark.parametrize("content", ["bomb", "plain pickle", "noise", "empty", "no tensors"])
def test_bad_weight_files_are_refused_and_nothing_in_them_runs(tmp_path, file, content):
    path, crater = tmp_path / file, tmp_path / "crater"
    if content == "bomb":
        torch.save({"state_dict": {"weight": torch.ones(2)}, "extra": Bomb(crater)}, path)
    elif content == "plain pickle":
        path.write_bytes(pickle.dumps(Bomb(crater)))
    elif content == "no tensors":
        torch.save({"state_dict": {"a": 1}}, path)
    else:
        path.write_bytes(b"no weights" * 50 if content == "noise" else b"")
    with pytest.raises(UserError, match=file.replace(".", r"\.")) as error:
        read_weights(path)
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value), "no advice to lower the guard"
    assert not crater.exists()


def test_real_weights_of_efficientnet(efficientnet_weights):
    model = reseeded("tf_efficientnet_lite0", image_size=64, weights=efficientnet_weights)
    stored = torch.load(efficientnet_weights, weights_only=True)
    assert torch.equal(model.network.conv_stem.weight, stored["conv_stem.weight"])
    assert model.network.classifier.weight.shape[0] == 3
    assert model(torch.rand(2, 3, 64, 64)).isfinite().all()
