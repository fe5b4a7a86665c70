"""BatchNorm folding: a faster copy of a network to search on, channels last on a CPU."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dpaat.attacks.gradient import evaluation_mode

TOLERANCE = 1e-4  #: Largest difference of logits, as a share of the largest of them or of 1, that a copy may have


def search_copy(model: nn.Module, x: Tensor) -> nn.Module:
    """Copy a model so that forward passes and input gradients take less time, for attacks; verdicts are not for it.

    Every BatchNorm layer that follows a convolution is folded into it. `x` are images `(n, C, H, W)` in [0, 1] on the
    model's device, of which a few are used to find these pairs and to compare the logits. Returns the model itself
    where it cannot be copied or the copy answers otherwise.
    """
    x = x[:8].detach()
    try:
        copy = deepcopy(model).requires_grad_(False)
    except Exception:  # of somebody's own module: whatever cannot be copied
        return model
    with evaluation_mode(model), evaluation_mode(copy), torch.no_grad():
        for conv, name, norm in _pairs(copy, x):
            fused = fuse_conv_bn_eval(conv, norm)
            conv.weight, conv.bias = fused.weight.requires_grad_(False), fused.bias
            act = getattr(norm, "act", None)  # timm's layers have the activation inside
            copy.set_submodule(name, act if isinstance(act, nn.Module) else nn.Identity())
        if x.device.type == "cpu":
            copy = copy.to(memory_format=torch.channels_last)
        asked, answer = model(x), copy(x)
    same = isinstance(asked, Tensor) and torch.allclose(
        asked, answer, rtol=0, atol=TOLERANCE * max(1.0, float(asked.abs().max()))
    )
    return copy.eval() if same else model


def _pairs(model: nn.Module, x: Tensor) -> list[tuple[nn.Conv2d, str, nn.BatchNorm2d]]:
    """Convolutions with the BatchNorm that takes their output, each called once in a forward pass."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # by output; tensors are held, so that no number is used twice
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    calls: dict[nn.Module, int] = {}

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.BatchNorm2d) and module.track_running_stats and id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], module))
        elif type(module) is nn.Conv2d:
            made[id(output)] = (module, output)

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    hooks = [module.register_forward_hook(look) for module in model.modules() if isinstance(module, kinds)]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    names = {module: name for name, module in model.named_modules()}
    return [(conv, names[norm], norm) for conv, norm in pairs if calls[conv] == calls[norm] == 1]
