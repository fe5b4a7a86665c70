"""Hugging Face: a `Trainer` for image classification with an `AdversarialLoss`."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint

from dpaat.errors import UserError
from dpaat.integrations.indexed import INDEX
from dpaat.integrations.loss import AdversarialLoss, parts, same_epochs

FILE = "dpaat.pt"
"""Beside the weights in every checkpoint."""


class DPAATMixin:
    """Makes a `Trainer` learn from an `AdversarialLoss`: `class Mine(DPAATMixin, MyTrainer)`.

    Its state is saved in every checkpoint, and a training that is resumed from one goes on with it. Evaluation and
    prediction are the trainer's own.

    Args:
        *args: of the trainer.
        loss: made for the model, with as many epochs as the training arguments have.
        **kwargs: of the trainer; the training set is an `Indexed` one.

    Raises:
        UserError: another number of epochs, `max_steps`, or a second loss.
    """

    args: Any
    state: Any
    _signature_columns: list[str]

    def __init__(self, *args: Any, loss: AdversarialLoss, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.adversarial_loss = loss
        self.model_accepts_loss_kwargs = False  # the loss is a mean over its batch: accumulation divides it
        same_epochs(loss, self.args.num_train_epochs if self.args.max_steps <= 0 else None)
        if getattr(self, "label_smoother", None) or getattr(self, "compute_loss_func", None):
            raise UserError(
                "DPAATMixin: label_smoothing_factor and compute_loss_func: give AdversarialLoss a loss instead"
            )

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, *args: Any, **kwargs: Any
    ) -> Any:
        """The loss of a batch, with the logits of its views if asked for outputs; without gradients the model's own."""
        if not torch.is_grad_enabled():
            inputs = {name: value for name, value in inputs.items() if name != INDEX}
            return super().compute_loss(model, inputs, return_outputs, *args, **kwargs)  # type: ignore[misc]
        output = self.adversarial_loss.step(model, *parts(inputs), epoch=int(self.state.epoch or 0))
        return (output.loss, {"logits": output.logits}) if return_outputs else output.loss

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, or go on from a checkpoint."""
        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(self.args.output_dir)
        if folder:
            if not (file := Path(folder) / FILE).is_file():
                raise UserError(f"{file}: missing; this checkpoint was not saved by a DPAATTrainer")
            self.adversarial_loss.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        return super().train(resume_from_checkpoint, *args, **kwargs)  # type: ignore[misc]

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, and in a checkpoint the state beside it."""
        super().save_model(output_dir, _internal_call)  # type: ignore[misc]
        if output_dir and _internal_call and self.args.should_save:
            torch.save(self.adversarial_loss.state_dict(), Path(output_dir) / FILE)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()  # type: ignore[misc]
        if INDEX not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, INDEX]


class DPAATTrainer(DPAATMixin, Trainer):
    """`transformers.Trainer` with an `AdversarialLoss`, its argument `loss`; see `DPAATMixin`."""
