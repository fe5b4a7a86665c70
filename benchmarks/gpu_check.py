"""Everything that has to be known of a GPU, in one run of at most 8 minutes; `--dry` tries the script on a CPU.

    python benchmarks/gpu_check.py --out benchmarks/results/gpu-check.json
    python benchmarks/gpu_check.py --dry

Each check stands alone: what fails is noted with its error and the next one begins; a check that would begin after the
time is up is left out, and the result says so. Ends with exit code 1 where a check failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from dpaat.attacks import unchecked
from dpaat.config import TrainConfig
from dpaat.evaluation.attacking import Attacker
from dpaat.evaluation.specs import attack_spec
from dpaat.methods import MethodContext, build_method, find_method
from dpaat.models import build_model
from dpaat.provenance import provenance
from dpaat.storage import write_json
from dpaat.training import train
from step_cost import floor_step, interleaved, ratio

CLASSES, EPS = 7, 4 / 255


@dataclass
class Setting:
    """Sizes of the checks, and when they have to end."""

    device: torch.device
    models: tuple[str, ...] = ("resnet18", "resnet50")
    size: int = 128
    batch: int = 128
    images: int = 200
    steps: int = 10
    pairs: int = 7
    compilers: tuple[str, ...] = ("eager", "compile", "CUDA graphs")
    peak: float = 989e12  # multiplications and additions a second in bfloat16, of an H100 or H200
    end: float = field(default=0.0)

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self.end


def network(name: str, setting: Setting) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, num_classes=CLASSES, image_size=setting.size, stem="original")


def batch(setting: Setting, count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, 3, setting.size, setting.size, generator=generator)
    return x, torch.randint(CLASSES, (count,), generator=generator)


def verdicts(setting: Setting) -> dict[str, Any]:
    """Verdicts under the same attacks at three radii that are others than on the CPU."""
    model = network(setting.models[0], setting)
    x, _ = batch(setting, setting.images)
    with torch.no_grad():
        labels = model.eval()(x).argmax(1).numpy()  # so that all stand at first
    found = {}
    for attack in ("pgd", "apgd-ce"):
        sides = []
        for device in ("cpu", setting.device):
            options: dict[str, Any] = {"num_classes": CLASSES, "device": device, "progress": False}
            attacker = Attacker(model, x.numpy(), labels, batch_size=setting.batch, **options)
            spec = attack_spec(attack, steps=setting.steps)
            sides.append(np.stack([attacker.outputs(spec, k / 255).predicted == labels for k in (1, 2, 4)]))
        differ = int((sides[0] != sides[1]).sum())
        found[attack] = {"standing": sides[0].sum(1).tolist(), "differ": differ, "ok": differ <= sides[0].size // 100}
    return {**found, "ok": all(each["ok"] for each in found.values())}


def resume(setting: Setting) -> dict[str, Any]:
    """Whether a run in deterministic mode that was stopped and resumed ends with the same weights, to the bit."""
    on = "gpu" if setting.device.type == "cuda" else "cpu"
    config = TrainConfig(
        data="synthetic:60", image_size=32, model="test_resnet", method="dpaat", epochs=2, batch_size=16, steps=2,
        val_eps="0", accelerator=on, devices=1, trainer={"deterministic": True},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for name, stop in (("straight", None), ("stopped", 1)):
            train(config, Path(folder) / name, stop_after=stop)
        train(config, Path(folder) / "stopped", resume=True)
        paths = [Path(folder) / name / "checkpoints" / "last.ckpt" for name in ("straight", "stopped")]
        states = [torch.load(path, map_location="cpu", weights_only=True)["state_dict"] for path in paths]
    one, other = ({name: part for name, part in each.items() if isinstance(part, Tensor)} for each in states)
    differ = [name for name in one if not torch.allclose(one[name], other[name], rtol=0, atol=0, equal_nan=True)]
    return {"tensors": len(one), "differ": differ, "ok": bool(one) and not differ}


def learner(
    model: nn.Module, method: str, setting: Setting, *, static: bool = False
) -> Callable[[Tensor, Tensor], None]:
    """One training step of a method."""
    labels = torch.zeros(setting.batch, dtype=torch.int64)

    def learn_loss(logits: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(logits, y, reduction="none")

    context = MethodContext(labels, CLASSES, 30, learn_loss, EPS, setting.steps, "linf", 0.0, static_shapes=static)
    objective = build_method(find_method(method), context, {}).to(setting.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    index = torch.arange(setting.batch, device=setting.device)

    def step(x: Tensor, y: Tensor) -> None:
        model.train()
        with unchecked():
            output = objective(model, index, x, y)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step(output)

    return step


class Reading(TorchFunctionMode):
    """Lists where values are read from tensors, for which a host would wait."""

    NAMES = frozenset({"item", "tolist", "nonzero", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__"})

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(function, "__name__", "") in self.NAMES:
            caller = sys._getframe(1)
            self.waits.append(f"{Path(caller.f_code.co_filename).name}:{caller.f_lineno}")
        return function(*args, **kwargs or {})


@contextmanager
def counted_waits(device: torch.device) -> Iterator[list[str]]:
    """What made the host wait for the device; on a CPU, what would, and checks that are made there only."""
    waits: list[str] = []
    if device.type != "cuda":
        with Reading(waits):
            yield waits
        return
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield waits
        waits += [f"{Path(each.filename).name}:{each.lineno}" for each in caught if "synchroni" in str(each.message)]
    finally:
        torch.cuda.set_sync_debug_mode("default")


def methods(setting: Setting) -> dict[str, Any]:
    """Time of a step over that of its floor, and how often it waits for the device."""
    found: dict[str, Any] = {}
    kinds = [("standard", False), ("pgd", False), *product(("dpaat", "dpaat-fast"), (False, True))]
    for name, static in kinds:
        model = network(setting.models[0], setting).to(setting.device).to(memory_format=torch.channels_last)
        x, y = (part.to(setting.device) for part in batch(setting, setting.batch))
        step = learner(model, name, setting, static=static)

        floor = partial(floor_step, model, x, y, setting.steps)
        times = interleaved(setting.pairs, setting.device, partial(step, x, y), floor)
        with counted_waits(setting.device) as waits:
            step(x, y)
        key = f"{name}, static shapes" if static else name
        found[key] = {"over_floor": ratio(*times), "waits": sorted(set(waits)), "waits_per_step": len(waits)}
    return found


def variants(setting: Setting) -> dict[str, Any]:
    """PGD training steps in float32 and bfloat16, in both memory formats, eager and compiled."""
    found: dict[str, Any] = {}
    for name in setting.models:
        for compiler in setting.compilers:
            for half in (False, True):
                for last in (True, False):
                    key = f"{name}, {compiler}, {'bf16' if half else '32'}, channels {'last' if last else 'first'}"
                    found[key] = (
                        {"left out": "time is up"} if setting.late else _variant(setting, name, compiler, half, last)
                    )
    return found


def _variant(setting: Setting, name: str, compiler: str, half: bool, last: bool) -> dict[str, Any]:
    device, form = setting.device, torch.channels_last if last else torch.contiguous_format
    model = network(name, setting).to(device).to(memory_format=form)
    x, y = (part.to(device) for part in batch(setting, setting.batch))
    x = x.contiguous(memory_format=form)
    step = learner(model, "pgd", setting)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    # An input gradient costs as much as a forward pass, the backward pass of learning twice as much.
    operations = counter.get_total_flops() * (2 * setting.steps + 3)
    if compiler != "eager":
        model.compile(mode="reduce-overhead" if compiler == "CUDA graphs" else None)

    def work() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            step(x, y)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        seconds = min(interleaved(max(2, setting.pairs // 2), device, work)[0])
    except Exception as error:  # whatever the compiler stumbles over is a result
        return {"cannot": f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]}
    return {
        "images_per_second": len(x) / seconds,
        "flop_utilization": operations / seconds / setting.peak if device.type == "cuda" else None,
        "peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    }


def peers(setting: Setting) -> dict[str, Any]:
    """The comparison with six other libraries, where they are installed."""
    if importlib.util.find_spec("torchattacks") is None:
        return {"left out": "the libraries of benchmarks/requirements-parity.txt are not installed"}
    script = Path(__file__).parent / "peers" / "run.py"
    command = [sys.executable, str(script), "--device", str(setting.device), "--pairs", "3"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, setting.end - time.monotonic()))
    return {"ok": ended.returncode == 0, "output": (ended.stdout + ended.stderr)[-4000:].splitlines()}


def one_process(setting: Setting) -> dict[str, Any]:
    """DDP with one process: over NCCL, or Gloo on a CPU."""
    backend = "nccl" if setting.device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            model = nn.parallel.DistributedDataParallel(network(setting.models[0], setting).to(setting.device))
            x, y = (part.to(setting.device) for part in batch(setting, setting.batch))
            cross_entropy(model(x), y).backward()
            norm = sum(float(p.grad.norm()) for p in model.parameters() if p.grad is not None)
        finally:
            torch.distributed.destroy_process_group()
    return {"backend": backend, "ok": bool(np.isfinite(norm) and norm > 0)}


CHECKS = (verdicts, resume, methods, one_process, variants, peers)


def run(setting: Setting) -> dict[str, Any]:
    """All checks, each with its seconds."""
    found: dict[str, Any] = {}
    for check in CHECKS:
        start = time.monotonic()
        try:
            result = {"left out": "time is up"} if setting.late else check(setting)
        except Exception as error:  # the next check is not to suffer for it
            result = {"ok": False, "error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]}
        found[check.__name__] = result | {"seconds": round(time.monotonic() - start, 1)}
        print(f"{check.__name__}: {found[check.__name__]}", flush=True)
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="on a CPU with tiny sizes: whether the script works")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--peak", type=float, default=Setting.peak, help="FLOP a second of the card in bfloat16")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args(argv)
    if not arguments.dry and not torch.cuda.is_available():
        parser.error("no GPU here; --dry tries the script on a CPU")
    setting = Setting(torch.device("cpu" if arguments.dry else "cuda"), peak=arguments.peak)
    if arguments.dry:
        sizes: dict[str, Any] = {"size": 32, "batch": 8, "images": 8, "steps": 2, "pairs": 2}
        setting = replace(setting, models=("test_resnet",), compilers=("eager",), **sizes)
    setting.end = time.monotonic() + 60 * arguments.minutes
    found = run(setting)
    failed = [name for name, result in found.items() if not result.get("ok", True)]
    if arguments.out:
        sizes = {name: value for name, value in vars(setting).items() if name not in ("end", "device")}
        content = {**provenance(str(setting.device)), "dry": arguments.dry, "setting": sizes, "failed": failed, **found}
        write_json(arguments.out, content)
    print(f"failed: {', '.join(failed) or 'none'}")
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
