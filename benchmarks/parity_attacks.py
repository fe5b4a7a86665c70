"""The same attacks from this package and from five libraries, with the same budgets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

import adv_lib.attacks as adv_lib  # type: ignore[import-not-found]
import foolbox  # type: ignore[import-not-found]
import torch
import torchattacks  # type: ignore[import-not-found]
from art.attacks import evasion as art  # type: ignore[import-not-found]
from art.estimators.classification import PyTorchClassifier  # type: ignore[import-not-found]
from secmlt.adv.evasion.ddn import DDN  # type: ignore[import-not-found]
from secmlt.adv.evasion.fmn import FMN  # type: ignore[import-not-found]
from secmlt.adv.evasion.pgd import PGD  # type: ignore[import-not-found]
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from dpaat.attacks import apgd, apgd_targeted, fgsm, pgd
from dpaat.attacks.ddn import ddn
from dpaat.attacks.fab import fab_targeted
from dpaat.attacks.losses import cross_entropy, margin
from dpaat.attacks.restarts import pgd_restarts
from dpaat.attacks.square import square
from parity_subject import Subject

PGD_STEPS, RESTARTS, APGD_STEPS, TARGETED_STEPS, FAB_STEPS, QUERIES, DDN_STEPS = 20, 5, 50, 20, 20, 500, 100
BUDGETS = {
    "pgd": f"{PGD_STEPS} steps of 2.5 eps / {PGD_STEPS}",
    "pgd-restarts": f"{RESTARTS} random starts, each as pgd",
    "apgd": f"{APGD_STEPS} steps",
    "apgd-t": f"{TARGETED_STEPS} steps for each of K - 1 targets",
    "fab-t": f"{FAB_STEPS} steps for each of K - 1 targets",
    "square": f"{QUERIES} queries",
    "ddn": f"{DDN_STEPS} steps",
}

Run = Callable[[Subject, float, str], Tensor]
"""A subject, a radius and a norm to adversarial images; an attack that minimizes the norm gets an infinite radius."""


@dataclass(frozen=True)
class Counterpart:
    """An attack of another library.

    Attributes:
        attack: name of our attack, a key of `OURS`.
        library: where it is from, and what it is called there if it is another attack to the same end.
        run: runs it.
        norms: what it can be compared in.
        minimal: whether it, too, finds the least perturbation in one run.
    """

    attack: str
    library: str
    run: Run
    norms: tuple[str, ...] = ("linf", "l2")
    minimal: bool = False


def _ours(attack: Callable[..., Tensor], **options: Any) -> Run:
    def run(subject: Subject, eps: float, norm: str) -> Tensor:
        generator = torch.Generator().manual_seed(subject.seed)
        return attack(subject.model, subject.x, subject.y, eps=eps, norm=norm, generator=generator, **options)

    return run


OURS: dict[str, Run] = {
    "fgsm": _ours(fgsm),
    "pgd": _ours(pgd, steps=PGD_STEPS),
    "pgd-random": _ours(pgd, steps=PGD_STEPS, start="random"),
    "pgd-margin": _ours(pgd, steps=PGD_STEPS, loss=margin),
    "pgd-restarts": _ours(pgd_restarts, steps=PGD_STEPS, restarts=RESTARTS, loss=cross_entropy),
    "pgd-margin-restarts": _ours(pgd_restarts, steps=PGD_STEPS, restarts=RESTARTS),
    "apgd-ce": _ours(apgd, steps=APGD_STEPS),
    "apgd-dlr": _ours(apgd, steps=APGD_STEPS, loss="dlr"),
    "apgd-t": _ours(apgd_targeted, steps=TARGETED_STEPS),
    "fab-t": _ours(fab_targeted, steps=FAB_STEPS),
    "square": _ours(square, steps=QUERIES),
    "ddn": _ours(ddn, steps=DDN_STEPS),
}
MINIMAL = ("fab-t", "ddn")
"""Attacks of ours of which one run finds the least perturbation, which is judged at every radius."""


def _step(eps: float) -> float:
    return 2.5 * eps / PGD_STEPS


def _torchattacks(name: str, subject: Subject, eps: float, norm: str, **options: Any) -> Tensor:
    if name in ("APGD", "APGDT", "FAB", "Square"):
        options |= {"norm": {"linf": "Linf", "l2": "L2"}[norm], "seed": subject.seed}
    if name in ("PGD", "PGDL2"):
        options |= {"alpha": _step(eps), "steps": PGD_STEPS}
    if name in ("APGDT", "FAB"):
        options |= {"n_classes": subject.classes}
    x_adv: Tensor = getattr(torchattacks, name)(subject.model, eps=eps, **options)(subject.x, subject.y)
    return x_adv


def _art(name: str, subject: Subject, eps: float, norm: str, **options: Any) -> Tensor:
    estimator = PyTorchClassifier(
        model=subject.model,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=tuple(subject.x.shape[1:]),
        nb_classes=subject.classes,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    if name == "ProjectedGradientDescentPyTorch":
        options |= {"eps_step": _step(eps), "max_iter": PGD_STEPS}
    if name == "AutoProjectedGradientDescent":
        options |= {"eps_step": 2 * eps, "max_iter": APGD_STEPS, "nb_random_init": 1}
    if name != "FastGradientMethod":
        options["verbose"] = False
    order = inf if norm == "linf" else 2
    attack = getattr(art, name)(estimator, norm=order, eps=eps, batch_size=len(subject.x), **options)
    return torch.from_numpy(attack.generate(subject.x.numpy(), subject.y.numpy()))


def _foolbox(name: str, subject: Subject, eps: float, norm: str, **options: Any) -> Tensor:
    if name == "PGD":
        options |= {"abs_stepsize": _step(eps), "steps": PGD_STEPS}
    full_name = name if options.pop("one_norm", False) else {"linf": "Linf", "l2": "L2"}[norm] + name
    attack = getattr(foolbox.attacks, full_name)(**options)
    network = foolbox.PyTorchModel(subject.model, bounds=(0, 1), device="cpu")
    x_adv: Tensor = attack(network, subject.x, subject.y, epsilons=None if eps == inf else eps)[1]
    return x_adv


def _adv_lib(name: str, subject: Subject, eps: float, norm: str, **options: Any) -> Tensor:
    if name == "pgd_linf":
        options |= {"ε": eps, "steps": PGD_STEPS, "absolute_step_size": _step(eps)}
    elif name != "ddn":
        options |= {"norm": inf if norm == "linf" else 2} | ({} if eps == inf else {"eps": eps})
    x_adv: Tensor = getattr(adv_lib, name)(subject.model, subject.x, subject.y, **options)
    return x_adv


def _secml(make: Callable[..., Any], subject: Subject, eps: float, norm: str, **options: Any) -> Tensor:
    if make is PGD:
        options |= {"epsilon": eps, "num_steps": PGD_STEPS, "step_size": _step(eps)}
    if make is not DDN:
        options["perturbation_model"] = norm
    batches = DataLoader(TensorDataset(subject.x, subject.y), batch_size=len(subject.x))
    return torch.cat([x_adv for x_adv, _ in make(backend="native", **options)(subject.model, batches)])


LINF, L2 = ("linf",), ("l2",)
_apgd_art = partial(_art, "AutoProjectedGradientDescent")
_pgd_art = partial(_art, "ProjectedGradientDescentPyTorch")

COUNTERPARTS = (
    Counterpart("fgsm", "torchattacks", partial(_torchattacks, "FGSM"), LINF),
    Counterpart("fgsm", "art", partial(_art, "FastGradientMethod")),
    Counterpart("fgsm", "foolbox", partial(_foolbox, "FastGradientAttack", random_start=False)),
    Counterpart("pgd", "torchattacks", partial(_torchattacks, "PGD", random_start=False), LINF),
    Counterpart("pgd", "torchattacks", partial(_torchattacks, "PGDL2", random_start=False), L2),
    Counterpart("pgd", "art", _pgd_art),
    Counterpart("pgd", "foolbox", partial(_foolbox, "PGD", random_start=False)),
    Counterpart("pgd", "adv-lib", partial(_adv_lib, "pgd_linf", random_init=False), LINF),
    Counterpart("pgd", "secml-torch", partial(_secml, PGD)),
    Counterpart("pgd-random", "torchattacks", partial(_torchattacks, "PGD"), LINF),
    Counterpart("pgd-random", "art", partial(_pgd_art, num_random_init=1), LINF),
    Counterpart("pgd-random", "foolbox", partial(_foolbox, "PGD"), LINF),
    Counterpart("pgd-random", "adv-lib", partial(_adv_lib, "pgd_linf"), LINF),
    Counterpart("pgd-random", "secml-torch", partial(_secml, PGD, random_start=True), LINF),
    Counterpart("pgd-margin", "adv-lib", partial(_adv_lib, "pgd_linf", loss_function="dl", random_init=False), LINF),
    Counterpart("pgd-restarts", "art", partial(_pgd_art, num_random_init=RESTARTS)),
    Counterpart("pgd-restarts", "adv-lib", partial(_adv_lib, "pgd_linf", restarts=RESTARTS), LINF),
    Counterpart(
        "pgd-margin-restarts", "adv-lib", partial(_adv_lib, "pgd_linf", restarts=RESTARTS, loss_function="dl"), LINF
    ),
    Counterpart("apgd-ce", "torchattacks", partial(_torchattacks, "APGD", steps=APGD_STEPS)),
    Counterpart("apgd-ce", "art", partial(_apgd_art, loss_type="cross_entropy")),
    Counterpart("apgd-ce", "adv-lib", partial(_adv_lib, "apgd", n_iter=APGD_STEPS, loss_function="ce")),
    Counterpart("apgd-dlr", "torchattacks", partial(_torchattacks, "APGD", steps=APGD_STEPS, loss="dlr")),
    Counterpart("apgd-dlr", "art", partial(_apgd_art, loss_type="difference_logits_ratio")),
    Counterpart("apgd-dlr", "adv-lib", partial(_adv_lib, "apgd", n_iter=APGD_STEPS)),
    Counterpart("apgd-t", "torchattacks", partial(_torchattacks, "APGDT", steps=TARGETED_STEPS)),
    Counterpart("apgd-t", "adv-lib", partial(_adv_lib, "apgd_targeted", n_iter=TARGETED_STEPS)),
    Counterpart("fab-t", "torchattacks", partial(_torchattacks, "FAB", steps=FAB_STEPS, multi_targeted=True)),
    Counterpart("fab-t", "adv-lib", partial(_adv_lib, "fab", n_iter=FAB_STEPS, targeted_restarts=True), minimal=True),
    Counterpart("square", "torchattacks", partial(_torchattacks, "Square", n_queries=QUERIES)),
    Counterpart("square", "art", partial(_art, "SquareAttack", max_iter=QUERIES)),
    Counterpart("ddn", "foolbox", partial(_foolbox, "DDNAttack", steps=DDN_STEPS, one_norm=True), L2, minimal=True),
    Counterpart("ddn", "foolbox FMN", partial(_foolbox, "FMNAttack", steps=DDN_STEPS), L2, minimal=True),
    Counterpart("ddn", "adv-lib", partial(_adv_lib, "ddn", steps=DDN_STEPS, levels=None), L2, minimal=True),
    Counterpart("ddn", "adv-lib FMN", partial(_adv_lib, "fmn", steps=DDN_STEPS), L2, minimal=True),
    Counterpart("ddn", "secml-torch", partial(_secml, DDN, num_steps=DDN_STEPS, eps_init=1.0), L2, minimal=True),
    Counterpart("ddn", "secml-torch FMN", partial(_secml, FMN, num_steps=DDN_STEPS, step_size=1.0), L2, minimal=True),
)
