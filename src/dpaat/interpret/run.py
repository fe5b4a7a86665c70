"""Explain a model and keep the numbers and maps in its folder."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dpaat.errors import UserError
from dpaat.evaluation.attacking import Attacker
from dpaat.evaluation.elsewhere import target_of_folder
from dpaat.evaluation.entries import Document, Population
from dpaat.evaluation.images import stratified_draw
from dpaat.evaluation.labels import strata
from dpaat.evaluation.results import require_present
from dpaat.evaluation.run import check_writable
from dpaat.evaluation.target import EvalTarget
from dpaat.interpret.document import read_interpretability, save_explanation
from dpaat.interpret.layers import find_layer
from dpaat.interpret.measure import measure
from dpaat.interpret.scoring import SCORES, image_scores, summarize
from dpaat.interpret.similarity import judge, scaled
from dpaat.measurement import ExplainConfig
from dpaat.radii import format_radius
from dpaat.runs import SUBJECT, open_run

KEPT = 200
"""Images whose maps are written to the folder, a stratified draw of those explained."""


def explain_run(
    run: Path,
    *,
    data: str | None = None,
    window: str | None = None,
    device: str = "auto",
    progress: bool = True,
    **options: Any,
) -> Document:
    """Explain a trained run, keep numbers and maps in its folder, and return the document as written.

    Arguments are as for `dpaat.evaluation.evaluate_run`; `options` are fields of `ExplainConfig`. Raises UserError for
    bad input, or a folder that cannot be written.
    """
    plan = ExplainConfig(**options)
    if plan.norm is None:
        plan = dataclasses.replace(plan, norm="linf" if (run / SUBJECT).is_file() else open_run(run).config.norm)
    target = target_of_folder(run, data=data, device=device, progress=progress, window=window)
    return explain(target, plan, progress=progress)


def explain(target: EvalTarget, plan: ExplainConfig, *, progress: bool = True) -> Document:
    """Explain a model by a plan; else as `explain_run`."""
    assert plan.norm
    target.check_radii(plan.radii, plan.norm)
    check_writable(target.folder)
    require_present(target.folder, target.head, "explain")
    read_interpretability(target.folder)
    all_rows = target.rows(plan.split)
    all_labels = strata(target.view(target.data, all_rows)[1])
    several = target.data.table.multilabel
    if several:  # an image without any label has none to explain
        all_rows, all_labels = (each[all_labels < len(target.classes)] for each in (all_rows, all_labels))
        if not len(all_rows):
            raise UserError(f"{target.data.table.spec}: no image of split {plan.split!r} has a label to explain")
    shares = np.bincount(all_labels, minlength=len(target.classes))
    drawn = _draw(all_labels, plan.max_samples, seed=plan.seed)
    rows, labels = all_rows[drawn], all_labels[drawn]
    images, answers = target.view(target.data, rows)
    keep = _draw(labels, KEPT, seed=plan.seed)
    masks = target.data.masks(rows)
    masks = None if masks is None or not masks.any() else masks
    layer = None
    if plan.needs_layer:
        x = torch.from_numpy(images[np.array([0])]).to(target.device).float() / 255
        layer = find_layer(target.model, x, plan.layer)
    options: dict[str, Any] = {"batch_size": plan.batch_size, "seed": plan.seed}
    options |= {"device": target.device, "progress": progress, "thresholds": target.thresholds}
    with Attacker(target.model, images, answers, num_classes=len(target.classes), **options) as attacker:
        found = measure(attacker, labels, plan.kinds, layer=layer, spec=plan.spec, radii=plan.radii, keep=keep)
    table, names, conditions = target.data.table, [kind.name for kind in plan.kinds], [0.0, *plan.radii]
    groups = table.frame["group"].to_numpy(dtype=str)[rows]
    scores = image_scores(found, None if masks is None else torch.from_numpy(masks))
    # Maps of 0 everywhere, which score chance on the lesion.
    empty = {key: int((~maps.flatten(1).any(dim=1)).sum()) for key, maps in found.maps.items()}
    entry = {
        **vars(Population(table.name, target.data.fingerprint, plan.split, len(rows))),
        "data_spec": table.spec,
        "checkpoint": target.head["checkpoint"],
        **({} if target.left_out is None else {"left_out": vars(target.left_out)}),
        **({"learned": learned} if plan.split == "all" and (learned := target.learned(rows)) else {}),
        "attack": {name: getattr(plan.spec, name) for name in ("name", "steps", "norm", "label", "start")},
        "eps": plan.radii,
        "maps": {kind.name: kind.description for kind in plan.kinds},
        "layer": None if layer is None else {name: getattr(layer, name) for name in ("name", "height", "width")},
        "explains": f"logit of the {'rarest label that an image has' if several else 'true class'}",
        "score_titles": {name: {"title": info.title, "chance": info.chance} for name, info in SCORES.items()},
        "seed": plan.seed,
        "device": target.head["device"],
        "batch_size": plan.batch_size,
        "support": dict(zip(target.classes, shares.tolist(), strict=True)),
        "with_mask": 0 if masks is None else int(masks.any(axis=(1, 2)).sum()),
        "empty": [
            {"map": name, "eps": eps, "eps_text": format_radius(eps), "n": empty[name, eps]}
            for name in names
            for eps in conditions
        ],
        "scores": summarize(scores, labels, groups, target.classes, shares),
        "randomization": [
            {"map": name, **vars(judge(found.maps[name, 0.0], found.randomized[name]))} for name in names
        ],
    }
    about = pd.DataFrame({"id": table.ids[rows], "group": groups, "label": np.array(target.classes)[labels]})
    named = about.iloc[scores["position"]].reset_index(drop=True).join(scores.drop(columns="position"))
    maps = [[found.maps[name, eps][keep] for eps in conditions] for name in names]
    # Maps and all that is shown with them, see `docs/interpretability.md`.
    arrays = {
        "ids": table.ids[rows[keep]],
        "labels": labels[keep],
        "images": images[keep],
        "map_names": np.array(names),
        "eps": np.array(conditions),
        # Grey levels, each map from 0 to its own highest value.
        "maps": np.stack([[(255 * scaled(each)).round().to(torch.uint8).numpy() for each in kind] for kind in maps]),
        "predicted": np.stack([found.predicted[eps][keep] for eps in conditions]),
        "perturbation": np.stack([found.perturbation[eps][0] for eps in plan.radii]),
        "perturbation_scale": np.stack([found.perturbation[eps][1] for eps in plan.radii]),
        **({} if masks is None else {"masks": masks[keep]}),
    }
    return save_explanation(target.folder, target.head, entry, scores=named, maps=arrays)


def _draw(labels: np.ndarray, n: int, *, seed: int) -> np.ndarray:
    return stratified_draw(labels, n, seed=seed, at_least=max(1, n // (2 * len(np.unique(labels)))))
