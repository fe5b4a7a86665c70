"""Whether half precision is faster on the device at hand."""

from __future__ import annotations

import platform

import torch


def emulation(precision: str, device: str | torch.device) -> str | None:
    """Say so where bfloat16 is computed in software.

    x86 processors without AVX-512 have no instructions for it: a training step of a small network was seen to take
    seven times as long as in float32.

    Args:
        precision: as in `TrainConfig.precision` or `EvaluateConfig.precision`.
        device: where to compute.

    Returns:
        A line to warn with, or None.
    """
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    emulated = x86 and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")
    if not (precision.startswith("bf16") and torch.device(device).type == "cpu" and emulated):
        return None
    return f"precision: {precision} is emulated on this processor, several times slower than 32; leave it out here"
