"""Six epochs of version 0.1, through the table of its names: losses, sizes and thresholds as that version had them."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from dpaat.methods import MethodContext, build_method, find_method
from dpaat.methods.base import Standard
from dpaat.methods.old_names import present_names
from method_makers import plain_loss

SAMPLES, CLASSES, EPOCHS = 12, 2, 6
LABELS = torch.arange(SAMPLES) % CLASSES
LATE = {
    "graded": 1.0,
    "least": 5,
    "start": 0.5,
    "attacked": 0.5,
    "statistic": "quantile75",
    "eps_init": 0.5,
    "ramp": 0.2,
}
TURNS = {"graded": 1.0, "least": 5, "eps_init": 0.25}
RECIPES = {
    "half": {"method": "dpaat-half", "clean_weight": 0.5},
    "half, adversarial views only": {"method": "dpaat-half", "clean_weight": 0.0, "options": {"floor": 0.1}},
    "paper": {"method": "dpaat-paper", "clean_weight": 0.0},
    "paper, clean views": {"method": "dpaat-paper", "clean_weight": 0.5, "options": {"collect": "adversarial"}},
    "v1": {"method": "dpaat", "clean_weight": 0.6, "eps": 4 / 255, "options": {"start": 0.5}},
    "fast": {"method": "dpaat-fast", "clean_weight": 0.5},
    "late": {"method": "dpaat-fast", "clean_weight": 0.93, "options": LATE},
    "permuted": {"method": "permuted-radius", "clean_weight": 0.5},
    "mean": {"method": "mean-radius", "clean_weight": 0.5, "options": {"collect": "adversarial", "floor": 0.1}},
    "class mean": {"method": "class-mean-radius", "clean_weight": 0.5},
    "permuted, fast": {"method": "permuted-radius-fast", "clean_weight": 0.5, "options": TURNS},
    "mean, fast": {"method": "mean-radius-fast", "clean_weight": 0.5},
}
EXPECTED = json.loads(Path(__file__).with_name("methods_pinned.json").read_text())
"""Mean loss of every epoch, sizes in 1/255 and thresholds at the end, from version 0.1."""


@pytest.mark.parametrize("recipe", RECIPES)
def test_old_recipe_comes_to_what_it_came_to(recipe):
    values = {"options": {}} | present_names(RECIPES[recipe])
    info = find_method(values["method"])
    context = MethodContext(
        labels=LABELS,
        num_classes=CLASSES,
        epochs=EPOCHS,
        learn_loss=plain_loss,
        eps=values.get("eps", 8 / 255),
        steps=6,
        norm="linf",
        clean_weight=values["clean_weight"],
        adv_start=values.get("adv_start", info.adv_start),
    )
    method, clean = build_method(info, context, values["options"]), Standard(context)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for epoch in range(EPOCHS):
        attacking = epoch >= context.first_attack
        method.begin_epoch(epoch)
        total = 0.0
        for number in range(2):
            generator = torch.Generator().manual_seed(10 * epoch + number)
            index = torch.randperm(SAMPLES, generator=generator)[:6]
            x = torch.rand(6, 3, 6, 6, generator=generator)
            output = (method if attacking else clean)(model, index, x, LABELS[index])
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            if attacking:
                method.after_step(output)
            total += output.loss.item()
        losses.append(total / 2)
    found = losses, (255 * method.perturbation.eps).tolist(), method.perturbation.criterion.tolist()
    for one, other in zip(found, EXPECTED[recipe], strict=True):
        assert one == pytest.approx(other, abs=1e-6)
