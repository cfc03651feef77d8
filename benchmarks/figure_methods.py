"""One picture of what every method distilled: a row a method, a column a class.

    python benchmarks/figure_methods.py --out docs/images/methods-digits-ipc1.png
    python benchmarks/figure_methods.py --out docs/images/methods-mnist-ipc1.png RUNS...

Without RUNS every method distils scikit-learn's digits, one image per class, with the few steps below (a few minutes).
RUNS are folders written by ``benchmarks/accuracy.py`` (``runs/accuracy/METHOD-mnist-1``). Of every class the first
decoded image is shown; of methods that decode an image into several, the first two rows of a run hold two of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ddkit import Distiller, data
from ddkit.data.distilled.dataset import DistilledDataset

SCALE, MARGIN, NAME = 2, 4, 110
#: Smallest side of a picture of one image.
SIDE = 40
GRADIENT = {"steps": 100, "objective": {"real_batch": 64}}
TRAJECTORY = {"steps": 150, "networks": {"count": 4}}
IDC = {"steps": 100, "networks": {"images": 200, "life": 25}, "optimiser": {"name": "adam", "lr": 0.02}}
DIGITS: dict[str, dict[str, Any]] = {
    "dc": GRADIENT,
    "dsa": GRADIENT,
    "dcc": {"steps": 100, "objective": {"real_batch": 64, "warmup_networks": 2}},
    "dsac": {"steps": 100, "objective": {"real_batch": 64, "warmup_networks": 2}},
    "idc-i": IDC,
    "idc": IDC,
    "dm": {"steps": 300, "objective": {"real_batch": 64}},
    "cafe-dsa": {"steps": 60, "objective": {"real_batch": 64}, "networks": {"query": 32}},
    "itgan": {"steps": 100, "objective": {"real_batch": 64}, "networks": {"name": "fresh"}},
    "kfs": {"steps": 200, "objective": {"real_batch": 64}},
    "mtt": TRAJECTORY,
    "tesla": TRAJECTORY,
    "ftd": {**TRAJECTORY, "ema": 0.97},
    "haba": TRAJECTORY,
    "dd": {"steps": 1000},
    "sldd": {"steps": 1000},
    "ld": {"steps": 1000},
    "gtn": {"steps": 150},
    "rtp": {"steps": 200},
    "kip": {"steps": 200},
    "rfad": {"steps": 80},
    "frepo": {"steps": 300},
}
#: Methods whose own network decides what can be learned.
OWN_NETWORK = ("dd", "sldd", "ld", "gtn", "rtp", "kip", "rfad", "frepo")


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    sets = [
        (run.name.rsplit("-", 2)[0], DistilledDataset.load(run / "distilled.safetensors")) for run in arguments.runs
    ]
    rows = []
    for name, distilled in sets or distil_digits():
        several = distilled.budget.decoded_images > distilled.budget.images
        rows += [(name, first_of_class(distilled, number)) for number in range(2 if several else 1)]
    draw(rows, max(SIDE, rows[0][1].shape[-1] * SCALE)).save(arguments.out, format="PNG", optimize=True)


def distil_digits() -> list[tuple[str, DistilledDataset]]:
    """Distil digits with every method of ``DIGITS``, one image per class."""
    train, _ = data.load_pair("digits")
    sets = []
    for name, options in DIGITS.items():
        network: dict[str, Any] = {} if name in OWN_NETWORK else {"model": "convnet:width=32,depth=2"}
        sets.append((name, Distiller(name, 1, **network, **options).fit(train)))
        print(name, flush=True)
    return sets


def first_of_class(distilled: DistilledDataset, number: int) -> Tensor:
    """Return image ``number`` of every class on the [0, 1] scale, (K, C, H, W)."""
    labels = distilled.started_as()
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
