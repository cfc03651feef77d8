"""How do new images and what is stored become the memory's next state?"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from ddkit.integrations.continual.distributed import on_first_rank
from ddkit.integrations.continual.incoming import Arrival
from ddkit.integrations.continual.keys import Key, words_of
from ddkit.integrations.continual.model import untouched_random_state
from ddkit.integrations.continual.parts import Facts, Made, Material, Part, real_parts
from ddkit.integrations.continual.state import dump, restore


def material_of(
    arrival: Arrival, touched: Sequence[Part], seen: Counter[Key], facts: Mapping[Key, Facts], name: str, task: int
) -> Material:
    """Return what has arrived of a task with what is stored of the same classes.

    A stored image of a class that is seen again counts as many times as there are real images behind each stored one,
    so that old and new ones weigh by how many real images they stand for. Classes that share a part with those that
    have arrived, because of its decoder, come along with their stored images alone.

    Args:
        arrival: new images of the task.
        touched: stored parts of their classes.
        seen: how many real images the new ones stand for, by class.
        facts: of the stored classes.
        name: of the data.
        task: its label.
    """
    images, labels = [arrival.images], [arrival.labels]
    copies = [torch.ones(len(arrival.labels), dtype=torch.int64)]
    for part in touched:
        for label in part.holds:
            stored, key = part.images_of(label), (task, label)
            each = 1
            if key in seen:
                new = int((arrival.labels == label).sum()) / seen[key]  # a window keeps a share of what it has seen
                each = max(1, round(new * facts[key].seen / len(stored)))
            images.append(stored)
            labels.append(torch.full((len(stored),), label))
            copies.append(torch.full((len(stored),), each))
    classes, places = torch.cat(labels).unique(return_inverse=True)
    return Material(tuple(classes.tolist()), torch.cat(images), places, torch.cat(copies), name, task)


def waiting_parts(waiting: Arrival, name: str) -> list[Part]:
    """Return real images that wait to be distilled as parts, one a class."""
    parts = []
    for task, arrival in waiting.by_task():
        material = material_of(arrival, [], Counter(), {}, name, task)
        for place, part in enumerate(real_parts(material, torch.arange(len(material.labels)))):
            logits = None if arrival.logits is None else arrival.logits[material.labels == place]
            parts.append(replace(part, logits=logits))
    return parts


def facts_after(facts: Mapping[Key, Facts], arrival: Arrival, seen: Counter[Key], update: int) -> dict[Key, Facts]:
    """Return the facts of all classes once ``arrival`` has been counted."""
    result = dict(facts)
    for key, count in seen.items():
        before = facts.get(key)
        result[key] = Facts(
            seen=count + (before.seen if before else 0),
            experiences=[*(before.experiences if before else []), update],
            how="kept",
            task=key[0],
            clipped=round(arrival.clipped, 6),
        )
    return result


def noted(facts: Mapping[Key, Facts], made: Sequence[Made]) -> dict[Key, Facts]:
    """Return ``facts`` with how each class of ``made`` came about."""
    result = dict(facts)
    for one in made:
        for key in one.part.keys:
            changes = {"how": one.how, "seconds": round(one.seconds, 3), "steps": one.steps}
            result[key] = facts[key].model_copy(update=changes)
    return result


def split_few(material: Material, quota: int) -> tuple[list[Made], Material | None]:
    """Keep classes with no more images than their quota as they are; return these and the others' material."""
    small = [label for label, count in zip(material.classes, material.counts.tolist(), strict=True) if count <= quota]
    others = [label for label in material.classes if label not in small]
    few: list[Made] = []
    if small:
        part = material.of(small)
        few = [Made(one, "kept") for one in real_parts(part, torch.arange(len(part.labels)))]
    return few, material.of(others) if others else None


def warn_of_few(made: Sequence[Made], quota: int) -> None:
    """Say which classes leave a share of the memory unused."""
    short = [one.part for one in made if one.how == "kept" and len(one.part.distilled) < quota]
    if short:
        classes = ", ".join(words_of(part.keys[0]) for part in short)
        warnings.warn(
            f"{classes} has fewer images than its share of {quota}: all of them are kept, the rest of the share "
            f"stays unused",
            stacklevel=2,
        )


def made_everywhere(make: Callable[[], list[Made]]) -> list[Made]:
    """Return what ``make`` makes, on the first process for all of them, the global random state untouched."""

    def raw() -> bytes:
        with untouched_random_state():
            made = make()
        facts = {
            key: Facts(seen=0, experiences=[], how=one.how, seconds=one.seconds, steps=one.steps, task=key[0])
            for one in made
            for key in one.part.keys
        }
        return dump([one.part for one in made], facts)

    content, parts, _ = restore(on_first_rank(raw))
    facts = content.facts_by_class()
    first = [facts[part.keys[0]] for part in parts]
    return [Made(part, one.how, one.seconds, one.steps) for part, one in zip(parts, first, strict=True)]
