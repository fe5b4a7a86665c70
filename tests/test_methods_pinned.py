"""Six epochs of version 0.1, through the table of its names: losses, sizes and thresholds as that version had them."""

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
EXPECTED = {
    "half": (
        [0.636899, 0.63289, 0.773675, 0.677382, 0.620629, 0.772274],
        [2.0, 0.0, 1.0, 0.0, 6.0, 0.0, 0.0, 0.0, 2.0, 2.0, 2.0, 0.0],
        [0.478147, 1.051169],
    ),
    "half, adversarial views only": (
        [0.646265, 0.658822, 0.804217, 0.703765, 0.661764, 0.829835],
        [6.8, 3.0, 1.0, 0.8, 7.0, 0.8, 3.0, 0.8, 6.8, 2.8, 2.8, 0.8],
        [0.629928, 0.751238],
    ),
    "paper": (
        [0.646265, 0.646621, 0.783902, 0.681983, 0.638228, 0.798253],
        [6.0, 3.0, 1.0, 0.0, 6.0, 0.0, 4.0, 0.0, 4.0, 0.0, 2.0, 0.0],
        [0.801411],
    ),
    "paper, clean views": (
        [0.636899, 0.63289, 0.773327, 0.670673, 0.623669, 0.778421],
        [6.0, 3.0, 1.0, 0.0, 6.0, 0.0, 4.0, 0.0, 4.0, 0.0, 2.0, 0.0],
        [0.808143],
    ),
    "v1": (
        [0.627521, 0.618979, 0.762678, 0.669339, 0.616056, 0.770291],
        [2.0, 1.0, 1.0, 1.0, 2.0, 0.0, 2.0, 1.0, 2.0, 1.0, 1.0, 1.0],
        [0.665135, 0.743385],
    ),
    "fast": (
        [0.637649, 0.628971, 0.774283, 0.677255, 0.628228, 0.783928],
        [4.0, 1.0, 1.0, 1.0, 7.0, 1.0, 1.0, 0.0, 7.0, 0.0, 0.0, 1.0],
        [0.668475, 0.722612],
    ),
    "late": (
        [0.627521, 0.618979, 0.762678, 0.686546, 0.629533, 0.746263],
        [2.0, 4.0, 4.0, 4.0, 6.0, 4.0, 0.0, 4.0, 4.0, 4.0, 2.0, 6.0],
        [0.535824, 1.081703],
    ),
    "permuted": (
        [0.636899, 0.631126, 0.772175, 0.678773, 0.620183, 0.771889],
        [2.0, 0.0, 1.0, 0.0, 7.0, 0.0, 0.0, 0.0, 2.0, 2.0, 2.0, 0.0],
        [0.637501, 0.748869],
    ),
    "mean": (
        [0.636899, 0.634363, 0.785317, 0.681985, 0.62473, 0.78209],
        [6.8, 0.8, 1.0, 0.8, 7.0, 0.8, 0.8, 0.8, 2.8, 2.8, 2.8, 0.8],
        [0.657068, 0.758578],
    ),
    "class mean": (
        [0.636899, 0.632215, 0.781924, 0.678793, 0.620044, 0.771584],
        [2.0, 0.0, 1.0, 0.0, 7.0, 0.0, 0.0, 0.0, 2.0, 2.0, 2.0, 0.0],
        [0.637407, 0.749483],
    ),
    "permuted, fast": (
        [0.649005, 0.638808, 0.773685, 0.679957, 0.641349, 0.770003],
        [0.0, 2.0, 2.0, 2.0, 0.0, 2.0, 2.0, 0.0, 8.0, 0.0, 0.0, 2.0],
        [0.66794, 0.709642],
    ),
    "mean, fast": (
        [0.637649, 0.62975, 0.771276, 0.676811, 0.627327, 0.768605],
        [0.0, 1.0, 1.0, 1.0, 3.0, 1.0, 1.0, 0.0, 7.0, 0.0, 0.0, 1.0],
        [0.66979, 0.709773],
    ),
}
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
