"""One training run as Lightning sees it."""

import copy
import dataclasses
import math
from functools import partial
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from dpaat.attacks import unchecked
from dpaat.attacks.losses import label_weights, right_answers, weighing
from dpaat.config import TrainConfig
from dpaat.data.augment import Share, augment
from dpaat.data.loading import Batch, KeyedBatchSampler, key
from dpaat.errors import UserError
from dpaat.evaluation.labels import choose_thresholds, one_answer_of
from dpaat.methods import Method, StepOutput
from dpaat.methods.base import Standard
from dpaat.models import Classifier
from dpaat.own_models import own_transform
from dpaat.sample_state import SampleState
from dpaat.training.awp import perturbed_step
from dpaat.training.checkpointing import Keeper
from dpaat.training.faults import WEIGHTS, FaultWatch, TrainingError, finite
from dpaat.training.optimizer import freeze_body, make_optimizer
from dpaat.training.validation import RobustOutputs, validation_scores
from dpaat.weights import RECORD

LOOK_EVERY = 50  #: Steps between two looks at the device for what went wrong; each waits for it


class TrainingModule(L.LightningModule):
    """Model and method together; everything that a resumed run needs is in its checkpoint.

    `adversarial` says whether the best epoch is chosen by robust scores; the configuration is a completed one.
    """

    _validation: RobustOutputs
    _weights: Tensor | None
    _output: StepOutput
    _watch: FaultWatch

    def __init__(
        self, config: TrainConfig, model: Classifier, method: Method, classes: tuple[str, ...], adversarial: bool
    ) -> None:
        super().__init__()
        self.transform = own_transform(config.transform) if config.transform else None
        self.config, self.classes, self.adversarial = config, classes, adversarial
        self.model = model.to(memory_format=torch.channels_last)
        self.method, self.attacking = method, True
        self._clean = Standard(dataclasses.replace(method.context, teacher=None))
        self.ema = ModelEmaV3(model, decay=config.ema_decay, use_warmup=True) if config.ema_decay else None
        if self.ema is not None:
            self.ema.requires_grad_(False)
        if config.compile:
            self.model.compile()  # in place: the state keeps its names
        # Every process makes the same updates: nothing to broadcast at every step.
        self._ddp_params_and_buffers_to_ignore = [f"method.{name}" for name, _ in method.named_buffers()]
        self.epoch_scores: dict[str, float] = {}
        self.record: dict[str, Any] = {}
        self.one_answer: str | None = None
        self._stepped = False
        self.thresholds: np.ndarray | None = None  # of the answers to several labels, see `choose_thresholds`
        self._train_sums, self._unsummed = torch.zeros(3, dtype=torch.float64), list[Tensor]()
        self.register_buffer("_weights", label_weights(method.context.labels), persistent=False)

    @property
    def evaluated(self) -> Classifier:
        """The network that is validated and used later: the averaged one where there is one."""
        return self.model if self.ema is None else self.ema.module

    @property
    def perturbation(self) -> SampleState | None:
        """The per-sample state of a method that has one."""
        return self.method.perturbation

    def begin_epoch(self, epoch: int) -> None:
        """Let the method know the epoch; those before its first attack learn from clean images only."""
        self.attacking = epoch >= self.method.context.first_attack
        self.method.begin_epoch(epoch)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Make the optimizer and the learning rate of every step."""
        config = self.config
        optimizer = make_optimizer(self.model, config, len(self.classes))
        total = int(self.trainer.estimated_stepping_batches)
        scheduler: LRScheduler
        if config.schedule == "one-cycle" and total > 1:  # a cycle of one step would end before it
            warmup = 0.25 if total != 4 else 0.5  # a warm-up of exactly one step divides by zero
            rates = [group["lr"] for group in optimizer.param_groups]
            scheduler = OneCycleLR(optimizer, max_lr=rates, total_steps=total, pct_start=warmup)
        else:
            scheduler = CosineAnnealingLR(optimizer, T_max=total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave the body as it is while it is frozen, and note that weights are about to change."""
        self._stepped = True
        if self.current_epoch < self.config.freeze_until:
            freeze_body(self.model, len(self.classes))

    def on_train_start(self) -> None:
        """Take up an epoch that was begun before; Lightning calls no `on_train_epoch_start` for it."""
        limit = 1.0 if self.config.norm == "linf" else math.inf
        self._watch = FaultWatch(len(self.method.context.labels), limit, self.device)
        if self.trainer.fit_loop.restarted_mid_epoch:
            # What follows from the epoch's number is set again; the rows stay those of the checkpoint.
            state = copy.deepcopy(self.method.state_dict())
            self.begin_epoch(self.current_epoch)
            self.method.load_state_dict(state)

    def on_train_epoch_start(self) -> None:
        """Begin the epoch and its sums."""
        self.begin_epoch(self.current_epoch)
        if self.method.teacher is not None and self.current_epoch == self.method.first_attack:
            self.method.teacher.freeze(self.evaluated)
        self._train_sums, self._unsummed = torch.zeros(3, dtype=torch.float64), []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the epoch's sums, those of all processes together, and what the weights do not tell."""
        checkpoint[RECORD] = self.record
        checkpoint["train_sums"] = self._sums_of_all().tolist()
        if self.one_answer:
            checkpoint["one_answer"] = self.one_answer
        if self.thresholds is not None:
            checkpoint["thresholds"] = dict(zip(self.classes, self.thresholds.tolist(), strict=True))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the epoch's sums back, in one process; the others begin at 0."""
        sums = torch.tensor(checkpoint.get("train_sums", [0.0] * 3), dtype=torch.float64)
        self._train_sums = sums if self.global_rank == 0 else torch.zeros_like(sums)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Key all randomness (augmentation, dropout) by seed and batch, so that a resumed run repeats it."""
        torch.manual_seed(key(self.config.seed, self.trainer.fit_loop.total_batch_idx, 0))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Augment, attack and learn; the method decides how."""
        index, images, y = batch
        processes, total = self.trainer.world_size, self._batch_size(batch_idx)
        share = Share(total, self.global_rank, processes)
        x = augment(images.float() / 255, self.config.augmentations, share=share)
        if self.global_rank:  # whatever else is random is so in each process by itself
            torch.manual_seed(key(self.config.seed, self.trainer.fit_loop.total_batch_idx, self.global_rank))
        if self.transform is not None:
            x = self.transform(x)
        x = x.contiguous(memory_format=torch.channels_last)
        objective = self.method if self.attacking else self._clean
        # Unchecked, as no step waits for the device, and whole grey levels over 255 lie in [0, 1].
        with unchecked(), weighing(self._weights):
            perturbs = self.config.awp and self.current_epoch >= self.config.freeze_until
            step = partial(perturbed_step, objective, gamma=self.config.awp) if perturbs else objective
            output: StepOutput = step(self.model, index, x, y)
        correct = right_answers(output.logits, y)
        # Summed later, on the CPU: no step waits for the device, and not every device has float64.
        self._unsummed.append(torch.stack([output.loss.detach() * len(y), correct, torch.ones_like(correct) * len(y)]))
        self._output = output
        # Gradients are averaged over processes, whose shares differ by an image where they do not divide the batch.
        return output.loss * (len(y) * processes / total)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Let the method's state see the step, average the weights, look for faults; then the step may be saved."""
        output = self._output
        del self._output
        if self.trainer.world_size > 1:
            output = self._of_all(output, self._batch_size(batch_idx))
        if self.attacking:
            self.method.after_step(output)
        eps = None if self.perturbation is None else self.perturbation.eps
        self._watch.look(self.trainer.fit_loop.total_batch_idx, output, eps)
        if self.ema is not None and self._stepped:  # not after every batch where gradients are accumulated
            self._stepped = False
            self.ema.update(self.model, step=self.global_step)
        if self.device.type == "cpu" or self.trainer.is_last_batch or (batch_idx + 1) % LOOK_EVERY == 0:
            self._watch.check()
            self._sum_up()
        if self.trainer.is_last_batch:
            self.check()
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, Keeper):
                callback.after_step(self.trainer, self.check)

    def check(self) -> None:
        """Look at the steps so far and at the weights; raise TrainingError where something went wrong."""
        self._watch.check()
        if not finite(self.model):
            raise TrainingError(WEIGHTS, self.trainer.fit_loop.total_batch_idx, [])

    def train_scores(self) -> dict[str, float]:
        """Mean loss and accuracy of the epoch so far, on the views that were learned from, over all processes."""
        loss, correct, count = self._sums_of_all().tolist()
        return {"train/loss": loss / max(count, 1), "train/accuracy": correct / max(count, 1)}

    def _sums_of_all(self) -> Tensor:
        self._sum_up()
        if self.trainer.world_size == 1:
            return self._train_sums
        # As int64, bit for bit: not every device has float64.
        gathered: Any = self.all_gather(self._train_sums.view(torch.int64).to(self.device))
        return gathered.cpu().view(torch.float64).sum(0)  # type: ignore[no-any-return]

    def _sum_up(self) -> None:
        """Bring the sums up to date; waits for the device."""
        for step in torch.stack(self._unsummed).cpu().double() if self._unsummed else ():
            self._train_sums += step
        self._unsummed = []

    def _batch_size(self, batch_idx: int) -> int:
        """Images of a training batch over all processes."""
        sampler = self.trainer.train_dataloader.batch_sampler  # type: ignore[union-attr]
        assert isinstance(sampler, KeyedBatchSampler)
        return sampler.sizes[batch_idx]

    def _of_all(self, output: StepOutput, total: int) -> StepOutput:
        """Gather the output of a step from all processes, as of one process that has the whole batch of `total` images.

        Every process gets the same, bit for bit, and so comes to the same state, and to the same fault if there is one.
        """

        def of_all(rows: Tensor) -> Tensor:
            # (processes, rows of each, ...); transposed, rows are in the order of the batch and padding at its end.
            padding = -(-total // self.trainer.world_size) - len(rows)
            gathered: Any = self.all_gather(F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, padding)))
            return gathered.transpose(0, 1).flatten(0, 1)[:total]  # type: ignore[no-any-return]

        columns = [output.loss.expand(len(output.index)), output.logits, *output.rows.values()]
        wide = [column.detach().float()[:, None].flatten(1) for column in columns]
        loss, *rest = of_all(torch.cat(wide, 1)).split([each.shape[1] for each in wide], 1)
        logits, *rows = (
            each.reshape(len(each), *own.shape[1:]).to(own) for each, own in zip(rest, columns[1:], strict=True)
        )
        return StepOutput(
            loss.mean().to(output.loss), logits, of_all(output.index), dict(zip(output.rows, rows, strict=True))
        )

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        config = self.config
        options = {"steps": config.val_steps, "norm": config.norm, "batch_size": config.batch_size}
        self._validation = RobustOutputs(self.evaluated, config.val_radii, **options)  # type: ignore[arg-type]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Look at a batch, clean and attacked."""
        _, images, y = batch
        with weighing(self._weights):
            self._validation.add((images.float() / 255).contiguous(memory_format=torch.channels_last), y)
            if batch_idx + 1 == self.trainer.num_val_batches[0]:
                self._validation.finish()

    def on_validation_epoch_end(self) -> None:
        """Score the epoch and publish the score by which the best checkpoint is chosen."""
        labels, outputs = self._validation.collect()
        del self._validation
        if not all(logits.isfinite().all() for logits in outputs.values()):
            fault = f"training went wrong in epoch {self.current_epoch}: outputs are not finite"
            raise UserError(f"{fault}; the checkpoints of the epochs before are kept; try a smaller --lr")
        clean, several = outputs[0.0].cpu().numpy(), labels.ndim == 2
        self.thresholds = choose_thresholds(clean, labels.cpu().numpy()) if several else None
        self.one_answer = one_answer_of(clean, labels.cpu().numpy(), self.classes, self.thresholds)
        select: str = self.config.select
        if select in ("auto", "last"):
            score = "auroc" if several else "balanced-accuracy"
            select = f"robust-{score}" if self.adversarial else score
        self.epoch_scores = validation_scores(labels, outputs, self.classes, select, self.thresholds)
        # The checkpoint with the largest logged value is kept: where it is to be the last, its number serves.
        last = self.config.select == "last"
        self.log("val/score", float(self.current_epoch) if last else self.epoch_scores["val/score"], logger=False)
