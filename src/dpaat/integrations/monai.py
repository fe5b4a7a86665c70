"""MONAI: a `SupervisedTrainer` with an `AdversarialLoss`."""

from typing import Any

from monai.engines import SupervisedTrainer
from monai.utils import CommonKeys
from torch import Tensor, nn

from dpaat.errors import UserError
from dpaat.integrations.indexed import INDEX
from dpaat.integrations.loss import AdversarialLoss, same_epochs


class DPAATTrainer(SupervisedTrainer):
    """`monai.engines.SupervisedTrainer` whose `loss_function` is an `AdversarialLoss`.

    Predictions, for handlers, are those of the views that were learned from. The loss is saved and restored like the
    network: `CheckpointSaver(save_dict={"net": net, "loss": loss})`, `CheckpointLoader(load_dict=...)`. `loss_function`
    is made for the network, `max_epochs` as it was told; all else is of the `SupervisedTrainer`, but for `inferer`,
    whose data loader's dataset is an `Indexed` one. Raises UserError for another number of epochs, or a batch without
    the key "index".
    """

    def __init__(self, *, max_epochs: int, loss_function: AdversarialLoss, **kwargs: Any) -> None:
        same_epochs(loss_function, max_epochs)
        super().__init__(max_epochs=max_epochs, loss_function=self._loss, inferer=self._infer, **kwargs)
        self.adversarial_loss = loss_function

    def _infer(self, inputs: Tensor, network: nn.Module) -> Tensor:
        state = self.state
        if not isinstance(state.batch, dict) or INDEX not in state.batch:
            raise UserError('the batch has no key "index": wrap the training set: Indexed(train_set)')
        labels = state.output[CommonKeys.LABEL]
        self._step = self.adversarial_loss.step(network, state.batch[INDEX], inputs, labels, epoch=state.epoch - 1)
        return self._step.logits

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self._step.loss
