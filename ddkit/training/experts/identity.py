"""For which network, data and settings are these experts?"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ddkit.base.container import canonical_json
from ddkit.base.documents import read_json_object
from ddkit.base.files import write_text
from ddkit.base.version import __version__
from ddkit.data.preprocessing import Preprocessing
from ddkit.data.real import RealData
from ddkit.errors import ArtifactError, ConfigError, DDKitError, shortened
from ddkit.training.experts.settings import ExpertSettings

FORMAT, FORMAT_VERSION = "ddkit.experts", 1
FILE_NAME = "buffer.json"
#: Values of a preprocessed probe image that are kept, and how far they may differ: whitening is fitted by an eigenvalue
#: decomposition whose rounding differs between machines, so its bits cannot be compared.
_PROBED, _TOLERANCE = 64, 1e-3


@dataclass(frozen=True)
class Identity:
    """What all experts of a buffer have in common: what ``buffer.json`` holds.

    Args:
        settings: how they are trained, the architecture included.
        shape: (C, H, W) of one image.
        num_classes: K.
        parameters: names and shapes, in the order of ``module.parameters()``.
        data: name, split, number of images and fingerprint of the real data.
        preprocessing: mean, std, whether images are whitened, and a probe: what becomes of a fixed image.
    """

    settings: ExpertSettings
    shape: tuple[int, int, int]
    num_classes: int
    parameters: tuple[tuple[str, tuple[int, ...]], ...]
    data: dict[str, Any]
    preprocessing: dict[str, Any]

    @classmethod
    def of(cls, real: RealData, settings: ExpertSettings) -> Identity:
        """Return the identity of experts of ``real``."""
        module = settings.spec.build(real.shape, real.num_classes, seed=0)
        data = {"name": real.name, "split": real.split, "count": len(real), "fingerprint": real.fingerprint}
        preprocessing = describe_preprocessing(real.preprocessing, real.shape)
        return cls(settings, real.shape, real.num_classes, parameter_shapes(module), data, preprocessing)

    @property
    def size(self) -> int:
        """P, the number of weights."""
        return sum(math.prod(shape) for _, shape in self.parameters)

    @property
    def digest(self) -> str:
        """SHA-256 of all of it, which every expert's file names."""
        return hashlib.sha256(canonical_json(self.as_dict()).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values."""
        values = {key: value for key, value in asdict(self).items() if key != "settings"}
        return {**json.loads(json.dumps(values)), "settings": self.settings.model_dump(mode="json")}

    @classmethod
    def read(cls, folder: Path) -> Identity:
        """Read ``buffer.json``.

        Raises:
            ArtifactError: it is missing, damaged or of a newer format.
        """
        path = folder / FILE_NAME
        if folder.exists() and not folder.is_dir():
            raise ArtifactError(
                f"'{folder}' is a file, not a folder of experts: give the folder that holds {FILE_NAME}"
            )
        try:
            content = read_json_object(path)
            version = content["format_version"]
            if content["format"] != FORMAT or type(version) is not int:
                raise ValueError(f"no '{FORMAT}'")
            if version > FORMAT_VERSION:
                raise ArtifactError(
                    f"'{path}' has format version {version}, newer than this ddkit reads ({FORMAT_VERSION}): upgrade "
                    f"with `pip install --upgrade ddkit`"
                )
            return cls._from(content["experts"])
        except FileNotFoundError:
            raise ArtifactError(
                f"'{folder}' holds no experts: there is no {FILE_NAME}; train some with `ddkit experts --out {folder}`"
            ) from None
        except ArtifactError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, DDKitError) as error:
            raise ArtifactError(
                f"'{path}' cannot be read ({shortened(str(error), 400)}): copy the folder again or train experts anew"
            ) from None

    @classmethod
    def _from(cls, values: dict[str, Any]) -> Identity:
        channels, height, width = (_length(n) for n in values["shape"])
        parameters = tuple((str(name), tuple(_length(n) for n in shape)) for name, shape in values["parameters"])
        settings = ExpertSettings(**values["settings"])
        data, preprocessing = dict(values["data"]), dict(values["preprocessing"])
        if not parameters or not all(isinstance(data[key], str) for key in ("name", "fingerprint")):
            raise ValueError("fields are missing")
        constants = [preprocessing[key] for key in ("mean", "std", "probe")]
        if not isinstance(preprocessing["zca"], bool) or not all(map(_are_numbers, constants)):
            raise ValueError("preprocessing is not lists of numbers")
        return cls(settings, (channels, height, width), _length(values["num_classes"]), parameters, data, preprocessing)

    def write(self, folder: Path) -> None:
        """Write ``buffer.json`` atomically, with the versions that made it."""
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "experts": self.as_dict(),
            "made_with": {"ddkit": __version__, "torch": str(torch.__version__)},
        }
        write_text(folder / FILE_NAME, json.dumps(content, indent=2) + "\n")

    def require_settings(self, other: ExpertSettings, where: str) -> None:
        """Refuse ``other`` settings than those of these experts.

        Raises:
            ConfigError: naming every setting that differs, with both values.
        """
        mine, theirs = self.settings.model_dump(), other.model_dump()
        differing = [f"{key}={mine[key]}, not {theirs[key]}" for key in mine if mine[key] != theirs[key]]
        if differing:
            raise ConfigError(
                f"{where} was made with {'; '.join(differing)}: give the same settings or choose another folder"
            )

    def require_network(self, model: str, shape: tuple[int, int, int], num_classes: int, module: nn.Module) -> None:
        """Refuse a network that is not the experts'.

        Raises:
            ConfigError: another architecture, image shape or number of classes; the message names both sides.
        """
        pairs = {
            "model": (self.settings.model, model),
            "image shape": (self.shape, shape),
            "number of classes": (self.num_classes, num_classes),
        }
        for name, (experts, here) in pairs.items():
            if experts != here:
                raise ConfigError(
                    f"the experts have {name} {experts}, this run has {here}: use a buffer of the same {name}, or set "
                    f"the run's to it"
                )
        if self.parameters != parameter_shapes(module):
            raise ConfigError(
                f"the experts' weights differ from those of '{model}' in names or shapes: they were trained with "
                f"another version of this architecture; train experts anew"
            )

    def require_data(self, real: RealData) -> None:
        """Refuse other real data than the experts were trained on.

        Raises:
            ConfigError: other images, labels or preprocessing; the message names both sides.
        """
        if self.data["fingerprint"] != real.fingerprint:
            raise ConfigError(
                f"the experts were trained on {self.data.get('count')} images of '{self.data['name']}' (fingerprint "
                f"{str(self.data['fingerprint'])[:12]}), this run has {len(real)} of '{real.name}' "
                f"({real.fingerprint[:12]}): images or labels differ; use the same data and held-out part, or experts "
                f"of these data"
            )
        here = describe_preprocessing(real.preprocessing, real.shape)
        if not _same_preprocessing(self.preprocessing, here):
            raise ConfigError(
                f"the experts saw images with {_in_words(self.preprocessing)}, this run has {_in_words(here)}: set "
                f"zca to that of the experts (null, pixels or standardised), or use experts of this one"
            )


def _length(value: Any) -> int:
    """Return a length, of which a network has at most 2^31 - 1."""
    if type(value) is not int or not 1 <= value < 2**31:
        raise ValueError(f"{shortened(repr(value), 40)} is no length")
    return value


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) in (int, float) and abs(value) < 1e30 for value in values)


def parameter_shapes(module: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return names and shapes of the weights, in the order of ``module.parameters()``."""
    return tuple((name, tuple(tensor.shape)) for name, tensor in module.named_parameters())


def describe_preprocessing(preprocessing: Preprocessing, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return what tells preprocessings apart: constants, and what becomes of a fixed image of noise."""
    noise = torch.randint(0, 256, (1, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    seen = preprocessing.apply(noise).flatten()
    chosen = torch.linspace(0, len(seen) - 1, min(_PROBED, len(seen))).long()
    return {**preprocessing.metadata(), "probe": [round(value, 4) for value in seen[chosen].tolist()]}


def _same_preprocessing(a: dict[str, Any], b: dict[str, Any]) -> bool:
    def close(x: list[float], y: list[float]) -> bool:
        near = (math.isclose(p, q, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE) for p, q in zip(x, y, strict=False))
        return len(x) == len(y) and all(near)

    return a["zca"] == b["zca"] and all(close(a[key], b[key]) for key in ("mean", "std", "probe"))


def _in_words(preprocessing: dict[str, Any]) -> str:
    mean, std = (", ".join(f"{value:.4f}" for value in preprocessing[key]) for key in ("mean", "std"))
    return f"mean {mean}, std {std}, {'zca' if preprocessing['zca'] else 'no zca'}"
