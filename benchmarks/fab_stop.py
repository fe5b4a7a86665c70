"""How often FAB-T gives a target up that would have come within the radius, where verdicts are wanted only.

    python benchmarks/fab_stop.py NAME=RUN ... [--images 40] --out FILE.json

Every target is tried to the end, and how far its nearest image lay after every step is compared with what it came to.
`largest` is how near a target came to being given up wrongly, at the worst possible radius: above 1 it would have been.
`steps` is the share of the steps that are made at a radius, on the images that stand there.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpaat.attacks import fab
from dpaat.attacks.ddn import Nearest
from dpaat.evaluation.attacking import Attacker
from dpaat.evaluation.elsewhere import target_of_folder
from dpaat.evaluation.folding import search_copy
from dpaat.evaluation.images import stratified_draw
from dpaat.provenance import provenance
from dpaat.storage import write_json

STEPS = 50
RADII = {"linf": (1 / 255, 2 / 255, 4 / 255, 8 / 255), "l2": (0.25, 0.5, 1.0, 2.0)}


class Watched(Nearest):
    """Keeps how far the nearest image lay after every update."""

    seen: list[list[Tensor]]

    def update(self, image: Tensor, margins: Tensor) -> None:
        """As without watching."""
        super().update(image, margins)
        if not hasattr(self, "track"):
            self.track: list[Tensor] = []
            Watched.seen.append(self.track)
        self.track.append(self.distance)


def measure(model: torch.nn.Module, x: Tensor, y: Tensor, norm: str) -> dict[str, Any]:
    """Try all targets of all images to the end."""
    Watched.seen = []
    fab.fab_targeted(model, x, y, steps=STEPS, norm=norm)
    runs = [torch.stack(track) for track in Watched.seen if len(track) == STEPS]
    far, first = torch.cat(runs, dim=1).numpy(), int(np.ceil(fab.GIVE_UP * STEPS))
    k = np.arange(first, STEPS + 1)[:, None]
    bound = far[first - 1 :] / (1 + fab.GIVE_UP * STEPS / k)  # given up at smaller radii
    nearest = np.tile(far[-1].reshape(-1, len(x)).min(0), far.shape[1] // len(x))
    found: dict[str, Any] = {"targets": far.shape[1], "largest": float((bound / far[-1]).max()), "steps": {}}
    for eps in RADII[norm]:
        if (stands := nearest > eps).any():
            made = first + (np.maximum.accumulate(bound, axis=0)[:-1, stands] <= eps).sum(0)
            found["steps"][f"{eps:.4g}"] = float(made.mean() / STEPS)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    vars(fab)["Nearest"] = Watched
    content = {**provenance("cpu"), "steps": STEPS, "models": {}}
    for run in arguments.runs:
        name, _, folder = run.partition("=")
        target = target_of_folder(Path(folder), data=None, device="cpu", progress=False)
        rows = target.rows("test")
        rows = rows[stratified_draw(target.view(target.data, rows)[1], arguments.images, seed=1)]
        images, labels = target.view(target.data, rows)
        attacker = Attacker(target.model.eval(), images, labels, num_classes=len(target.classes), progress=False)
        x, y = attacker.load(np.arange(len(attacker)))
        model = search_copy(target.model, x)
        with torch.no_grad():
            right = model(x).argmax(1) == y
        content["models"][name] = {norm: measure(model, x[right], y[right], norm) for norm in RADII}
        print(name, json.dumps(content["models"][name]), flush=True)
        write_json(arguments.out, content)


if __name__ == "__main__":
    main()
