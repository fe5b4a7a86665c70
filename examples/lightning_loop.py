"""DPAAT for a Lightning module of your own.

python examples/lightning_loop.py
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from dpaat import AdversarialLoss, Indexed
from dpaat.integrations.lightning import DPAATCallback
from own_loop import small_network, stripes


class Classifier(L.LightningModule):
    """An ordinary one."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small_network(7)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return cross_entropy(self.network(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main(folder: Path, epochs: int = 6, resume: Path | None = None) -> tuple[Classifier, AdversarialLoss]:
    L.seed_everything(0, verbose=False)
    images, train_labels = stripes(256, classes=7)
    train_set = TensorDataset(images, train_labels)
    module = Classifier()

    loader = DataLoader(Indexed(train_set), batch_size=32)
    adversarial_loss = AdversarialLoss(module.network, train_labels, epochs=epochs)
    callbacks = [DPAATCallback(adversarial_loss), ModelCheckpoint(folder, "{epoch}", save_top_k=-1)]
    trainer = L.Trainer(max_epochs=epochs, callbacks=callbacks, accelerator="cpu", logger=False)
    trainer.fit(module, loader, ckpt_path=resume)
    print(adversarial_loss.perturbation)
    return module, adversarial_loss


if __name__ == "__main__":
    with TemporaryDirectory() as made:
        main(Path(made))
