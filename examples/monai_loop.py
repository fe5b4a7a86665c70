"""DPAAT in the SupervisedTrainer of MONAI.

python examples/monai_loop.py
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from monai.data import DataLoader, Dataset
from monai.handlers import CheckpointLoader, CheckpointSaver
from monai.networks.nets import DenseNet
from monai.transforms import Compose, RandFlipd, ToTensord
from monai.utils import set_determinism

from dpaat import AdversarialLoss, Indexed
from dpaat.integrations.monai import DPAATTrainer
from own_loop import stripes


def main(folder: Path, epochs: int = 6, resume: Path | None = None) -> DPAATTrainer:
    set_determinism(0)
    images, labels = stripes(128, classes=4)
    samples = [{"image": image, "label": int(label)} for image, label in zip(images, labels, strict=True)]
    train_set = Dataset(samples, Compose([ToTensord("image"), RandFlipd("image", prob=0.5, spatial_axis=1)]))
    model = DenseNet(2, 3, 4, init_features=8, growth_rate=4, block_config=(2, 2), bn_size=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    adversarial_loss = AdversarialLoss(model, labels, epochs=epochs)
    trainer = DPAATTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(Indexed(train_set), batch_size=16, shuffle=True),
        network=model,
        optimizer=optimizer,
        loss_function=adversarial_loss,
    )
    state = {"model": model, "optimizer": optimizer, "loss": adversarial_loss, "trainer": trainer}
    CheckpointSaver(str(folder), state, save_interval=1, n_saved=None).attach(trainer)
    if resume:
        CheckpointLoader(str(resume), state).attach(trainer)
    trainer.run()
    print(adversarial_loss.perturbation)
    return trainer


if __name__ == "__main__":
    with TemporaryDirectory() as made:
        main(Path(made))
