"""Attribution maps: which pixels a model's logit for a class depends on."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn
from torch.nn import functional as F

from dpaat.attacks.gradient import evaluation_mode, input_gradient
from dpaat.errors import UserError
from dpaat.interpret.layers import Layer
from dpaat.registry import Registry

IG_STEPS = 16  # points on the path of integrated gradients
Explain = Callable[[nn.Module, Tensor, Tensor, "Layer | None"], Tensor]


@dataclass(frozen=True)
class Attribution:
    """A kind of map that can be named on the command line.

    `function(model, x, y, layer)` takes images `(B, C, H, W)` in [0, 1] and classes `(B,)`; it returns maps
    `(B, H, W)`, 0 or larger, of arbitrary scale.
    """

    name: str
    function: Explain
    description: str
    passes: int  # forward passes per image, an input gradient counted as two
    needs_layer: bool = False  # whether it looks at a layer inside the network


MAPS = Registry("map", Attribution)
"""What `dpaat explain --maps` knows."""


@MAPS.register("grad-cam", "Grad-CAM (Selvaraju et al. 2017)", 3, needs_layer=True)
def grad_cam(model: nn.Module, x: Tensor, y: Tensor, layer: Layer | None) -> Tensor:
    """Positive part of a layer's channels, weighted by the mean gradient of the logit, scaled up to the image.

    Source: R. R. Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization", ICCV 2017, arXiv 1610.02391, equations 1 and 2.
    """
    if layer is None:
        raise ValueError("grad_cam needs a layer")
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()  # what follows may work in place

    hook = model.get_submodule(layer.path).register_forward_hook(keep)
    with hook, evaluation_mode(model), torch.enable_grad():
        logits = model(x.detach().requires_grad_())
        (gradient,) = torch.autograd.grad(logits.gather(1, y[:, None]).sum(), kept[0])
    weights = layer.as_map(gradient).mean(dim=(2, 3), keepdim=True)
    found = (weights * layer.as_map(kept[0].detach())).sum(dim=1, keepdim=True).relu()
    return F.interpolate(found, x.shape[2:], mode="bilinear")[:, 0]


@MAPS.register("input-gradient", "absolute input gradient (Simonyan et al. 2013)", 2)
def input_gradient_map(model: nn.Module, x: Tensor, y: Tensor, layer: Layer | None = None) -> Tensor:
    """Absolute gradient of the logit for the image, summed over channels.

    Source: K. Simonyan, A. Vedaldi, A. Zisserman, "Deep Inside Convolutional Networks: Visualising Image
    Classification Models and Saliency Maps", 2013, arXiv 1312.6034, section 3 (there the maximum over channels).
    """
    return logit_gradient(model, x, y).abs().sum(dim=1)


@MAPS.register(
    "integrated-gradients",
    f"integrated gradients from the mean colour, {IG_STEPS} points (Sundararajan et al. 2017)",
    2 * IG_STEPS,
)
def integrated_gradients(model: nn.Module, x: Tensor, y: Tensor, layer: Layer | None = None) -> Tensor:
    """Absolute contribution of every pixel to the logit, on the straight way from the image's mean colour.

    Contributions are summed over channels before the absolute value is taken. 16 points, Gauss-Legendre.

    Source: M. Sundararajan, A. Taly, Q. Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, arXiv 1703.01365,
    equation 1.
    """
    # captum tells every caller that it switches gradients on for the images it was given.
    with evaluation_mode(model), torch.enable_grad(), warnings.catch_warnings(action="ignore"):
        found = IntegratedGradients(model).attribute(
            x.detach(), baselines=mean_colour(x), target=y, n_steps=IG_STEPS, internal_batch_size=len(x)
        )
    assert isinstance(found, Tensor)
    return found.detach().sum(dim=1).abs().float()


def logit_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of the logit of class `y` for the image, `(B, C, H, W)`."""
    with evaluation_mode(model):
        return input_gradient(model, x, y, lambda logits, labels: logits.gather(1, labels[:, None])[:, 0])[0]


def mean_colour(x: Tensor) -> Tensor:
    """Images of the same size in one colour each, the mean of the image's own: nothing to see, and no new colour."""
    return x.mean(dim=(2, 3), keepdim=True).expand_as(x).contiguous()


def edge_map(x: Tensor) -> Tensor:
    """Sobel edges of the image's brightness, `(B, H, W)`: what a map looks like that knows nothing of a model."""
    sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=x.device)
    grey = F.pad(x.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    return F.conv2d(grey, torch.stack([sobel, sobel.T])[:, None]).square().sum(dim=1).sqrt()


def centre_map(x: Tensor) -> Tensor:
    """A Gaussian at the centre of every image, `(B, H, W)`, of a quarter of the side: where lesions mostly are."""
    across, down = (
        torch.exp(-8 * (torch.linspace(-0.5, 0.5, side, device=x.device) ** 2)) for side in (x.shape[3], x.shape[2])
    )
    return (down[:, None] * across).expand(len(x), -1, -1)


REFERENCES: dict[str, Callable[[Tensor], Tensor]] = {"centre": centre_map, "edges": edge_map}
"""Maps that know no model: a score on the lesion that they reach too says nothing about one."""


def find_maps(names: list[str]) -> list[Attribution]:
    """Look kinds of map up by name, each once; raises UserError for none, or one that does not exist."""
    if not names:
        raise UserError(f"maps: name at least one of {', '.join(MAPS)}")
    return [MAPS.find(name) for name in dict.fromkeys(names)]
