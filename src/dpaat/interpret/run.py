"""Explain a model and keep the numbers and maps in its folder."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dpaat.attacks import NORMS
from dpaat.errors import UserError, unknown
from dpaat.evaluation.attacking import Attacker
from dpaat.evaluation.entries import Document, Population
from dpaat.evaluation.plan import DEFAULT_RADII, stratified_draw
from dpaat.evaluation.results import require_present
from dpaat.evaluation.run import check_writable, resolve_device
from dpaat.evaluation.specs import AttackSpec, attack_spec
from dpaat.evaluation.subject import SPLITS, Subject, subject_of_run
from dpaat.interpret.document import read_interpretability, save_explanation
from dpaat.interpret.layers import find_layer
from dpaat.interpret.maps import MAPS, Attribution, find_maps
from dpaat.interpret.measure import measure
from dpaat.interpret.scoring import SCORES, image_scores, summarize
from dpaat.interpret.similarity import judge, scaled
from dpaat.radii import format_radius, parse_radii
from dpaat.runs import open_run

KEPT = 200
"""Images whose maps are written to the folder, a stratified draw of those explained."""
DEFAULT_EPS = {norm: (radii[2],) for norm, radii in DEFAULT_RADII.items()}


@dataclass(frozen=True)
class ExplainPlan:
    """What to explain, and how.

    Attributes:
        maps: kinds of map, see `dpaat.interpret.MAPS`.
        max_samples: explain a seeded draw of so many images; half of the places are shared out evenly among classes.
        eps: radii of the adversarial images, ascending, above 0; default 4/255, in L2 1.
        steps: of PGD.
        norm: "linf" or "l2".
        split: "train", "val", "test" or "all".
        layer: for Grad-CAM; None takes the deepest with a map of 8 x 8 or more.
        batch_size: images per batch.
        seed: of the draw, of the attack's starts and of the randomized model.

    Raises:
        UserError: a value out of its range, naming it.
    """

    maps: Sequence[str] = tuple(MAPS)
    max_samples: int = 100
    eps: Sequence[float] | None = None
    steps: int = 20
    norm: str = "linf"
    split: str = "test"
    layer: str | None = None
    batch_size: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for kind, name, known in (("norm", self.norm, NORMS), ("split", self.split, SPLITS)):
            if name not in known:
                raise unknown(kind, name, known)
        for name, value in (("batch size", self.batch_size), ("max samples", self.max_samples)):
            if value < 1:
                raise UserError(f"{name}: {value} must be at least 1")
        self.kinds, self.spec  # noqa: B018 - looked up here for their errors
        if min(self.radii) <= 0:
            raise UserError("eps: the clean images are explained anyway; give radii above 0, such as 4/255")
        if self.layer is not None and not self.needs_layer:
            raise UserError(f"layer: {', '.join(self.maps)} does not look at a layer; add grad-cam to --maps")

    @property
    def kinds(self) -> list[Attribution]:
        """The kinds of map."""
        return find_maps(list(self.maps))

    @property
    def needs_layer(self) -> bool:
        """Whether any of them looks at a layer."""
        return any(kind.needs_layer for kind in self.kinds)

    @property
    def radii(self) -> list[float]:
        """Radii, ascending."""
        return parse_radii(list(DEFAULT_EPS[self.norm] if self.eps is None else self.eps), norm=self.norm)

    @property
    def spec(self) -> AttackSpec:
        """The attack."""
        return attack_spec("pgd", steps=self.steps, norm=self.norm)


def explain_run(
    run: Path,
    *,
    data: str | None = None,
    window: str | None = None,
    norm: str | None = None,
    device: str = "auto",
    progress: bool = True,
    **options: Any,
) -> Document:
    """Explain a trained run, keep numbers and maps in its folder, and return the document as written.

    Arguments are as for `dpaat.evaluation.evaluate_run`; `norm` is "linf" or "l2", None for the run's own; `options`
    are fields of `ExplainPlan`. Raises UserError for bad input, or a folder that cannot be written.
    """
    plan = ExplainPlan(norm=open_run(run).config.norm if norm is None else norm, **options)
    target = resolve_device(device)
    subject = subject_of_run(run, data=data, device=target, progress=progress, window=window)
    return explain(subject, plan, target, progress=progress)


def explain(subject: Subject, plan: ExplainPlan, device: str = "cpu", *, progress: bool = True) -> Document:
    """Explain a model by a plan; else as `explain_run`."""
    subject.check_radii(plan.radii, plan.norm)
    check_writable(subject.folder)
    require_present(subject.folder, subject.head, "explain")
    read_interpretability(subject.folder)
    all_rows = subject.rows(plan.split)
    all_labels = subject.view(subject.data, all_rows)[1]
    shares = np.bincount(all_labels, minlength=len(subject.classes))
    rows = all_rows[_draw(all_labels, plan.max_samples, seed=plan.seed)]
    images, labels = subject.view(subject.data, rows)
    keep = _draw(labels, KEPT, seed=plan.seed)
    masks = subject.data.masks(rows)
    masks = None if masks is None or not masks.any() else masks
    layer = None
    if plan.needs_layer:
        x = torch.from_numpy(images[np.array([0])]).to(device).float() / 255
        layer = find_layer(subject.model, x, plan.layer)
    attacker = Attacker(
        subject.model,
        images,
        labels,
        num_classes=len(subject.classes),
        batch_size=plan.batch_size,
        device=device,
        seed=plan.seed,
        progress=progress,
    )
    with closing(attacker.bar):
        found = measure(attacker, plan.kinds, layer=layer, spec=plan.spec, radii=plan.radii, keep=keep)
    table, names, conditions = subject.data.table, [kind.name for kind in plan.kinds], [0.0, *plan.radii]
    groups = table.frame["group"].to_numpy(dtype=str)[rows]
    scores = image_scores(found, None if masks is None else torch.from_numpy(masks))
    entry = {
        **vars(Population(table.name, subject.data.fingerprint, plan.split, len(rows))),
        "data_spec": table.spec,
        "checkpoint": subject.head["checkpoint"],
        **({} if subject.left_out is None else {"left_out": vars(subject.left_out)}),
        "attack": {**vars(plan.spec), "label": plan.spec.label, "start": plan.spec.start},
        "eps": plan.radii,
        "maps": {kind.name: kind.description for kind in plan.kinds},
        "layer": None if layer is None else {name: getattr(layer, name) for name in ("name", "height", "width")},
        "explains": "logit of the true class",
        "score_titles": {name: {"title": info.title, "chance": info.chance} for name, info in SCORES.items()},
        "seed": plan.seed,
        "device": subject.head["device"],
        "batch_size": plan.batch_size,
        "support": dict(zip(subject.classes, shares.tolist(), strict=True)),
        "with_mask": 0 if masks is None else int(masks.any(axis=(1, 2)).sum()),
        "empty": [
            {"map": name, "eps": eps, "eps_text": format_radius(eps), "n": _count_empty(found.maps[name, eps])}
            for name in names
            for eps in conditions
        ],
        "scores": summarize(scores, labels, groups, subject.classes, shares),
        "randomization": [
            {"map": name, **vars(judge(found.maps[name, 0.0], found.randomized[name]))} for name in names
        ],
    }
    about = pd.DataFrame({"id": table.ids[rows], "group": groups, "label": np.array(subject.classes)[labels]})
    named = about.iloc[scores["position"]].reset_index(drop=True).join(scores.drop(columns="position"))
    # Maps and all that is shown with them, see `docs/interpretability.md`.
    arrays = {
        "ids": table.ids[rows[keep]],
        "labels": labels[keep],
        "images": images[keep],
        "map_names": np.array(names),
        "eps": np.array(conditions),
        "maps": np.stack([[_grey(found.maps[name, eps][keep]) for eps in conditions] for name in names]),
        "predicted": np.stack([found.predicted[eps][keep] for eps in conditions]),
        "perturbation": np.stack([found.perturbation[eps][0] for eps in plan.radii]),
        "perturbation_scale": np.stack([found.perturbation[eps][1] for eps in plan.radii]),
        **({} if masks is None else {"masks": masks[keep]}),
    }
    return save_explanation(subject.folder, subject.head, entry, scores=named, maps=arrays)


def _draw(labels: np.ndarray, n: int, *, seed: int) -> np.ndarray:
    return stratified_draw(labels, n, seed=seed, at_least=max(1, n // (2 * len(np.unique(labels)))))


def _count_empty(maps: Tensor) -> int:
    return int((~maps.flatten(1).any(dim=1)).sum())  # maps of 0 everywhere, which score chance on the lesion


def _grey(maps: Tensor) -> np.ndarray:
    """Maps as grey levels, each from 0 to its own highest value."""
    return np.asarray((scaled(maps) * 255).round().to(torch.uint8).numpy())
