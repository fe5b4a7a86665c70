"""Reports from the field, kind 8: tensor layout is not read off the rank."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpaat.errors import UserError
from dpaat.interpret.layers import find_layer, list_layers
from dpaat.interpret.maps import grad_cam
from dpaat.models import build_model

SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 2)}

# Network, its options, pixels, a layer, and the layout that the reader of the network's source knows:
# "BCHW", "BHWC", or the number of tokens that stand before those of the image, row by row.
NETWORKS = [
    ("test_resnet", {}, 64, "layer2", "BCHW"),
    ("test_efficientnet", {}, 64, "blocks.3", "BCHW"),
    ("test_byobnet", {}, 64, "stem", "BCHW"),
    ("test_nfnet", {}, 64, "stages.1", "BCHW"),
    ("test_convnext", {}, 64, "stages.1", "BCHW"),
    ("test_convnext", {}, 64, "stages.1.blocks.0.mlp.fc1", "BHWC"),
    ("mobilenetv3_small_050", {}, 64, "blocks.2", "BCHW"),
    ("edgenext_xx_small", {}, 64, "stages.1", "BCHW"),
    ("test_mambaout", {}, 64, "stages.1", "BHWC"),
    ("swin_tiny_patch4_window7_224", SWIN, 64, "layers.1", "BHWC"),  # pytorch-grad-cam#124: "Wrong heatmap"
    ("swinv2_tiny_window8_256", SWIN, 64, "layers.1", "BHWC"),  # pytorch-grad-cam#426
    ("test_vit", {}, 160, "blocks.4", 1),
    ("test_vit2", {}, 160, "blocks.4", 1),
    ("test_vit_relpos", {}, 160, "blocks.4", 0),
    ("deit_tiny_distilled_patch16_224", {"img_size": 128, "depth": 3, "embed_dim": 48}, 128, "blocks.1", 2),
]


def network(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=3, **options).eval()


def own_map(model: nn.Module, x: Tensor, y: Tensor, path: str, layout: str | int) -> Tensor:
    """Grad-CAM written out with hooks of its own, for a layout that is known."""
    seen = []
    hook = model.get_submodule(path).register_forward_hook(lambda module, inputs, output: seen.append(output))
    logits = model(x.clone().requires_grad_())
    hook.remove()
    (gradient,) = torch.autograd.grad(logits[range(len(x)), y].sum(), seen)

    def places_first(values: Tensor) -> Tensor:  # (B, H, W, C)
        if layout == "BCHW":
            return values.permute(0, 2, 3, 1)
        if layout == "BHWC":
            return values
        side = int((values.shape[1] - layout) ** 0.5)
        return values[:, layout:].reshape(len(values), side, side, -1)

    values, weights = places_first(seen[0].detach()), places_first(gradient).mean((1, 2))
    small = torch.einsum("bhwc,bc->bhw", values, weights).clamp(min=0)
    return F.interpolate(small[:, None], x.shape[2:], mode="bilinear")[:, 0]


@pytest.mark.parametrize(
    ("name", "options", "size", "path", "layout"), NETWORKS, ids=[f"{name}-{path}" for name, _, _, path, _ in NETWORKS]
)
def test_maps_are_those_of_hooks_written_for_the_network(name, options, size, path, layout):
    model = network(name, **options)
    x, y = torch.rand(3, 3, size, size), torch.tensor([0, 1, 2])
    layer = find_layer(model, x[:1], path)
    expected = own_map(model, x, y, path, layout)
    assert float(expected.max()) > 0
    torch.testing.assert_close(grad_cam(model, x, y, layer), expected, rtol=1e-3, atol=1e-3 * float(expected.max()))


class Planted(nn.Module):
    """Says how bright the upper right quarter is; its middle layer hands its map on in a layout of our choice."""

    def __init__(self, layout: str, tokens: int = 0) -> None:
        super().__init__()
        self.layout, self.tokens = layout, tokens
        self.stem, self.middle = nn.AvgPool2d(2), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        values = torch.cat([self.stem(x), torch.zeros_like(self.stem(x))], 1)
        b, c, h, w = values.shape
        pad = values.new_ones(b, self.tokens, c)
        out = {
            "BCHW": lambda: values,
            "BHWC": lambda: values.permute(0, 2, 3, 1),
            "BCWH": lambda: values.transpose(2, 3),
            "BNC": lambda: torch.cat([pad, values.flatten(2).transpose(1, 2)], 1),
            "BNC, tokens last": lambda: torch.cat([values.flatten(2).transpose(1, 2), pad], 1),
            "BCN": lambda: values.flatten(2),
        }[self.layout]()
        seen = self.middle(out)
        if self.layout.startswith("BNC"):
            start = 0 if "last" in self.layout else self.tokens
            back = seen[:, start : start + h * w].transpose(1, 2).reshape(b, c, h, w)
        elif self.layout == "BCN":
            back = seen.reshape(b, c, h, w)
        else:
            back = {"BCHW": seen, "BHWC": seen.permute(0, 3, 1, 2), "BCWH": seen.transpose(2, 3)}[self.layout]
        z = back[:, :3, : h // 2, w // 2 :].mean((1, 2, 3))
        return torch.stack([z, -z], 1)


LAYOUTS = ["BCHW", "BHWC", "BCWH", "BNC", "BNC, tokens last", "BCN"]


@pytest.mark.parametrize("size", [(24, 24), (24, 40), (48, 24)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_places_of_every_layout(layout, tokens, size):
    model = Planted(layout, tokens)
    x = 0.1 * torch.rand(2, 3, *size)
    x[:, :, : size[0] // 2, size[1] // 2 :] += 0.8
    layer = find_layer(model, x[:1], "middle")
    assert (layer.height, layer.width) == (size[0] // 2, size[1] // 2)
    found = grad_cam(model, x, torch.zeros(2, dtype=torch.int64), layer)
    inside = found[:, : size[0] // 2 - 2, size[1] // 2 + 2 :]
    outside = torch.cat([found[:, size[0] // 2 + 2 :].flatten(1), found[:, :, : size[1] // 2 - 2].flatten(1)], 1)
    assert float(inside.min()) > 3 * float(outside.max())


class Shuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.order, self.middle = torch.randperm(64, generator=torch.Generator().manual_seed(0)), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.middle(F.avg_pool2d(x, 2).flatten(2).transpose(1, 2)[:, self.order])[:, :9].mean(2)


def test_tokens_in_an_order_of_their_own_are_refused_by_name():
    with pytest.raises(UserError, match="'middle' does not give one map"):
        find_layer(Windowed(), torch.rand(1, 3, 16, 16), "middle")
    assert not list_layers(Shuffled(), torch.rand(1, 3, 16, 16))


class Windowed(nn.Module):
    """Tokens of 2 x 2 pixels in Hiera's order: the place inside the window first, then the window."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.middle = nn.Conv2d(3, 4, 1), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        values = self.stem(x).unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
        return self.middle(values.permute(0, 3, 5, 2, 4, 1).flatten(1, 4)).mean(1)


def test_a_refusal_says_which_layer_to_give():
    with pytest.raises(UserError, match="'middle' does not give one map of the image; give another, such as stem"):
        find_layer(Windowed(), torch.rand(1, 3, 16, 16), "middle")
    model = network("test_vit")
    x = torch.rand(1, 3, 160, 160)
    with pytest.raises(UserError, match=r"'norm' .* no say in the answer; give another, such as blocks.4"):
        find_layer(model, x, "norm")  # its class token alone is read
    with pytest.raises(UserError, match=r"'blocks.0.attn.q_norm' does not give one map"):  # (B, heads, N, C / heads)
        find_layer(model, x, "blocks.0.attn.q_norm")


@pytest.mark.parametrize(
    ("name", "options", "size", "layer"),
    [("test_vit", {}, 160, "blocks.4"), ("swin_tiny_patch4_window7_224", SWIN, 64, "norm")],
)
def test_the_layer_that_is_taken_where_none_is_named(name, options, size, layer):
    assert find_layer(network(name, **options), torch.rand(1, 3, size, size)).name == layer


# Other readers of rank and layout: found in our audit


@pytest.mark.parametrize(
    "x",
    [
        torch.rand(3, 16, 16),  # three grey images, or one in colour
        torch.rand(4, 1, 16, 16),
        torch.rand(4, 16, 16, 3),
        torch.zeros(4, 3, 16, 16, dtype=torch.uint8),
    ],
)
def test_a_classifier_takes_no_other_layout(x):
    model = build_model("test_resnet", num_classes=3, image_size=32).eval()
    with pytest.raises(ValueError, match="images must be of shape"):
        model(x)
