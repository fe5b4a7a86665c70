"""Draw every corruption of one synthetic image at every severity.

python benchmarks/corruption_sheet.py [--out docs/figures/corruptions.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dpaat.data.synthetic import render
from dpaat.data.synthetic_labels import SIZE
from dpaat.evaluation.corruption_images import CORRUPTIONS
from dpaat.evaluation.corruptions import SEVERITIES, corrupt

LESION = (1, 1, 0)  # class, lesion, view
GAP, MARGIN, HEADER = 4, 96, 22


def sheet() -> Image.Image:
    """One row per corruption: the image, then severities 1 to 5."""
    image = render(*LESION)[0].transpose(2, 0, 1)[None]
    step = SIZE + GAP
    page = Image.new("RGB", (MARGIN + step * (1 + len(SEVERITIES)), HEADER + step * len(CORRUPTIONS)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for column, heading in enumerate(("clean", *map(str, SEVERITIES))):
        pen.text((MARGIN + step * column + SIZE // 2, HEADER // 2), heading, "black", font, anchor="mm")
    for row, name in enumerate(CORRUPTIONS):
        top = HEADER + step * row
        pen.text((MARGIN - 2 * GAP, top + SIZE // 2), name, "black", font, anchor="rm")
        cells = [image, *(corrupt(image, name, severity, seed=0, ids=["sheet"]) for severity in SEVERITIES)]
        for column, cell in enumerate(cells):
            pixels = np.ascontiguousarray(cell[0].transpose(1, 2, 0))
            page.paste(Image.fromarray(pixels), (MARGIN + step * column, top))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw every corruption of one synthetic image at every severity.")
    parser.add_argument("--out", type=Path, default=Path("docs/figures/corruptions.png"))
    out: Path = parser.parse_args().out
    sheet().save(out, optimize=True)


if __name__ == "__main__":
    main()
