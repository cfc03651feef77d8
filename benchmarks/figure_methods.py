"""One picture of what every method distilled: a row a method, a column a class.

    python benchmarks/figure_methods.py --out docs/images/methods-mnist-ipc1.png RUNS...

RUNS are folders written by ``benchmarks/accuracy.py`` (``runs/accuracy/METHOD-mnist-1``). Of every class the first
decoded image is shown; of methods that decode an image into several, the first two rows of a run hold two of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ddkit.artifact import DistilledDataset

SCALE, MARGIN, NAME = 2, 4, 110


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for run in arguments.runs:
        distilled = DistilledDataset.load(run / "distilled.safetensors")
        several = distilled.budget.decoded_images > distilled.budget.images
        rows += [
            (run.name.rsplit("-", 2)[0], first_of_class(distilled, number)) for number in range(2 if several else 1)
        ]
    draw(rows, rows[0][1].shape[-1] * SCALE).save(arguments.out, format="PNG", optimize=True)


def first_of_class(distilled: DistilledDataset, number: int) -> Tensor:
    """Return image ``number`` of every class on the [0, 1] scale, (K, C, H, W)."""
    labels = distilled.hard_labels()
    chosen = [int((labels == c).nonzero()[number]) for c in range(distilled.num_classes)]
    return distilled.viewable()[chosen]


def draw(rows: list[tuple[str, Tensor]], side: int) -> Image.Image:
    """Lay the rows out with the names of their methods on the left."""
    classes = len(rows[0][1])
    page = Image.new("RGB", (NAME + classes * (side + MARGIN), len(rows) * (side + MARGIN) + MARGIN), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=16)
    shown = ""
    for line, (name, images) in enumerate(rows):
        top = MARGIN + line * (side + MARGIN)
        if name != shown:
            pen.text((6, top + side // 2 - 10), name, fill="black", font=font)
        shown = name
        for column, image in enumerate(images):
            pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
            picture = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
            page.paste(picture.resize((side, side), Image.Resampling.NEAREST), (NAME + column * (side + MARGIN), top))
    return page


if __name__ == "__main__":
    main()
