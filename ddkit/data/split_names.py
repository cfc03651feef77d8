"""Which names of folders, files and arrays mean a split, in any case and form: Training, seg_test, val2017."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ddkit.errors import DataError

_WORDS = {
    "train": ("train", "training", "trn", "trainval"),
    "test": ("test", "testing", "tst"),
    "validation": ("val", "valid", "validation", "vld"),
    "dev": ("dev",),
    "evaluation": ("eval", "evaluation"),
    "holdout": ("holdout", "heldout"),
}
# What some datasets keep beside their splits: more of the same, or images without labels.
_EXTRAS = ("extra", "unlabeled", "unlabelled", "unsupervised", "pred", "predict")
_FILLERS = (
    *("set", "sets", "data", "dataset", "split", "part", "folder", "dir", "files", "file", "of", "all", "full"),
    *("image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "sample", "samples"),
    *("x", "y", "label", "labels", "parquet", "png", "jpg", "jpeg"),
)
_MEANING = {word: group for group, words in _WORDS.items() for word in words}
_MEANING |= {
    fused: group for word, group in list(_MEANING.items()) for end in _FILLERS for fused in (word + end, end + word)
}


@dataclass(frozen=True)
class SplitName:
    """What a name says of a split.

    Args:
        group: "train", "test", "validation", "dev", "evaluation" or "holdout".
        certain: the name says nothing else; "seg_test" may as well be a class.
    """

    group: str
    certain: bool


def split_named(name: str) -> SplitName | None:
    """Return what ``name`` says of a split; None when it names none, or several."""
    tokens = _tokens(name)
    groups = {_MEANING[token] for token in tokens if token in _MEANING}
    if len(groups) != 1:
        return None
    return SplitName(groups.pop(), all(token in _MEANING or token in _FILLERS for token in tokens))


def extra_named(name: str) -> str | None:
    """Return the part beside the splits that ``name`` means, such as "extra"; None when it means none."""
    return next((token for token in _tokens(name) if token in _EXTRAS), None)


def _tokens(name: str) -> list[str]:
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name)).lower()
    return re.findall(r"[^\W\d_]+", re.sub(r"(hold|held)[^a-z]out", "holdout", text))


def splits_among(names: Iterable[str]) -> dict[str, str]:
    """Return, for those of sibling ``names`` that name a split, its group; empty when they are all something else.

    One name that says nothing but a split is enough, and so are a pair for training and testing or names that all
    name a split; a lone "test_tube" beside other names is taken for what it is.
    """
    found = {name: split for name in names if (split := split_named(name)) is not None}
    groups = {split.group for split in found.values()}
    sure = any(split.certain for split in found.values()) or {"train"} < groups
    return {name: split.group for name, split in found.items()} if sure or len(found) == len(list(names)) else {}


def is_division(names: list[str]) -> bool:
    """Return whether sibling ``names`` are certainly splits: training beside another one, or nothing but splits."""
    found = splits_among(names)
    return bool(found) and (len(found) == len(names) or {"train"} < set(found.values()))


def chosen_split(groups: Mapping[str, str], split: str, where: str) -> str | None:
    """Return the group that holds ``split`` of a divided set, and say so where its name is another.

    "test" is the official test split; without one, the only other split beside "train" stands in for it.

    Args:
        groups: for each group there is, the name of what holds it.
        split: what is asked for, in any form.
        where: the source, for messages.

    Raises:
        DataError: several splits could stand in for "test".
    """
    named = split_named(split)
    group = named.group if named else split
    others = {key: name for key, name in groups.items() if key in _WORDS and key != "train"}
    if group != "test" or not others:
        return group if group in groups else None
    if "test" in others:
        left = [name for key, name in others.items() if key != "test"]
        if left:
            warnings.warn(f"'{where}': '{others['test']}' is the test split; {_listed(left)} is left out", stacklevel=2)
        return "test"
    if len(others) > 1:
        raise DataError(f"'{where}' has {_listed(others.values())} but no test split: name one of them test")
    ((group, name),) = others.items()
    warnings.warn(f"'{where}' has no test split: '{name}' is taken for it", stacklevel=2)
    return group


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
