"""Parameter randomization: the sanity check of attribution maps."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from dpaat.interpret.layers import Layer
from dpaat.interpret.maps import Explain
from dpaat.interpret.similarity import specific_correlation, structural_similarity

FAIL, WARN = 0.5, 0.25
"""Mean correlation with the maps of the randomized model from which the check fails, or warns."""


@dataclass(frozen=True)
class Verdict:
    """What the randomization check concluded: "pass", "warn" or "fail", and one sentence with the numbers."""

    verdict: str
    evidence: str


def randomize(model: nn.Module, x: Tensor, *, seed: int = 0) -> nn.Module:
    """Copy a model and shuffle the values of every parameter among themselves, in the modes of the model.

    That keeps the scale of every layer, for any kind of layer, and nothing that was learned beyond it. Running
    statistics of normalization layers are taken anew from images `x` `(B, C, H, W)`, or the shuffled network could
    answer with constants.
    """
    random = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in random.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    if len(x) == 1:
        x = x.repeat(2, 1, 1, 1)  # one image leaves BatchNorm a single value where the map is 1 x 1
    with torch.random.fork_rng():  # dropout
        torch.manual_seed(seed)
        update_bn([x], random)
    return random


def randomization_check(
    explain: Explain, model: nn.Module, x: Tensor, y: Tensor, *, layer: Layer | None = None, seed: int = 0
) -> Verdict:
    """Compare the maps of a model with those of the same model, randomized; `explain` is as `Attribution.function`.

    Source: J. Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, arXiv 1810.03292, section 3 (there
    parameters are initialized anew, layer by layer).
    """
    random = randomize(model, x, seed=seed)
    return judge(explain(model, x, y, layer), explain(random, x, y, layer))


def judge(before: Tensor, after: Tensor) -> Verdict:
    """Compare maps of a model `(N, H, W)` with those of the randomized one."""
    if len(before) < 2:
        return Verdict("skipped", "needs at least 2 images")
    correlation = float(np.mean(specific_correlation(before, after)))
    similarity = float(np.mean(structural_similarity(before, after)))
    numbers = f"correlation with the maps of the randomized model {correlation:.2f}, SSIM {similarity:.2f}"
    if correlation >= FAIL:
        return Verdict("fail", f"maps survive, so they do not show what was learned: {numbers} (limit {FAIL:g})")
    if correlation >= WARN:
        return Verdict("warn", f"a part of the maps shows the image rather than what was learned: {numbers}")
    return Verdict("pass", f"maps are destroyed: {numbers}")
