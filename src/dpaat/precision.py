"""Half precision: speed on this device."""

import platform

import torch


def emulation(precision: str, device: str | torch.device) -> str | None:
    """A line to warn with where bfloat16 is computed in software, else None.

    x86 processors without AVX-512 have no instructions for it: a training step of a small network was seen to take
    seven times as long as in float32. `precision` is as in `TrainConfig` and `EvaluateConfig`.
    """
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    emulated = x86 and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")
    if not (precision.startswith("bf16") and torch.device(device).type == "cpu" and emulated):
        return None
    return f"precision: {precision} is emulated on this processor, several times slower than 32; leave it out here"
