import torch
from torch import Tensor, nn
from typing_extensions import override

from dpaat.methods.base import Method, StepOutput
from dpaat.methods.options import option
from dpaat.methods.registry import Cost, register_method


@register_method(
    "gaussian",
    "clean images with Gaussian noise, for certified accuracy",
    "Cohen et al., ICML 2019, arXiv 1902.02918",
    cost=Cost(),
    eps=0.0,
    adversarial=False,
)
class Gaussian(Method):
    r"""Minimize the loss on images with noise, $x + \mathcal N(0, \sigma^2 I)$ (Cohen et al. 2019, section 3.3).

    Such a network is to be smoothed with noise of the same strength: `dpaat evaluate RUN --suite certified`.
    """

    sigma: float = option(0.25, "(0, 2]")  #: standard deviation of the noise, in units of a [0, 1] image

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        return self.clean_step(model, index, x + self.sigma * torch.randn_like(x), y)
