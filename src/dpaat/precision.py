"""Half precision: speed on this device."""

import platform
import statistics
import time
from copy import deepcopy

import torch
from torch import Tensor, nn

from dpaat.attacks.losses import cross_entropy

BATCHES = 5  #: Batches that are timed in either precision


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


def bfloat16_pays(model: nn.Module, x: Tensor, y: Tensor) -> tuple[bool, str]:
    """Whether forward and backward passes of a batch take less time in bfloat16, measured; and a line that says so.

    Small networks of convolutions with few channels can take twice as long. The model, in its present mode,
    is left alone.
    """
    if slow := emulation("bf16", x.device):
        return False, f"precision: 32 is taken ({slow.partition('; ')[0].partition(': ')[2]})"
    copy, times = deepcopy(model), {False: list[float](), True: list[float]()}
    for number in range(BATCHES + 1):
        for half, seconds in times.items():
            start = time.perf_counter()
            with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
                loss = cross_entropy(copy(x), y).mean()
            loss.backward()
            if x.device.type == "cuda":
                torch.cuda.synchronize(x.device)
            seconds += [time.perf_counter() - start] * (number > 0)  # the first warms up
    share = statistics.median(times[True]) / statistics.median(times[False])
    taken = "bf16" if share < 1 else "32"
    return share < 1, f"precision: {taken} is taken; bf16 takes {share:.2f} of the time of 32 ({BATCHES} batches)"
