"""Make the images that DPAAT was designed on: HAM10000 without the first fold of the benchmark.

    python benchmarks/development_set.py ham10000:DIR --out DEVELOPMENT

What is chosen is chosen by runs on these images alone, with lesion-grouped folds of their own, so that the first fold
of the headline benchmark is untouched by any choice. OUT is again a folder of HAM10000: its list of images is
shorter, the images themselves are linked to.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from dpaat.data import prepare
from dpaat.errors import UserError

HELD_OUT = "1/3"
"""The fold of `benchmarks/grids/ham10000-32px.yaml` that is left alone."""


def make_development_set(source: Path, out: Path, image_size: int = 32) -> tuple[int, int]:
    """Write the folder; returns how many images it lists, and how many are held out."""
    data = prepare(f"ham10000:{source}", image_size=image_size, seed=0, fold=HELD_OUT)
    held_out = set(data.table.ids[data.rows("test")].tolist())
    out.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        target = out / entry.name
        if entry.suffix == ".csv" and "metadata" in entry.name:
            frame = pd.read_csv(entry, dtype=str, keep_default_na=False)
            frame[~frame["image_id"].isin(held_out)].to_csv(target, index=False)
        elif not target.exists():
            target.symlink_to(entry.resolve())
    return len(data.table) - len(held_out), len(held_out)


def main() -> int:
    """Run the script; exit code 2 is a wrong argument."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="ham10000:DIR")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    arguments = parser.parse_args()
    try:
        kept, held_out = make_development_set(Path(arguments.data.removeprefix("ham10000:")), arguments.out)
    except (UserError, OSError) as error:
        print(f"development_set.py: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.out}: {kept} images to design on, {held_out} held out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
