"""Bad options, configurations, weights and run folders for `bad_input.py`."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path
from random import Random
from typing import Any

import torch

from bad_input_damage import NAMES, TEXTS, spoil, spoil_json, spoil_text, trap
from bad_input_data import folder_set, odd_picture
from dpaat.config import TrainConfig

MODEL = ("--model=test_resnet", "--image-size=32")
TRAIN = (
    "train", *MODEL, "--stem=original", "--steps=1", "--val-steps=1", "--val-eps=0", "--epochs=1", "--batch-size=8",
    "--accelerator=cpu",
)  # fmt: skip
EVALUATE = ("evaluate", "--device=cpu", "--eps=0", "--max-samples=4")
NESTED = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
"""YAML whose last value is a list of lists of ... with 2^40 leaves."""


class Runs:
    """Makes damaged copies of finished runs.

    Args:
        base: holds the evaluated runs `one` and `two`, to be copied.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.kinds = {
            "option": self.option,
            "config file": self.config,
            "grid": self.grid,
            "weights": self.weights,
            "checkpoint": self.checkpoint,
            "run folder": self.folder,
            "evaluation": self.evaluation,
            "labels": self.labels,
            "picture to predict": self.picture,
        }

    def _copy(self, out: Path, name: str = "one") -> Path:
        return shutil.copytree(self.base / name, out / name)

    def option(self, random: Random, root: Path, out: Path) -> list[str]:
        """Options with values that make no sense."""
        data = folder_set(root / "img")
        commands: dict[str, tuple[list[str], list[str]]] = {
            "train": (
                [*TRAIN, f"--data=folder:{data}", f"--out={out / 'run'}"],
                list(TrainConfig.__dataclass_fields__),
            ),
            "evaluate": (
                [*EVALUATE, str(self.base / "nowhere")],
                ["suite", "attack", "steps", "eps", "norm", "data", "split", "max-samples", "batch-size", "source"],
            ),
            "check": (["data", "check", f"folder:{data}", "--image-size=8"], ["seed", "fold", "splits", "image-size"]),
            "report": (["report", str(self.base / "one"), f"--out={out / 'r.html'}"], ["runs"]),
            "list": (["list", "methods"], ["filter"]),
        }
        skipped = {"pretrained", "workers", "devices", "num_nodes", "strategy"}
        arguments, names = commands[random.choice([*commands, "train", "train"])]
        for _ in range(random.choice((1, 1, 2))):
            name = random.choice([name for name in names if name not in skipped])
            value = random.choice(TEXTS)
            arguments = [*arguments, f"--{name}={value}" if random.random() < 0.9 else value]
        return [argument.replace("\0", "0") for argument in arguments]

    def config(self, random: Random, root: Path, out: Path) -> list[str]:
        """A damaged YAML file as --config, or as a run's own."""
        path = root / "c.yaml"
        text = (self.base / "one/config.yaml").read_text().replace("base-images", str(folder_set(root / "img")))
        lines = text.splitlines()
        row = random.randrange(len(lines))
        lines[row] = lines[row].split(":")[0] + ": " + random.choice((*TEXTS, "[1]", "{a: 1}", "2024-01-01", "*x"))
        spoilt = "\n".join(lines).encode(errors="surrogateescape")
        content = random.choice((spoilt, spoilt, spoilt, spoil_text(random, text), NESTED.encode(), b"[" * 5000))
        if content == NESTED.encode() and random.random() < 0.5:
            content += b"options: {x: *a39}\n"
        if random.random() < 0.5:
            path.write_bytes(content)
            return ["train", f"--config={path}", f"--out={out / 'run'}", "--workers=0", "--devices=1"]
        run = self._copy(out)
        (run / "config.yaml").write_bytes(content)
        return [*EVALUATE, str(run)] if random.random() < 0.5 else ["report", str(run), f"--out={out / 'r.html'}"]

    def grid(self, random: Random, root: Path, out: Path) -> list[str]:
        """A damaged grid of a benchmark."""
        data = folder_set(root / "img")
        grid: dict[str, Any] = {
            "train": {"image_size": 8, "epochs": 1, "model": None},
            "recipes": {"standard": {"method": "standard"}, "pgd": {"method": "pgd", "eps": ["2/255", "4/255"]}},
            "models": ["test_resnet"],
            "data": [f"folder:{data}"],
            "folds": ["1/5", "2/5"],
            "seeds": [0, 1],
            "evaluate": {"eps": "2/255"},
        }
        del grid["train"]["model"]
        text = spoil_json(random, grid)
        path = root / random.choice(("grid.yaml", random.choice(NAMES)))
        content = text.encode() if random.random() < 0.7 else spoil_text(random, text)
        path.write_bytes(random.choice((content,) * 9 + (NESTED.encode(),)))
        return ["benchmark", "--dry-run", str(path), f"--out={out / 'bench'}"]

    def _weights(self, random: Random, crater: Path) -> bytes:
        """Weights that are damaged, of another shape or kind, or would run code."""
        good = torch.load(self.base / "one/checkpoints/best.ckpt", weights_only=True)
        state = OrderedDict(
            (key.removeprefix("model.network."), value)
            for key, value in good["state_dict"].items()
            if key.startswith("model.network.")
        )
        key = random.choice(list(state))
        value = state[key]
        odd: list[Any] = [
            value[..., None],
            value.to_sparse() if value.ndim else value.bool(),
            value * torch.nan,
            value.to(torch.complex64),
            torch.zeros(1, 1).expand(10**9, 10**9),
            torch.zeros(0),
            value.to("meta"),
            "text",
            None,
        ]
        way = random.random()
        if way < 0.2:
            return trap(crater, random.randrange(0, 6))
        if way < 0.45:
            state[key] = random.choice(odd)
        elif way < 0.5:
            state[random.choice((5, None, "x" * 5000, "\x1b[31m", "[/b]"))] = state.pop(key)
        elif way < 0.55:
            del state[key]
        buffer = io.BytesIO()
        kept: Any = random.choice((state, {"state_dict": state}, [state], {"state_dict": good}, good))
        torch.save(kept, buffer, _use_new_zipfile_serialization=random.random() < 0.7)
        content = buffer.getvalue()
        return spoil(random, content) if way > 0.55 else content

    def weights(self, random: Random, root: Path, out: Path) -> list[str]:
        """Weights from elsewhere, to be evaluated or to start from."""
        path = root / random.choice(("w.pth", "w.pth", "w.safetensors", "w.ckpt"))
        path.write_bytes(self._weights(random, root / "crater"))
        if random.random() < 0.2:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
                file.writestr("archive/data.pkl", trap(root / "crater"))
                file.writestr("archive/version", "3\n")
        data = folder_set(root / "img")
        if random.random() < 0.5:
            return [*TRAIN, f"--weights={path}", f"--data=folder:{data}", f"--out={out / 'run'}"]
        return [*EVALUATE, *MODEL, f"--weights={path}", f"--data=folder:{data}", f"--out={out / 'results'}"]

    def checkpoint(self, random: Random, root: Path, out: Path) -> list[str]:
        """A damaged or foreign checkpoint in a run folder."""
        run = self._copy(out)
        command = random.choice(("evaluate", "predict", "resume"))
        path = run / "checkpoints" / ("last.ckpt" if command == "resume" else "best.ckpt")
        good = path.read_bytes()
        path.write_bytes(spoil(random, good) if random.random() < 0.6 else self._weights(random, root / "crater"))
        if command == "resume":
            info = json.loads((run / "run.json").read_text()) | {"status": "stopped"}
            (run / "run.json").write_text(json.dumps(info))
            return ["train", "--resume", f"--out={run}"]
        if command == "predict":
            data = folder_set(root / "img")
            return ["predict", "--device=cpu", str(run), str(data / "a"), f"--out={out / 'p.csv'}"]
        return [*EVALUATE, str(run)]

    def folder(self, random: Random, root: Path, out: Path) -> list[str]:
        """A run folder with a damaged or missing file."""
        run = self._copy(out)
        path = random.choice([path for path in sorted(run.rglob("*")) if path.is_file() and path.suffix != ".ckpt"])
        way = random.random()
        if way < 0.1:
            path.unlink()
        elif way < 0.15:
            path.unlink()
            path.mkdir()
        elif path.suffix == ".json" and way < 0.8:
            path.write_text(spoil_json(random, json.loads(path.read_text())))
        elif path.suffix in (".csv", ".yaml", ".json"):
            path.write_bytes(spoil_text(random, path.read_text()))
        else:
            path.write_bytes(spoil(random, path.read_bytes()))
        return self._read(random, run, out)

    def evaluation(self, random: Random, root: Path, out: Path) -> list[str]:
        """An `evaluation.json` or `run.json` with a wrong value deep inside."""
        run = self._copy(out)
        path = run / random.choice(("evaluation.json", "evaluation.json", "run.json"))
        text = path.read_text()
        for _ in range(random.choice((1, 1, 3))):
            text = spoil_json(random, json.loads(text))
        path.write_text(text)
        return self._read(random, run, out)

    def _read(self, random: Random, run: Path, out: Path) -> list[str]:
        command = random.choice(("report", "report", "compare", "compare", "evaluate"))
        if command == "evaluate":
            return [*EVALUATE, str(run)]
        if command == "report":
            return ["report", str(run), str(self.base / "two"), f"--out={out / 'r.html'}"]
        runs = [str(run), str(self.base / "two")]
        return ["compare", *(runs if random.random() < 0.5 else runs[::-1]), f"--out={out / 'c.json'}"]

    def labels(self, random: Random, root: Path, out: Path) -> list[str]:
        """A run evaluated on data with classes that are new, missing or named otherwise."""
        names = tuple(random.sample(["a", "b", "c", *NAMES], random.choice((1, 2, 3))))
        data = folder_set(root / "img", names)
        return [*EVALUATE, str(self._copy(out)), f"--data=folder:{data}", f"--split={random.choice(('all', 'test'))}"]

    def picture(self, random: Random, root: Path, out: Path) -> list[str]:
        """An odd image, path or output name for `predict`."""
        path = root / f"{random.choice(NAMES)[:200]}.png"
        path.write_bytes(odd_picture(random))
        image = str(path) if random.random() < 0.8 else random.choice(TEXTS).replace("\0", "0")
        name = "p.csv" if random.random() < 0.7 else random.choice(TEXTS).replace("\0", "0").replace("/", "_")
        return ["predict", "--device=cpu", str(self.base / "one"), image, f"--out={out / name}"]
