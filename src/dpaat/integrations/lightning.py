"""Lightning: a callback that trains a module of the user's own with an `AdversarialLoss`."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from dpaat.errors import UserError
from dpaat.integrations.loss import AdversarialLoss, parts, same_epochs


class DPAATCallback(L.Callback):
    """Takes the place of the module's `training_step`, says so, and logs the loss as "train_loss".

    Its state is part of the checkpoint; a fit with `ckpt_path` goes on with it. Where `training_step` does more than
    to compute a loss (augments, optimizes by itself), call the loss in it instead, as in any loop.

    Args:
        loss: made for the module, or for the network in it that gives the logits.
    """

    def __init__(self, loss: AdversarialLoss) -> None:
        self.loss = loss

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that module and trainer fit, and replace the step.

        Raises:
            UserError: a network that is not the module's, manual optimization, another number of epochs.
        """
        same_epochs(self.loss, trainer.max_epochs)
        if all(module is not self.loss.model for module in pl_module.modules()):
            raise UserError("DPAATCallback: AdversarialLoss was made for a network that is not part of this module")
        if not pl_module.automatic_optimization:
            raise UserError(
                "DPAATCallback: with manual optimization call the AdversarialLoss in training_step yourself"
            )
        rank_zero_info(f"DPAATCallback takes the place of {type(pl_module).__name__}.training_step")

        def training_step(batch: Any, *_: Any) -> Tensor:
            index, x, y = parts(batch)
            loss: Tensor = self.loss(self.loss.model, index, x, y, epoch=trainer.current_epoch)
            pl_module.log("train_loss", loss, prog_bar=True, batch_size=len(y))
            return loss

        pl_module.training_step = training_step  # type: ignore[method-assign]

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the module its own step back."""
        pl_module.__dict__.pop("training_step", None)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Give the module its own step back."""
        self.on_fit_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return self.loss.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on as a checkpoint says."""
        self.loss.load_state_dict(state_dict)
