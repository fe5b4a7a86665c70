"""What PGD and a step of adversarial training cost, here and in six other libraries, side by side.

    python benchmarks/peers/run.py [--pairs 7] [--batch 64] [--device cpu] [--out FILE.json] [--plot FILE.svg]

Needs an environment of its own, see benchmarks/README.md. One network (ResNet-18, original stem, 64 px, trained for a
moment on synthetic images), the same images, batch, K, radius and device for all; every round times each library once,
between the floor and standard training. Robust accuracy after the attack stands beside the time, so that a weak attack
cannot win. Libraries without a trainer attack in a plain loop; the toolbox also runs its own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from attacks import Attack, make_attacks, make_classifier
from plot import write_plot
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).parents[1]))
from dpaat.data import prepare
from dpaat.methods import MethodContext, build_method, find_method
from dpaat.models import build_model
from dpaat.provenance import provenance
from dpaat.storage import write_json
from step_cost import interleaved, ratio

DATA, SIZE, STEPS, EPS = "synthetic:1200", 64, 10, 4 / 255
TRAINING_BATCH = 64
IMAGES = 512
"""How many images robust accuracy is measured on."""
MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


def train_briefly(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """So that there is an accuracy to lose."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(TRAINING_BATCH):
            cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
    model.eval()


def input_gradients(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """The least that an attack of K steps can do."""
    for _ in range(STEPS):
        probe = x.detach().requires_grad_()
        torch.autograd.grad(cross_entropy(model(probe), y, reduction="sum"), probe)


def compare(works: dict[str, Callable[[], object]], pairs: int, device: torch.device) -> dict[str, Any]:
    """Median seconds of each work, and the ratio to the one named dpaat, round by round."""
    times = dict(zip(works, interleaved(pairs, device, *works.values()), strict=True))
    return {
        name: {"seconds": statistics.median(seconds), "over_dpaat": ratio(seconds, times["dpaat"])}
        for name, seconds in times.items()
    }


def training_steps(
    model: nn.Module, attacks: dict[str, Attack], labels: Tensor, classes: int, x: Tensor, y: Tensor
) -> dict[str, Callable[[], object]]:
    """One step of adversarial training with each attack, of standard training, and the floor."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    index = torch.arange(len(x), device=x.device)

    def learn(loss: Tensor) -> None:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def own(name: str) -> Callable[[], object]:
        def learn_loss(logits: Tensor, y: Tensor) -> Tensor:
            return cross_entropy(logits, y, reduction="none")

        context = MethodContext(labels, classes, 30, learn_loss, EPS, STEPS, "linf", 0.0)
        method = build_method(find_method(name), context, {}).to(x.device)

        def step() -> None:
            model.train()
            output = method(model, index, x, y)
            learn(output.loss)
            method.after_step(output)

        return step

    def plain(attack: Attack) -> Callable[[], object]:
        def step() -> None:
            model.eval()
            x_adv = attack(x, y)
            model.train()
            learn(cross_entropy(model(x_adv), y))

        return step

    def floor() -> None:
        model.eval()
        input_gradients(model, x, y)
        model.train()
        cross_entropy(model(x), y).backward()
        optimizer.zero_grad()

    steps = {"floor": floor, "dpaat": own("pgd"), "dpaat, adaptive": own("dpaat-half"), "standard": own("standard")}
    steps |= {name: plain(attack) for name, attack in attacks.items() if name != "dpaat"}
    return steps | {"adversarial-robustness-toolbox, own trainer": toolbox_trainer(model, classes, x, y)}


def toolbox_trainer(model: nn.Module, classes: int, x: Tensor, y: Tensor) -> Callable[[], object]:
    """One step of the toolbox's trainer after Madry et al."""
    from art.defences.trainer import AdversarialTrainerMadryPGD  # type: ignore[import-not-found]

    classifier = make_classifier(model, classes, tuple(x.shape[1:]), x.device)
    trainer = AdversarialTrainerMadryPGD(
        classifier,
        nb_epochs=1,
        batch_size=len(x),
        eps=EPS,
        eps_step=2.5 * EPS / STEPS,
        max_iter=STEPS,
        num_random_init=0,
    )
    images, targets = x.cpu().numpy(), nn.functional.one_hot(y, classes).cpu().numpy()
    return lambda: trainer.fit(images, targets)


def measure(pairs: int, batch: int, device: torch.device, layout: str, epochs: int) -> dict[str, Any]:
    """Time attacks and training steps."""
    torch.manual_seed(0)
    data = prepare(DATA, image_size=SIZE, progress=False)
    images = torch.from_numpy(data.images[data.rows("train")].copy()).float().div(255).to(device)
    labels = torch.from_numpy(data.labels[data.rows("train")]).to(device)
    classes = len(data.classes)
    model = build_model("resnet18", num_classes=classes, image_size=SIZE, stem="original").to(device)
    model = model.to(memory_format=MEMORY_FORMATS[layout])
    images = images.contiguous(memory_format=MEMORY_FORMATS[layout])
    train_briefly(model, images, labels, epochs)

    attacks = make_attacks(model, classes=classes, shape=tuple(images.shape[1:]), eps=EPS, steps=STEPS)
    x, y = images[:batch], labels[:batch]
    works: dict[str, Callable[[], object]] = {"floor": lambda: input_gradients(model, x, y)}
    works |= {name: partial(attack, x, y) for name, attack in attacks.items()}
    found = compare(works, pairs, device)
    for name, attack in attacks.items():
        found[name]["robust_accuracy"] = robust_accuracy(model, attack, images[:IMAGES], labels[:IMAGES])
    steps = compare(training_steps(model, attacks, labels, classes, x, y), pairs, device)
    return {
        "layout": layout,
        "clean_accuracy": robust_accuracy(model, lambda x, y: x, images[:IMAGES], labels[:IMAGES]),
        "attack": found,
        "training_step": steps,
    }


def robust_accuracy(model: nn.Module, attack: Attack, images: Tensor, labels: Tensor) -> float:
    """Share of images still classified correctly; one outside ball or box counts as correct."""
    model.eval()
    standing = 0
    for x, y in zip(images.split(TRAINING_BATCH), labels.split(TRAINING_BATCH), strict=True):
        x_adv = attack(x, y)
        inside = ((x_adv - x).abs() <= EPS + 1e-6) & (x_adv >= -1e-6) & (x_adv <= 1 + 1e-6)
        with torch.no_grad():
            standing += int(((model(x_adv).argmax(1) == y) | ~inside.flatten(1).all(1)).sum())
    return standing / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7, help="rounds")
    parser.add_argument("--batch", type=int, default=64, help="images that are timed; fewer allow more rounds")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layout", nargs="+", choices=list(MEMORY_FORMATS), default=list(MEMORY_FORMATS))
    parser.add_argument("--epochs", type=int, default=4, help="of the network's training")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--plot", type=Path, help="SVG file to write")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    results = []
    for layout in arguments.layout:
        found = measure(arguments.pairs, arguments.batch, torch.device(arguments.device), layout, arguments.epochs)
        results.append(found)
        print(f"{layout}: clean accuracy {found['clean_accuracy']:.1%}")
        for kind in ("attack", "training_step"):
            print(f"  {kind:44} {'seconds':>8}  of dpaat's (least to largest)  robust accuracy")
            for name, row in found[kind].items():
                over = row["over_dpaat"]
                spread = f"{over['median']:.3f} ({over['min']:.3f} to {over['max']:.3f})"
                robust = f"{row['robust_accuracy']:.1%}" if "robust_accuracy" in row else ""
                print(f"    {name:42} {row['seconds']:8.3f}  {spread:30}  {robust}", flush=True)
    setting = {"model": "resnet18", "image_size": SIZE, "batch": arguments.batch, "steps": STEPS, "eps": EPS}
    head = provenance(arguments.device) | {"command": " ".join(["python", *sys.argv]), "setting": setting}
    if arguments.out:
        write_json(arguments.out, head | {"results": results})
    if arguments.plot:
        write_plot(head | {"results": results}, arguments.plot)


if __name__ == "__main__":
    main()
