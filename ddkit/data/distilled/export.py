"""How is a distilled dataset handed to other tools: Parquet, a folder of PNGs, NumPy arrays, one picture?"""

from __future__ import annotations

import io
import json
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddkit.base.files import write_atomically, write_text
from ddkit.data.distilled.privacy import Statement, statement_of
from ddkit.data.preprocessing import Preprocessing
from ddkit.errors import CheckpointError, ConfigError, unknown_name

PARQUET_NAME = "train-00000-of-00001.parquet"
NPZ_NAME = "distilled.npz"
SHEET_NAME = "distilled.png"
_FILE_NAMES = {"parquet": (".parquet", PARQUET_NAME), "npz": (".npz", NPZ_NAME), "sheet": (".png", SHEET_NAME)}
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # names that Windows gives to devices


@dataclass(frozen=True)
class Exported:
    """What is exported of a distilled dataset.

    Args:
        images: (N, C, H, W) float32, preprocessed as networks take them.
        shown: (N, C, H, W) float32 without preprocessing, values beyond [0, 1] kept.
        at_rest: whether ``shown`` has no more than 8 bits a value.
        labels: (N,) int64 or (N, K) float32.
        classes: (N,) int64, the largest entry of each label.
        label_kind: ``hard``, ``soft`` or ``regression``.
        class_names: K names.
        preprocessing: of the real data.
        compact: synthesis and bytes of the compact form, in words; None where images are stored as they are.
        metadata: where the set came from.
    """

    images: Tensor
    shown: Tensor
    at_rest: bool
    labels: Tensor
    classes: Tensor
    label_kind: str
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    compact: str | None
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote and what it lost.

    Args:
        path: the file or folder written.
        files: number of files.
        lossy: one sentence about what the format could not keep; None when nothing was lost.
        clipped_fraction: part of the pixel values that lay outside [0, 1] and were clipped.
        privacy: the privacy statement of the set, which was written with it; None for a set that has none.
    """

    path: Path
    files: int
    lossy: str | None
    clipped_fraction: float
    privacy: str | None = None


def export(content: Exported, path: Path | str, format: str) -> ExportReport:
    """Write ``content`` to ``path`` in another ``format``.

    - ``parquet``: the Hugging Face image layout. Columns ``image`` (struct of PNG ``bytes`` and ``path``),
      ``label`` (ClassLabel) and, for labels that are not hard, ``soft_label`` (list of float). ``path`` is a
      ``.parquet`` file or a folder.
    - ``imagefolder``: PNGs named ``<class>/<number>.png``, which ``torchvision``'s ``ImageFolder`` reads.
    - ``npz``: ``images`` (float32, preprocessed), ``labels``, ``class_names``, ``label_kind``, ``mean``,
      ``std`` and the ZCA arrays if any; the decoded images exactly, read with ``allow_pickle=False``. ``path``
      is an ``.npz`` file or a folder.

    - ``sheet``: all images in one PNG to look at, a row a class. ``path`` is a ``.png`` file or a folder.

    The privacy statement of a set goes with it: as ``privacy.json`` and ``privacy.txt`` into the folder (named after a
    file that was named), inside of Parquet and npz files, and as a dataset card into a folder with Parquet.

    Raises:
        UnknownNameError: no such format.
        ConfigError: the target exists already, or the images have no PNG form.
        CheckpointError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    if format not in _WRITERS:
        raise unknown_name("export format", format, _WRITERS)
    path = Path(path)
    if path.is_dir():
        if any(path.iterdir()):
            raise ConfigError(f"folder '{path}' is not empty: choose a new folder or empty it first")
    elif path.exists() or path.is_symlink():
        raise ConfigError(f"'{path}' exists already: choose another name or remove it first")
    statement = statement_of(content.metadata)
    beside = _statement_files(statement, path, format)
    written: list[Path] = []
    try:  # the statement first, so that nothing lies there without it
        for place, text in beside.items():
            if not place.exists():
                written.append(place)
            write_text(place, text)
        report = _WRITERS[format](content, path)
    except BaseException:
        for place in written:
            place.unlink(missing_ok=True)
        raise
    return replace(report, files=report.files + len(beside), privacy=statement.quote if statement else None)


def _statement_files(statement: Statement | None, path: Path, format: str) -> dict[Path, str]:
    """Return what goes beside an exported file; a folder of images is written as a whole, the statement included."""
    if statement is None or format == "imagefolder":
        return {}
    target = _file_in(path, *_FILE_NAMES[format])
    if target == path:  # a name of the user's choice, in a folder that may hold other sets
        return {path.with_name(f"{path.stem}.{name}"): text for name, text in statement.files().items()}
    card = {"README.md": statement.card(PARQUET_NAME)} if format == "parquet" else {}
    return {path / name: text for name, text in {**statement.files(), **card}.items()}


def _pixels(content: Exported) -> tuple[Tensor, float, list[str]]:
    """Round the viewable images to uint8 ``(N, C, H, W)``; also the clipped part and what was lost."""
    channels = content.shown.shape[1]
    if channels not in (1, 3):
        raise ConfigError(f"images of {channels} channels have no PNG form (1 = grey, 3 = RGB): use format 'npz'")
    lost = []
    raw = content.shown
    clipped = float(((raw < 0) | (raw > 1)).double().mean())
    if not content.at_rest:
        lost.append(f"pixels were rounded to 8 bits, {clipped:.1%} of the values lay outside [0, 1] and were clipped")
    if content.preprocessing.zca_matrix is not None:
        lost.append("the whitening with which networks are trained on them is left out")
    return (raw.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8), clipped, lost + _left_behind(content)


def _left_behind(content: Exported) -> list[str]:
    """Say what no export holds: the compact form of decoded images, and what was learned for the training on them."""
    lost = []
    if content.compact is not None:
        lost.append(f"the compact form ({content.compact}) became {len(content.images):,} decoded images")
    learned = content.metadata.get("learned") or {}
    if learned:
        values = ", ".join(f"{name}={_short(value)}" for name, value in learned.items())
        lost.append(f"training settings that were learned with the images ({values}) stay in the artifact")
    return lost


def _short(value: Any) -> str:
    """Return a number, or the first and last of a list of numbers."""
    if isinstance(value, list) and value:
        return f"{value[0]:.4g} to {value[-1]:.4g} in {len(value)} steps"
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def _png(image: Tensor) -> bytes:
    """Encode one uint8 image ``(C, H, W)`` losslessly."""
    from PIL import Image

    array = image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).contiguous().numpy()
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format="PNG")
    return stream.getvalue()


def _to_parquet(content: Exported, path: Path) -> ExportReport:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pixels, clipped, lost = _pixels(content)
    path = _file_in(path, *_FILE_NAMES["parquet"])
    images = [{"bytes": _png(image), "path": f"{number:05d}.png"} for number, image in enumerate(pixels)]
    columns = {
        "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        "label": pa.array(content.classes.numpy(), pa.int64()),
    }
    names = _unique(list(content.class_names))
    features: dict[str, Any] = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    if content.label_kind != "hard":
        columns["soft_label"] = pa.array(content.labels.tolist(), pa.list_(pa.float32()))
        features["soft_label"] = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"}
    info: dict[str, Any] = {"features": features}
    metadata = {}
    statement = statement_of(content.metadata)
    if statement is not None:
        info["description"] = statement.quote
        metadata["privacy"] = json.dumps(dict(statement.content))
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": info}), **metadata})
    write_atomically(path, lambda temporary: pq.write_table(table, temporary))
    return ExportReport(path, 1, _sentence(lost), clipped)


def _to_npz(content: Exported, path: Path) -> ExportReport:
    arrays: dict[str, Any] = {
        "images": content.images.numpy(),
        "labels": content.labels.numpy(),
        "class_names": np.array(content.class_names),
        "label_kind": np.array(content.label_kind),
        "mean": np.array(content.preprocessing.mean, dtype=np.float64),
        "std": np.array(content.preprocessing.std, dtype=np.float64),
    }
    for name, tensor in content.preprocessing.to_tensors().items():
        arrays[name] = tensor.numpy()
    statement = statement_of(content.metadata)
    if statement is not None:
        arrays["privacy"] = np.array(json.dumps(dict(statement.content)))
    path = _file_in(path, *_FILE_NAMES["npz"])

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.savez(stream, **arrays)

    write_atomically(path, write)
    return ExportReport(path, 1, _sentence(_left_behind(content)), 0.0)


def _to_sheet(content: Exported, path: Path) -> ExportReport:
    pixels, clipped, lost = _pixels(content)
    lost.append("labels are the rows, from the first class to the last")
    channels, height, width = pixels.shape[1:]
    counts = content.classes.bincount(minlength=len(content.class_names)).tolist()
    sheet = torch.full((channels, len(counts) * (height + 1), max(counts) * (width + 1)), 255, dtype=torch.uint8)
    for row, count in enumerate(counts):
        mine = pixels[content.classes == row]
        for column in range(count):
            down, across = row * (height + 1), column * (width + 1)
            sheet[:, down : down + height, across : across + width] = mine[column]
    picture = _png(sheet[:, :-1, :-1])
    path = _file_in(path, *_FILE_NAMES["sheet"])
    write_atomically(path, lambda temporary: temporary.write_bytes(picture))
    return ExportReport(path, 1, _sentence(lost), clipped)


def _to_image_folder(content: Exported, path: Path) -> ExportReport:
    pixels, clipped, lost = _pixels(content)
    labels = content.classes.tolist()
    if content.label_kind != "hard":
        lost.append(f"{content.label_kind} labels were reduced to the class of their largest entry")
    if len(set(labels)) < len(content.class_names):
        lost.append("classes without images have no folder, so readers number the classes anew")
    names = folder_names(content.class_names)
    privacy = statement_of(content.metadata)
    statement = {} if privacy is None else privacy.files()
    created: list[Path] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"
        temporary.mkdir()  # with the rights that the user's umask leaves
        created.append(temporary)
        for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            folder = temporary / names[label]
            folder.mkdir(exist_ok=True)
            (folder / f"{number:05d}.png").write_bytes(_png(image))
        for name, text in statement.items():
            (temporary / name).write_text(text, encoding="utf-8")
        if path.is_dir():
            path.rmdir()
        temporary.rename(path)
    except OSError as error:
        raise CheckpointError(
            f"cannot write '{path}': {error.strerror or error}; free space or choose another folder, then repeat"
        ) from error
    finally:
        for folder in created:
            shutil.rmtree(folder, ignore_errors=True)
    return ExportReport(path, len(labels) + len(statement), _sentence(lost), clipped)


_WRITERS: dict[str, Callable[[Exported, Path], ExportReport]] = {
    "parquet": _to_parquet,
    "imagefolder": _to_image_folder,
    "npz": _to_npz,
    "sheet": _to_sheet,
}


def folder_names(class_names: tuple[str, ...]) -> list[str]:
    """Return one safe, distinct folder name a class whose alphabetical order is the order of the classes.

    Readers of image folders number the classes alphabetically; where the names alone would change the
    numbers, a zero-padded class number is put in front.
    """
    names = []
    for name in class_names:
        safe = re.sub(r"[^\w.\- ]", "_", name)[:80].strip(". ")
        names.append(f"_{safe}" if not safe or _RESERVED.fullmatch(safe) else safe)
    folded = [name.casefold() for name in names]  # some file systems do not tell upper case from lower
    if sorted(names) == names and len(set(folded)) == len(folded):
        return names
    digits = len(str(len(names) - 1))
    return [f"{number:0{digits}d}-{name}" for number, name in enumerate(names)]


def _unique(names: list[str]) -> list[str]:
    """Number repeated names: a Hugging Face ClassLabel refuses them."""
    if len(set(names)) == len(names):
        return names
    return [f"{number}: {name}" for number, name in enumerate(names)]


def _file_in(path: Path, suffix: str, name: str) -> Path:
    return path if path.suffix == suffix and not path.is_dir() else path / name


def _sentence(lost: list[str]) -> str | None:
    return "; ".join(lost) or None
