"""The same images in other files and tables, and what an evaluation was about."""

import csv
from pathlib import Path

import pandas as pd
from PIL import Image

QUICK = {"attacks": ["fgsm"], "eps": [1 / 255], "device": "cpu", "progress": False}


def as_csv(images: Path, path: Path, suffix: str = ".png", **columns: dict[str, str]) -> str:
    """List images under names of their own, in a folder of their own, and as other files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, file in enumerate(sorted(images.rglob("*.png"), reverse=True)):
        Image.open(file).save(path.parent / f"x{number}{suffix}")
        own = file.relative_to(images).as_posix()
        more = {name: of.get(own, f"alone{number}") for name, of in columns.items()}
        rows.append({"path": f"x{number}{suffix}", "label": file.parent.name, "was": own} | more)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return f"csv:{path}"


def evaluated(run: Path, document: dict) -> tuple[dict, set[str]]:
    """The result on clean images of the latest data, and the ids that it is about."""
    (entry,) = [e for e in document["results"] if e["attack"] == "clean"]
    return entry, set(pd.read_parquet(run / "predictions.parquet" / entry["predictions"])["id"])
