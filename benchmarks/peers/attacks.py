"""PGD with K steps from the clean image, from this package and from six others, as each is shipped."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from math import inf
from typing import Any

import adv_lib.attacks  # type: ignore[import-not-found]
import foolbox  # type: ignore[import-not-found]
import torch
import torchattacks  # type: ignore[import-not-found]
from art.attacks.evasion import ProjectedGradientDescent  # type: ignore[import-not-found]
from art.estimators.classification import PyTorchClassifier  # type: ignore[import-not-found]
from secmlt.adv.evasion.pgd import PGD  # type: ignore[import-not-found]
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dpaat.attacks import pgd

Attack = Callable[[Tensor, Tensor], Tensor]
"""Images `(B, C, H, W)` in [0, 1] and labels `(B,)` to adversarial images."""


def make_attacks(
    model: nn.Module, *, classes: int, shape: tuple[int, ...], eps: float, steps: int
) -> dict[str, Attack]:
    """Attacks on a network in eval mode, by library; all take steps of 2.5 eps / K, as ours does."""
    alpha = 2.5 * eps / steps
    device = next(model.parameters()).device
    return {
        "dpaat": lambda x, y: pgd(model, x, y, eps=eps, steps=steps),
        "adversarial-robustness-toolbox": _toolbox(model, classes, shape, eps, alpha, steps, device),
        "torchattacks": torchattacks.PGD(model, eps=eps, alpha=alpha, steps=steps, random_start=False),
        "foolbox": _foolbox(model, eps, alpha, steps, device),
        "adv-lib": lambda x, y: adv_lib.attacks.pgd_linf(
            model, x, y, ε=eps, steps=steps, absolute_step_size=alpha, random_init=False
        ),
        "secml-torch": _secml(model, eps, alpha, steps),
        "advertorch": _advertorch(model, eps, alpha, steps),
    }


def make_classifier(model: nn.Module, classes: int, shape: tuple[int, ...], device: torch.device) -> Any:
    """The toolbox's own wrapper of a network."""
    return PyTorchClassifier(
        model=model,
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
        input_shape=shape,
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if device.type == "cuda" else "cpu",
    )


def _toolbox(
    model: nn.Module,
    classes: int,
    shape: tuple[int, ...],
    eps: float,
    alpha: float,
    steps: int,
    device: torch.device,
) -> Attack:
    classifier = make_classifier(model, classes, shape, device)
    attack = ProjectedGradientDescent(
        classifier, norm=inf, eps=eps, eps_step=alpha, max_iter=steps, batch_size=10_000, verbose=False
    )

    def run(x: Tensor, y: Tensor) -> Tensor:
        return torch.from_numpy(attack.generate(x.cpu().numpy(), y.cpu().numpy())).to(device)

    return run


def _foolbox(model: nn.Module, eps: float, alpha: float, steps: int, device: torch.device) -> Attack:
    network = foolbox.PyTorchModel(model, bounds=(0, 1), device=device)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=alpha, steps=steps, random_start=False)

    def run(x: Tensor, y: Tensor) -> Tensor:
        x_adv: Tensor = attack(network, x, y, epsilons=eps)[1]
        return x_adv

    return run


def _secml(model: nn.Module, eps: float, alpha: float, steps: int) -> Attack:
    attack = PGD(perturbation_model="linf", epsilon=eps, num_steps=steps, step_size=alpha, backend="native")

    def run(x: Tensor, y: Tensor) -> Tensor:
        batches = attack(model, DataLoader(TensorDataset(x, y), batch_size=len(x)))
        return torch.cat([x_adv for x_adv, _ in batches])

    return run


def _advertorch(model: nn.Module, eps: float, alpha: float, steps: int) -> Attack:
    # The function that its last release imports left PyTorch in 2021; no attack used here calls it.
    import_module("torch.autograd.gradcheck").zero_gradients = None  # type: ignore[attr-defined]
    from advertorch.attacks import LinfPGDAttack  # type: ignore[import-not-found]

    attack = LinfPGDAttack(
        model,
        loss_fn=nn.CrossEntropyLoss(reduction="sum"),
        eps=eps,
        nb_iter=steps,
        eps_iter=alpha,
        rand_init=False,
        clip_min=0.0,
        clip_max=1.0,
    )

    def run(x: Tensor, y: Tensor) -> Tensor:
        x_adv: Tensor = attack.perturb(x, y)
        return x_adv

    return run
