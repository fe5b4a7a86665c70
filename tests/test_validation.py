"""Validation under attack: the same outputs as one image after another, in full batches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dpaat.attacks import pgd
from dpaat.training.validation import RobustOutputs, validation_scores

RADII, STEPS = (0.01, 0.05, 0.2), 3


class Linear(nn.Module):
    """A classifier that notes the sizes of the batches it is asked about under gradients."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(12, 3).double()
        self.attacked: list[int] = []

    def forward(self, x):
        if x.requires_grad:
            self.attacked.append(len(x))
        return self.layer(x.flatten(1))


def images(count):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, 2, 2, generator=generator).double()


def robust_outputs(model, x, y, *, loader, batch):
    outputs = RobustOutputs(model, RADII, steps=STEPS, norm="linf", batch_size=batch)
    for start in range(0, len(x), loader):
        outputs.add(x[start : start + loader], y[start : start + loader])
    outputs.finish()
    return outputs.collect()


@pytest.mark.parametrize(("loader", "batch"), [(16, 8), (5, 7), (100, 100), (3, 100)])
def test_outputs_are_those_of_single_images(loader, batch):
    model, x = Linear(), images(61)
    y = model(x).argmax(1)
    y[::4] = (y[::4] + 1) % 3
    labels, found = robust_outputs(model, x, y, loader=loader, batch=batch)
    assert torch.equal(labels, y)
    assert list(found) == [0.0, *RADII]
    for number in range(len(x)):
        one, label = x[number : number + 1], y[number : number + 1]
        logits = model(one).float()
        assert torch.allclose(found[0.0][number], logits[0])
        for radius in RADII:
            if logits.argmax(1) == label:
                logits = model(pgd(model, one, label, eps=radius, steps=STEPS)).float()
            assert torch.allclose(found[radius][number], logits[0])
    shares = [(logits.argmax(1) == y).double().mean() for logits in found.values()]
    assert shares[0] > shares[1] > shares[2] > shares[3]


def test_attacks_are_made_in_full_batches():
    model, x = Linear(), images(61)
    y = model(x).argmax(1)
    robust_outputs(model, x, y, loader=6, batch=16)
    partial = [size for size in model.attacked if size != 16]
    assert len(partial) <= STEPS * len(RADII)
    assert sum(model.attacked) > sum(partial) * 2


def test_without_radii_nothing_is_attacked():
    model, x = Linear(), images(5)
    outputs = RobustOutputs(model, [], steps=STEPS, norm="linf", batch_size=2)
    outputs.add(x, torch.zeros(5, dtype=torch.long))
    outputs.finish()
    assert list(outputs.collect()[1]) == [0.0]
    assert not model.attacked


def test_scores_of_an_epoch():
    labels = torch.tensor([0, 0, 0, 1])
    right = 5.0 * nn.functional.one_hot(labels, 2)
    wrong = right.clone()
    wrong[3] = wrong[0]
    outputs = {0.0: right, 8 / 255: wrong}
    scores = validation_scores(labels, outputs, ("a", "b"), "robust-balanced-accuracy")
    assert scores["val/accuracy"] == scores["val/balanced_accuracy"] == scores["val/auroc"] == 1
    assert scores["val/robust_accuracy@8/255"] == 0.75
    assert scores["val/robust_balanced_accuracy@8/255"] == 0.5
    assert scores["val/score"] == 0.75
    assert validation_scores(labels, outputs, ("a", "b"), "balanced-accuracy")["val/score"] == 1
