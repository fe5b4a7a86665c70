"""Rebuild an exported network from its folder alone; needs torch, timm and safetensors, and nothing of dpaat."""

import json
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file


class Normalized(torch.nn.Module):
    """Maps images (B, C, H, W) in [0, 1] to logits (B, K), in the order of `classes` in `model.json`."""

    def __init__(self, network: torch.nn.Module, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean.reshape(1, -1, 1, 1))
        self.register_buffer("std", std.reshape(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize and classify."""
        return self.network((x - self.mean) / self.std)  # type: ignore[no-any-return,operator]


def rebuild(folder: str | Path, network: torch.nn.Module | None = None) -> Normalized:
    """Build the network that `model.json` describes, with the weights in `model.safetensors`.

    One that is not timm's, whose name begins with "py:", is given: as its own code makes it.
    """
    card = json.loads((Path(folder) / "model.json").read_text(encoding="utf-8"))
    if network is None:
        options = {"num_classes": len(card["classes"]), "in_chans": card["channels"], **card.get("options", {})}
        network = timm.create_model(card["model"], **options)
    network.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    for change in card["strides"]:  # how the small stem differs from timm's
        layer = network.get_submodule(change["module"])
        for name in change.keys() - {"module"}:
            setattr(layer, name, tuple(change[name]))
    return Normalized(network, torch.tensor(card["mean"]), torch.tensor(card["std"])).eval()
