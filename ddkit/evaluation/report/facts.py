"""Which facts about a run does its report state: what was distilled, its size, cost, commands and caveats."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ddkit import methods
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import DDKitError
from ddkit.evaluation.report import formats
from ddkit.evaluation.report.accuracy import AccuracyRow
from ddkit.evaluation.report.runs import RunContent
from ddkit.methods.base import Method

_NAMES = {
    "mnist": "MNIST",
    "fashionmnist": "FashionMNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "svhn": "SVHN",
    "convnet": "ConvNet",
    "mlp": "MLP",
    "lenet": "LeNet",
    "alexnet": "AlexNet",
    "vgg11": "VGG-11",
    "resnet10": "ResNet-10",
    "resnet18": "ResNet-18",
    "resnet18_ap": "ResNet-18 AP",
    "resnet152": "ResNet-152",
    "densenet121": "DenseNet-121",
    "frepo": "FRePo",
    "haba": "HaBa",
    "itgan": "IT-GAN",
    "rtp": "RTP",
    "kcenter": "k-center",
    "kmeans": "k-means",
    "dream": "DREAM",
    "tesla": "TESLA",
    "cafe": "CAFE",
    "sldd": "SLDD",
    "rfad": "RFAD",
    "m3d": "M3D",
    "ncfm": "NCFM",
    "fast-dance": "Fast DANCE",
    "fast-kfs": "Fast KFS",
    "fast-dm": "Fast DM",
}
_ABBREVIATIONS = {"dd", "dc", "dsa", "dcc", "dm", "idm", "idc", "mtt", "ftd", "kip", "kfs", "gtn", "ld", "ld-or2"}
_LABEL_NOTES = {
    "hard": "Labels are hard: one class per image.",
    "soft": "Labels are soft: every image stores one probability per class, counted in the bytes. "
    "Compare with real images that carry the same labels (baseline random-soft) before crediting the images.",
    "regression": "Labels are regression targets, one number per class and image, counted in the bytes. "
    "They suit the recipe stored in the artifact.",
}


def display_name(name: str) -> str:
    """Write the name of a method, dataset or architecture as papers do.

    ``cifar10`` is CIFAR-10, ``convnet(depth=3,width=128)`` is ConvNet (depth 3, width 128), ``kip (kernel)`` is KIP
    (kernel).
    """
    judged = re.fullmatch(r"([\w-]+) (\([\w ]+\))", name)
    if judged:
        return f"{display_name(judged[1])} {judged[2]}"
    with_options = re.fullmatch(r"(\w+)\(([\w=,.\- ]+)\)", name)
    if with_options:
        options = with_options[2].replace("=", " ").replace(",", ", ")
        return f"{display_name(with_options[1])} ({options})"
    key = name.casefold()
    return key.upper() if key in _ABBREVIATIONS else _NAMES.get(key, name)


def paper(run: RunContent) -> str | None:
    """Return the method's paper and where it is, without an address scheme: the page must hold no link."""
    text = run.find("paper")
    if not text:
        method = _registered(run.method)
        text = ", ".join(part for part in (method.title, method.paper, method.url) if part) if method else None
    return re.sub(r"\b\w+://", "", str(text)) if text else None


def _registered(name: str) -> Method | None:
    """Return the preset of a method; None for one that is not installed here."""
    try:
        return methods.get(name)
    except DDKitError:
        return None


def subtitle(run: RunContent) -> str:
    """Say in one sentence what replaces what."""
    if run.distilled is None:
        return "This run has not written a distilled set yet."
    images = run.distilled.budget.decoded_images
    share = f", {run.distilled.ipc} per class" if run.distilled.ipc else ""
    text = f"{formats.count(images)} training image{'s' if images != 1 else ''}{share}"
    real = run.real_count
    return f"{text}, in place of {formats.count(real)}." if real else f"{text}."


def state_notice(run: RunContent) -> str | None:
    """Return a sentence about a run that did not take all its steps; None for one that did."""
    logged = f" {formats.count(run.steps)} outer steps are logged." if run.steps else ""
    if run.distilled is None:
        return f"This run is not finished.{logged} Continue it with"
    state = str(run.info.get("state") or "finished")
    if state == "finished":
        return None
    return f"{state[0].upper()}{state[1:]}." + (f" It took {formats.count(run.steps)} steps." if run.steps else "")


def key_figures(run: RunContent, rows: Sequence[AccuracyRow]) -> list[tuple[str, str, str]]:
    """Return the figures at the head of the page as (name, value, detail)."""
    figures: list[tuple[str, str, str]] = []
    own = next((row for row in rows if row.distilled), None)
    if own is not None:
        spread = f"± {formats.percent(own.std)}, " if own.repeats > 1 else ""
        detail = f"{spread}{display_name(own.architecture)}"
        whole = next((r for r in rows if r.label == "whole" and r.architecture == own.architecture), None)
        if whole is not None:
            detail += f"; whole set {formats.percent(whole.mean)}"
        figures.append(("Test accuracy", f"{formats.percent(own.mean)}{formats.NBSP}%", detail))
    if run.distilled is not None:
        budget = run.distilled.budget
        real, real_bytes = run.real_count, run.real_bytes
        if budget.decoded_images == budget.images:
            fewer = f"1 for every {formats.count(_per(real, budget.images))} real ones" if real else "stored"
            figures.append(("Images", formats.count(budget.images), fewer))
        else:
            decoded = f"in a budget of {formats.count(budget.images)} images"
            figures.append(("Decoded images", formats.count(budget.decoded_images), decoded))
        smaller = f"{formats.ratio(_per(real_bytes, budget.payload))} smaller" if real_bytes else "stored"
        figures.append(("Size", formats.size(budget.payload), smaller))
    if run.privacy is not None:
        terms = f"delta {run.privacy['delta']}, {run.privacy['adjacency']}"
        figures.append(("Epsilon", run.privacy["epsilon"] if run.privacy.private else "not private", terms))
    if run.seconds is not None:
        steps = f"{formats.count(run.steps)} outer steps" if run.steps else "selection, no training"
        figures.append(("Distillation time", formats.duration(run.seconds), steps))
    return figures


def identity(run: RunContent) -> list[tuple[str, str]]:
    """Return what was distilled, and how, as (name, value)."""
    source = run.source
    split, real = source.get("split"), run.real_count
    data = display_name(str(source.get("name", "unknown")))
    data += f", {split} split" if split else ""
    data += f", {formats.count(real)} images" if real else ""
    distilled = run.distilled
    shape = " × ".join(str(edge) for edge in distilled.shape) if distilled is not None else None
    preset = _registered(run.method)
    values = {
        "Method": display_name(run.method) + (f", {preset.family}" if preset else ""),
        "Paper": paper(run),
        "Real data": data,
        "Fingerprint": _short(source.get("fingerprint")),
        "Images per class": run.ipc if run.ipc is not None else "unequal" if distilled is not None else None,
        "Classes": distilled.num_classes if distilled is not None else None,
        "Image shape": f"{shape} (channels × height × width)" if shape else None,
        "Labels": distilled.label_kind if distilled is not None else None,
        "Synthesis": distilled.synthesis if distilled is not None else None,
        "Outer steps": formats.count(run.steps) if run.steps is not None else None,
        "Seed": run.find("seed"),
    }
    return [(name, str(value)) for name, value in values.items() if value is not None]


def cost(run: RunContent) -> list[tuple[str, str]]:
    """Return stored size and computing cost as (name, value); what was not measured is left out."""
    values: dict[str, str | None] = {}
    real_bytes, steps, seconds = run.real_bytes, run.steps, run.seconds
    if run.distilled is not None:
        budget = run.distilled.budget
        values["Distilled set"] = f"{formats.size(budget.payload)} ({formats.count(budget.floats)} stored numbers)"
        values["Codec"] = None if run.distilled.coding is None else run.distilled.coding.codec
        values["File"] = None if budget.file is None else f"{formats.size(budget.file)}, card and all"
        values["Kept"] = run.distilled.card.selection if run.distilled.card.promise is not None else None
        shared = _decoder_numbers(run.distilled)
        if shared:
            values["Decoder"] = f"{formats.count(shared)} of these numbers, shared by all images"
        if budget.decoded_images != budget.images:
            values["Decoded images"] = (
                f"{formats.count(budget.decoded_images)} from a budget of {formats.count(budget.images)}"
            )
        if real_bytes:
            values["Real data"] = f"{formats.size(real_bytes)} (8-bit pixels, labels in the order of the classes)"
            values["Compression"] = formats.ratio(_per(real_bytes, budget.payload))
    values["Distillation"] = formats.duration(seconds) if seconds is not None else None
    logged = run.info.get("prepare_seconds")
    before = logged if formats.known(logged) else 0.0
    if before >= 1 and seconds is not None:
        values["Distillation"] = f"{formats.duration(seconds)}, {formats.duration(before)} before the first step"
    if steps and seconds and seconds > before:
        values["Speed"] = f"{formats.number(steps / (seconds - before))} steps per second"
    values["Experts"] = _experts(run.find("networks", default={}))
    if formats.known(run.info.get("peak_memory_bytes")):
        values["Peak memory"] = formats.size(run.info["peak_memory_bytes"])
    values["Hardware"] = _hardware(run.info.get("hardware"))
    values["Versions"] = _listed(run.info.get("versions")) or _listed({"ddkit": run.find("ddkit_version")})
    return [(name, value) for name, value in values.items() if value]


def _experts(networks: object) -> str | None:
    """Say how many experts were followed and how they were trained; None where there were none."""
    if not isinstance(networks, Mapping) or "experts" not in networks:
        return None
    settings = networks.get("settings")
    settings = settings if isinstance(settings, Mapping) else {}
    rate, rho, alpha = (formats.number(settings.get(name, 0)) for name in ("lr", "rho", "alpha"))
    flat = f", rho {rho}, alpha {alpha}" if settings.get("rho") else ""
    return (
        f"{networks['experts']}, epochs 0 to {networks.get('epochs')}, learning rate {rate}, "
        f"batches of {settings.get('batch_size')}{flat}; digest {_short(networks.get('digest'))}"
    )


def _decoder_numbers(distilled: DistilledDataset) -> int:
    """Return how many stored numbers belong to a generator or to decoders instead of single images."""
    return sum(
        tensor.numel()
        for name, tensor in distilled.stored.items()
        if name.startswith(("generator.", "first_", "second_", "encoder_", "decoder_")) or name in ("sigma", "mu")
    )


def commands(run: RunContent) -> list[tuple[str, str]]:
    """Return the exact commands behind the run as (what, command)."""
    evaluation = run.evaluation or {}
    found = {"Distil": run.find("command"), "Evaluate": evaluation.get("command")}
    return [(name, str(command)) for name, command in found.items() if command]


def _option(value: Any) -> str:
    """Write an option's value; a list without the commas that separate the options."""
    if isinstance(value, list):
        if len(value) > 4:
            return f"{_option(value[0])} to {_option(value[-1])} in {len(value)} steps"
        return " and ".join(map(_option, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


#: Fields of a recipe that a report names only where they differ from these defaults.
_FURTHER = {
    "optimiser": "sgd",
    "warmup": 0.0,
    "floor": 0.0,
    "runs": 1,
    "classes": None,
    "start": None,
    "head": "linear",
    "centred": False,
    "label_scale": 1.0,
}
#: Fields that say nothing where the steps of a recipe are given.
_IDLE_IN_GIVEN_STEPS = {"epochs", "optimiser", "lr", "momentum", "weight_decay", "batch_size", "augmentation", "cutmix"}


def protocol(run: RunContent) -> str | None:
    """Describe the training recipe of the evaluation in one line."""
    used = [result["recipe"] for _, result in run.results if result.get("recipe")]
    recipe = used[0] if used else run.find("recipe")
    if not isinstance(recipe, Mapping):
        return None
    idle = {"name"} | {key for key, used in (("gamma", "milestones"), ("views", "views")) if not _used(recipe, used)}
    idle |= {key for key, default in _FURTHER.items() if recipe.get(key) == default}
    if recipe.get("schedule") == "given":
        idle |= _IDLE_IN_GIVEN_STEPS
    given = {key: value for key, value in recipe.items() if key not in idle and value not in ({}, [])}
    options = ", ".join(f"{key.replace('_', ' ')} {_option(value)}" for key, value in given.items())
    text = f"{recipe.get('name', 'custom')} ({options})" if options else str(recipe.get("name", "custom"))
    return "; ".join([text, *_other_recipes(run, recipe)])


def _used(recipe: Mapping[str, Any], key: str) -> bool:
    """Whether a field of a recipe says more than its default."""
    return recipe.get(key) not in (None, (), [], 1)


def _other_recipes(run: RunContent, recipe: Mapping[str, Any]) -> list[str]:
    """Say, for every baseline that is trained otherwise than the distilled set, in what."""
    found = []
    for label, result in run.results:
        own = result.get("recipe")
        if not isinstance(own, Mapping):
            continue
        if label == "whole" or own.get("name") != recipe.get("name"):
            continue
        changed = [f"{key.replace('_', ' ')} {_option(own[key])}" for key in own if own[key] != recipe.get(key)]
        if changed:
            found.append(f"{display_name(label)} with {', '.join(changed)}")
    return list(dict.fromkeys(found))


def notes(run: RunContent) -> list[str]:
    """Return the sentences a reader needs to judge the figures."""
    found: list[str] = []
    selection = run.find("selection")
    if isinstance(selection, str):
        whose = "is the" if selection.startswith("moving average") else "is that of the"
        found.append(f"The distilled set {whose} {selection}.".replace("the the ", "the "))
    if run.distilled is not None:
        found.append(_LABEL_NOTES.get(run.distilled.label_kind, f"Label kind: {run.distilled.label_kind}."))
    learned = run.find("learned", default={})
    if isinstance(learned, Mapping) and learned:
        pairs = ", ".join(f"{key.replace('_', ' ')} {_learned(value)}" for key, value in learned.items())
        found.append(f"Learned with the images: {pairs}.")
    extra = run.find("notes", default=[])
    found.extend([str(note) for note in extra] if isinstance(extra, list) else [str(extra)])
    found.extend(_evaluation_notes(run))
    return [note for note in dict.fromkeys(found) if note]


def _learned(value: Any) -> str:
    if isinstance(value, list) and value:
        return f"{formats.number(value[0])} to {formats.number(value[-1])} in {len(value)} steps"
    return formats.number(value)


def _evaluation_notes(run: RunContent) -> list[str]:
    """Return the notes of the evaluation once each, naming the training sets unless all share one."""
    labels: dict[str, list[str]] = {}
    for label, result in run.results:
        if result.get("note"):
            labels.setdefault(str(result["note"]), []).append(display_name(label))
    return [
        f"Evaluation: {note}"
        if len(names) == len(run.results)
        else f"Evaluation of {', '.join(dict.fromkeys(names))}: {note}"
        for note, names in labels.items()
    ]


def _per(amount: float, unit: float | None) -> float | None:
    """Divide; None when there is nothing to divide by."""
    return amount / unit if unit else None


def _short(fingerprint: object) -> str | None:
    return f"{str(fingerprint)[:16]}…" if fingerprint else None


def _hardware(hardware: object) -> str | None:
    """Write processor, threads and device on one line."""
    if not isinstance(hardware, Mapping):
        return str(hardware) if hardware else None
    values = dict(hardware)
    threads = values.pop("threads", None)
    parts = list(dict.fromkeys(str(value) for value in values.values() if value))
    return ", ".join(parts + ([f"{threads} thread{'s' if threads != 1 else ''}"] if threads else [])) or None


def _listed(values: object) -> str | None:
    if not isinstance(values, Mapping):
        return None
    return ", ".join(f"{name} {value}" for name, value in values.items() if value) or None
