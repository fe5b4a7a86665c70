"""A stopwatch for the steps of a training, and the measures that go with it."""

import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from typing_extensions import override

from dpaat.attacks.gradient import evaluation_mode, input_gradient
from dpaat.attacks.losses import cross_entropy
from dpaat.data.loading import Batch
from dpaat.methods import StepOutput
from dpaat.training.module import TrainingModule

PHASES = ("loading", "augmentation", "attack", "forward", "backward", "optimizer", "state")
_LAPS = {
    "on_train_epoch_start": None,
    "on_before_backward": "forward",
    "on_after_backward": "backward",
    "on_validation_epoch_end": None,
}
"""Hooks that end a phase, or a time that is nobody's."""
LEAST_SECONDS = 0.5
"""How long a pass is timed at least: a small network's must outlast a moment in which others use the machine."""


class Stopwatch(L.Callback):
    """Times the phases of every step, and at the end the passes that no training can do without.

    The attack ends where the network is first called in train mode; what comes before its first call at all is
    augmentation. `times` are the seconds of every step, for each of `PHASES`; `epoch_end` those from the last
    validation batch to the end of the epoch: scores, logs, checkpoints.
    """

    _batch: Batch

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = defaultdict(list)
        self.passes: dict[str, float] = {}
        self.memory: dict[str, int] = {}
        self.epoch_end = self._last = 0.0
        self._called = self._learning = False
        for hook, phase in _LAPS.items():
            setattr(self, hook, lambda *_, phase=phase: self._lap(phase))

    def _lap(self, phase: str | None = None) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if phase is not None:
            self.times[phase].append(now - self._last)
        self._last = now

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        pl_module.model.register_forward_pre_hook(self._before_network)
        after_step = pl_module.method.after_step

        def timed(output: StepOutput) -> None:
            self._lap("optimizer")
            after_step(output)
            self._lap("state")

        pl_module.method.after_step = timed  # type: ignore[method-assign]

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._lap("loading")
        self._called, self._learning, self._batch = False, False, batch

    def _before_network(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self._learning:
            return
        if not self._called:
            self._called = True
            self._lap("augmentation")
        if network.training:
            self._learning = True
            self._lap("attack")

    @override
    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._learning = True  # validation is not a step
        assert isinstance(pl_module, TrainingModule)
        with trainer.precision_plugin.forward_context():
            self.passes = time_passes(pl_module.model, self._batch)
            self.memory = measure_memory(pl_module, self._batch)

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        before = self._last
        self._lap()
        self.epoch_end = self._last - before


def time_passes(model: nn.Module, batch: Batch) -> dict[str, float]:
    """Median seconds of a `forward` pass, of one with an `input_gradient`, and of a `training` pass on clean images."""
    _, images, y = batch
    x = (images.float() / 255).contiguous(memory_format=torch.channels_last)

    def training() -> None:
        with torch.enable_grad():
            cross_entropy(model(x), y).mean().backward()
        model.zero_grad()

    was_training = model.training
    with evaluation_mode(model):
        found = {
            "forward": _seconds(torch.no_grad()(partial(model, x))),
            "input_gradient": _seconds(lambda: input_gradient(model, x, y, cross_entropy)),
        }
    model.train()
    found["training"] = _seconds(training)
    model.train(was_training)
    return found


def measure_memory(module: TrainingModule, batch: Batch) -> dict[str, int]:
    """Bytes of the network with gradients, momentum, average and teacher (`model`), and those a batch keeps (`batch`).

    What a batch keeps is counted where autograd keeps it, so that it is the same on every device: the passes to learn
    from together, or one pass of the attack if that keeps more.
    """
    index, images, y = batch
    x = (images.float() / 255).contiguous(memory_format=torch.channels_last)
    weights = {p.untyped_storage().data_ptr() for p in module.model.parameters()}
    kept: dict[bool, dict[int, int]] = {True: {}, False: {}}
    peak = 0

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[module.model.training][storage.data_ptr()] = storage.nbytes()
        return tensor

    def before(network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal peak
        peak = max(peak, sum(kept[False].values()))
        kept[False].clear()

    hook = module.model.register_forward_pre_hook(before)
    was_training = module.model.training
    module.model.train()
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module.method(module.model, index, x, y)
    hook.remove()
    module.model.train(was_training)
    del output
    copies = 3 + (module.ema is not None) + (module.method.teacher is not None)
    return {
        "model": copies * sum(p.numel() * p.element_size() for p in module.model.parameters()),
        "batch": max(peak, sum(kept[False].values()), sum(kept[True].values())),
    }


def _seconds(work: Callable[[], object]) -> float:
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=LEAST_SECONDS).median)
