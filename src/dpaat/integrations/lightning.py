"""Lightning: a callback that trains a module of the user's own with an `AdversarialLoss`."""

from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from dpaat.errors import UserError
from dpaat.integrations.loss import AdversarialLoss, parts, same_epochs


class DPAATCallback(L.Callback):
    """Takes the place of the module's `training_step`, says so, and logs the loss as "train_loss".

    `loss` is made for the module, or for the network in it that gives the logits. Its state is part of the checkpoint;
    a fit with `ckpt_path` goes on with it. Where `training_step` does more than to compute a loss (augments, optimizes
    by itself), call the loss there instead, as in any loop.
    """

    def __init__(self, loss: AdversarialLoss) -> None:
        self.loss = loss

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        same_epochs(self.loss, trainer.max_epochs)
        if all(module is not self.loss.model for module in pl_module.modules()):
            raise UserError("DPAATCallback: AdversarialLoss was made for a network that is not part of this module")
        if not pl_module.automatic_optimization:
            raise UserError("DPAATCallback: with manual optimization call AdversarialLoss in training_step yourself")
        rank_zero_info(f"DPAATCallback takes the place of {type(pl_module).__name__}.training_step")

        def training_step(batch: Any, *_: Any) -> Tensor:
            loss: Tensor = self.loss(self.loss.model, *parts(batch), epoch=trainer.current_epoch)
            pl_module.log("train_loss", loss, prog_bar=True, batch_size=len(parts(batch)[0]))
            return loss

        pl_module.training_step = training_step  # type: ignore[method-assign]

    @override
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.__dict__.pop("training_step", None)

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.on_fit_end(trainer, pl_module)

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.loss.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loss.load_state_dict(state_dict)
