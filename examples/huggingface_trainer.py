"""DPAAT in the Trainer of Hugging Face transformers.

python examples/huggingface_trainer.py
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from transformers import ResNetConfig, ResNetForImageClassification, TrainingArguments, set_seed

from dpaat import AdversarialLoss, Indexed
from dpaat.integrations.huggingface import DPAATTrainer
from own_loop import stripes

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What an image processor has as `image_mean` and `image_std`."""


def normalize(batch: dict[str, Any]) -> dict[str, Any]:
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, STD))
    return {"pixel_values": [(torch.tensor(image) - mean) / std for image in batch["image"]], "label": batch["label"]}


def main(folder: Path, epochs: int = 6, resume: bool = False) -> DPAATTrainer:
    set_seed(0)
    images, labels = stripes(128, classes=4)
    train_set = Dataset.from_dict({"image": images.tolist(), "label": labels.tolist()}).with_transform(normalize)
    test_set = train_set.select(range(32))
    model = ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=4)
    )
    arguments = TrainingArguments(
        str(folder),
        num_train_epochs=epochs,
        save_strategy="epoch",
        remove_unused_columns=False,  # of a dataset with a transform, as ever
        report_to="none",
        use_cpu=True,
        learning_rate=1e-3,
    )

    adversarial_loss = AdversarialLoss(model, train_set["label"], epochs=epochs, normalized=(MEAN, STD))
    data = {"train_dataset": Indexed(train_set), "eval_dataset": test_set}
    trainer = DPAATTrainer(model, arguments, loss=adversarial_loss, **data)
    trainer.train(resume_from_checkpoint=resume)
    print(trainer.evaluate()["eval_loss"], adversarial_loss.perturbation)
    return trainer


if __name__ == "__main__":
    with TemporaryDirectory() as made:
        main(Path(made))
