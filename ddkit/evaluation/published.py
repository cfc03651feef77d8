"""What the literature reports for a method, a dataset and a number of images per class.

``published.csv`` holds one row per figure: Tables 1-4 of "A Comprehensive Survey of Dataset Distillation"
(Lei & Tao 2023), with the cells that disagree with their original papers corrected:

- DC on MNIST at IPC 10 and on CIFAR-100, DSA on FashionMNIST at IPC 10: the authors' readme (the survey has a
  misprint and a repeated row); DC on CIFAR-100 at IPC 50 was never reported and has no row;
- DM on MNIST: the paper's figures (two of the survey's cells repeat Herding's row);
- TESLA on Tiny ImageNet: no rows (the survey repeats ImageNet-1K's, the paper has none);
- DCC on CIFAR-10 and CAFE: the survey's rows are those of the methods combined with DSA and named so here,
  beside the plain methods on CIFAR from their papers; KIP on SVHN at IPC 50: about 80.5 (misprint);
- cross-architecture cells that are copies of another method's (DSA on ResNet-18 at IPC 1 and 10 and on
  ResNet-152 at IPC 10, KIP on both at IPC 50): no rows.

IDM, M3D and NCFM, which the survey does not have, are rows of Table 1 of NCFM's paper (Wang et al. 2025): a stored
image is trained on as four, NCFM's under an evaluation of its own.

Most of these figures are the best epoch or step as judged on the test set; ddkit's are those of the last
step. DenseNet-121 is the growth-12 network of IDC, ResNet-10 its 32-to-256-wide one.
"""

from __future__ import annotations

import csv
import functools
import re
from dataclasses import asdict, dataclass
from importlib.resources import files

# Options that spell out the ConvNet of the tables; any other option makes another network.
_CONVNET_DEFAULTS = {"width=128", "norm=instance", "activation=relu", "pooling=avg", "depth=None"}

# Names of ddkit's methods that the tables write otherwise.
_ALIASES = {"dsac": "dccdsa"}


@dataclass(frozen=True)
class PublishedFigure:
    """One published test accuracy.

    Args:
        method: the method as the field writes it ("DM", "CAFE+DSA", "Random", "Whole").
        dataset: the dataset as the field writes it ("CIFAR-10").
        ipc: images per class; None for the whole training set.
        architecture: the evaluated network ("ConvNet", "ResNet-18").
        accuracy: test accuracy in percent.
        std: standard deviation in points; None where none is given.
        source: "paper", "authors' readme" or the survey's table.
    """

    method: str
    dataset: str
    ipc: int | None
    architecture: str
    accuracy: float
    std: float | None
    source: str

    def as_dict(self) -> dict[str, str | int | float | None]:
        """Return the fields by name, for JSON."""
        return asdict(self)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@functools.cache
def published_table() -> tuple[PublishedFigure, ...]:
    """Return every published figure, in the order of the file."""
    text = files("ddkit.evaluation").joinpath("published.csv").read_text(encoding="utf-8")
    return tuple(
        PublishedFigure(
            method=row["method"],
            dataset=row["dataset"],
            ipc=int(row["ipc"]) if row["ipc"] else None,
            architecture=row["architecture"],
            accuracy=float(row["accuracy"]),
            std=float(row["std"]) if row["std"] else None,
            source=row["source"],
        )
        for row in csv.DictReader(text.splitlines())
    )


def _published_architecture(architecture: str, dataset: str) -> str:
    """Reduce ``"convnet(depth=3,width=128)"`` to the plain name when it is the network of the tables."""
    name, _, options = architecture.partition("(")
    depth = {"tinyimagenet": 4}.get(_plain(dataset), 3)
    given = set(filter(None, options.rstrip(")").replace(" ", "").split(",")))
    if _plain(name) == "convnet" and given <= _CONVNET_DEFAULTS | {f"depth={depth}"}:
        return "convnet"
    return _plain(architecture)


def published(method: str, dataset: str, ipc: int | None, architecture: str = "ConvNet") -> PublishedFigure | None:
    """Look a figure up; spelling of names (case, hyphens) does not matter.

    Args:
        method: name of the method; "random", "herding" and "whole" are rows too.
        dataset: name of the dataset ("cifar10" and "CIFAR-10" are the same).
        ipc: images per class; ignored for "whole".
        architecture: name or canonical text of the network ("resnet18", "convnet(depth=3,width=128)").

    Returns:
        The figure, or None when nobody published that cell.
    """
    name = _plain(method)
    wanted = (_ALIASES.get(name, name), _plain(dataset), _published_architecture(architecture, dataset))
    for row in published_table():
        same = (_plain(row.method), _plain(row.dataset), _plain(row.architecture)) == wanted
        if same and row.ipc == (None if wanted[0] == "whole" else ipc):
            return row
    return None
