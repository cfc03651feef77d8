"""CPU seconds of a step of the authors' programs beside those of ddkit, with the settings of these programs.

    git clone https://github.com/VICO-UoE/DatasetCondensation
    git clone https://github.com/GeorgeCazenavette/mtt-distillation
    git clone https://github.com/snu-mllab/Efficient-Dataset-Condensation
    python benchmarks/against_programs.py --programs . --out benchmarks/results/against-programs.json

The programs run as they are, on random images (a step costs the same on any), on one CPU thread, each in a process of
its own: data sets, loggers and CUDA calls, which they cannot do without, are replaced by the least that they need, and
every step begins with a call that is watched. ddkit takes the same step eagerly and as it does in a long run (compiled;
in bfloat16 where the machine is good at it). Programs and ddkit take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from torch.overrides import TorchFunctionMode

SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
CLASSES, PER_CLASS, EVALUATED = 10, 300, 20
#: Name: folder of the program, script, its arguments but data and images per class; what ddkit calls it and changes.
CASES: dict[str, tuple[str, str, str, str, dict[str, Any]]] = {
    "dm": ("DatasetCondensation", "main_DM.py", "--num_exp 1 --num_eval 0", "dm", {}),
    "dc": ("DatasetCondensation", "main.py", "--method DC --num_exp 1 --num_eval 0", "dc", {}),
    "dsa": (
        "DatasetCondensation",
        "main.py",
        "--method DSA --num_exp 1 --num_eval 0 --init real --dsa_strategy color_crop_cutout_flip_scale_rotate",
        "dsa",
        {},
    ),
    "mtt": (
        "mtt-distillation",
        "distill.py",
        "--num_eval 0 --syn_steps 20 --expert_epochs 2 --max_start_epoch 3 --lr_teacher 0.02 --pix_init real "
        "--eval_it 100000 --buffer_path buffers",
        "mtt",
        {"zca": None, "networks": {"count": 1, "epochs": 5, "batch_size": 256}}
        | {"objective": {"student_steps": 20, "expert_epochs": 2, "max_start_epoch": 3, "lr": 0.02}},
    ),
    "idc": (
        "Efficient-Dataset-Condensation",
        "condense.py",
        "--reproduce -f 2 --test --load_memory True --workers 0",
        "idc",
        {},
    ),
    "evaluation": ("DatasetCondensation", "", "", "", {}),
}
NAMES = {"mnist": "MNIST", "cifar10": "CIFAR10"}


class Done(BaseException):
    """Enough steps were taken."""


def main() -> None:
    """Run all cases, or one side of one in a child process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--data", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--side", choices=("program", "eager", "long"))
    given = parser.parse_args()
    if given.side:
        (case,), (data,) = given.cases, given.data
        torch.set_num_threads(1)
        measure = _program if given.side == "program" else _ddkit
        print(json.dumps(measure(given, case, data)))
        return
    for case in given.cases:
        for data in given.data:
            sides = {side: [_child(given, case, data, side) for _ in range(given.turns)] for side in _SIDES}
            row = {side: round(statistics.median(values), 4) for side, values in sides.items()}
            row |= {f"program / {side}": round(row["program"] / row[side], 2) for side in _SIDES[1:]}
            print(case, data, given.ipc, row, flush=True)
            if given.out:
                _keep(given.out, f"{case}/{data}/{given.ipc}", row)


_SIDES = ("program", "eager", "long")


def _keep(out: Path, key: str, row: dict[str, float]) -> None:
    from ddkit.engine.run import environment

    kept = json.loads(out.read_text()) if out.is_file() else {}
    kept[key] = {**row, "seconds": "CPU, of a step", **environment("cpu")}
    out.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def _child(given: argparse.Namespace, case: str, data: str, side: str) -> float:
    command = [sys.executable, __file__, "--programs", str(given.programs.resolve()), "--cases", case, "--data", data]
    command += ["--ipc", str(given.ipc), "--steps", str(given.steps), "--side", side]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return float(done.stdout.splitlines()[-1])


def _images(shape: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randint(0, 256, (CLASSES * PER_CLASS, *shape), generator=torch.Generator().manual_seed(0))
    return images.to(torch.uint8), torch.arange(CLASSES).repeat_interleave(PER_CLASS)


class AsWritten(TorchFunctionMode):
    """Runs programs that were written for CUDA and an older PyTorch on a CPU and this one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.cuda:
            return args[0]
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = "cpu"
        args = ["cpu" if isinstance(one, str) and one.startswith("cuda") else one for one in args]
        if func is torch.Tensor.view and not isinstance(args[1], torch.dtype):
            func = torch.Tensor.reshape  # strides on a CPU are others than on CUDA
        if func is torch.Tensor.__setitem__ and isinstance(args[2], torch.Tensor):
            args[2] = args[2].clone()
        return func(*args, **kwargs)


class Steps:
    """Notes the CPU seconds at the beginning of every step, and ends the program after enough of them."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.at: list[float] = []

    def watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.at.append(time.process_time())
            if len(self.at) > self.wanted + 1:  # the first one warms up
                raise Done
            return function(*args, **kwargs)

        return call

    @property
    def seconds(self) -> float:
        return (self.at[-1] - self.at[1]) / (len(self.at) - 2)


class Fake:
    """A torchvision data set of random images."""

    def __init__(self, shape: Sequence[int]) -> None:
        images, labels = _images(shape)
        self.images, self.targets, self.nclass = images / 255, labels.tolist(), CLASSES

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], self.targets[index]


def _program(given: argparse.Namespace, case: str, data: str) -> float:
    folder, script, options, *_ = CASES[case]
    arguments = options.split()
    root, shape = given.programs / folder, SHAPES[data]
    os.chdir(tempfile.mkdtemp())
    sys.path.insert(0, str(root))
    for name in ("wandb", "kornia", "efficientnet_pytorch"):
        sys.modules.setdefault(name, MagicMock())
    steps = Steps(given.steps)
    if case == "idc":
        import misc.utils
        import torchvision

        stamps = misc.utils.TimeStamp
        stamps.set = steps.watched(stamps.set)
        for name in ("MNIST", "CIFAR10"):
            setattr(torchvision.datasets, name, lambda *_, **options: Fake(shape))
        arguments = [*arguments, "-d", data, "-i", str(given.ipc), "--data_dir", "."]
    else:
        import utils

        if case == "evaluation":
            with AsWritten():
                return _evaluation(utils, shape, given.ipc)
        arguments = [*arguments, "--dataset", NAMES[data], "--ipc", str(given.ipc), "--data_path", "."]
        utils.get_dataset = lambda *_, **options: _as_the_programs_have_it(case, shape)
        if case == "mtt":
            _make_experts(utils, NAMES[data], shape)
            sys.modules["wandb"].init = lambda config, **_: setattr(  # type: ignore[attr-defined]
                sys.modules["wandb"], "config", types.SimpleNamespace(_items=vars(config))
            )
            sys.modules["wandb"].run.name = "run"  # type: ignore[attr-defined]
        utils.get_network = steps.watched(utils.get_network)
    sys.argv = [script, *arguments]
    try:
        with AsWritten():
            runpy.run_path(str(root / script), run_name="__main__")
    except Done:
        return steps.seconds
    raise SystemExit(f"{script} ended after {len(steps.at)} steps")


def _as_the_programs_have_it(case: str, shape: Sequence[int]) -> tuple[Any, ...]:
    channels, *size = shape
    made = Fake(shape)
    one: tuple[Any, ...] = (channels, tuple(size), CLASSES, list(map(str, range(CLASSES))), [0.5] * 3, [0.25] * 3)
    one = (*one, made, made, [])
    same = {number: number for number in range(CLASSES)}
    return (*one, None, same, same) if case == "mtt" else one


def _make_experts(utils: Any, name: str, shape: Sequence[int]) -> None:
    network = utils.get_network("ConvNet", shape[0], CLASSES, tuple(shape[1:]), dist=False)
    weights = [parameter.detach().clone() for parameter in network.parameters()]
    path = Path("buffers", name + "_NO_ZCA" * (name == "CIFAR10"), "ConvNet")
    path.mkdir(parents=True)
    torch.save([[[one + 0.01 * epoch for one in weights] for epoch in range(6)]], path / "replay_buffer_0.pt")


def _evaluation(utils: Any, shape: Sequence[int], ipc: int) -> float:
    """Return the seconds of an epoch on ten images a class and a share of a test of 3,000."""
    images, labels = torch.randn(CLASSES * ipc, *shape), torch.arange(CLASSES).repeat_interleave(ipc)
    args = types.SimpleNamespace(
        device="cpu", lr_net=0.01, epoch_eval_train=EVALUATED - 1, batch_train=256, dsa=True, dc_aug_param=None
    )
    args.dsa_strategy, args.dsa_param = "color_crop_cutout_flip_scale_rotate", utils.ParamDiffAug()
    tests: Any = torch.utils.data.DataLoader(Fake(shape), batch_size=256)  # type: ignore[arg-type]
    network = utils.get_network("ConvNet", shape[0], CLASSES, tuple(shape[1:]))
    began = time.process_time()
    utils.evaluate_synset(0, network, images, labels, tests, args)
    return (time.process_time() - began) / EVALUATED


def _ddkit(given: argparse.Namespace, case: str, data: str) -> float:
    import ddkit
    from ddkit import methods
    from ddkit.base.memory import freed_memory_kept
    from ddkit.engine.session import Session
    from ddkit.evaluation import evaluate
    from ddkit.training.named import recipe

    images, labels = _images(SHAPES[data])
    real = ddkit.RealData.from_tensors(images, labels, name=data)
    long = given.side == "long"
    with freed_memory_kept():
        if case == "evaluation":
            made = ddkit.Distiller("random", ipc=given.ipc).fit(real)
            how = recipe("dsa", data, epochs=EVALUATED)
            fast: dict[str, Any] = {} if long else {"precision": "float32", "compile": False}
            test = ddkit.RealData.from_tensors(255 - images, labels, name=data, split="test")
            evaluate(made, test, ["convnet"], 1, how, **fast)  # compiles
            began = time.process_time()
            evaluate(made, test, ["convnet"], 1, how, seed=1, **fast)
            return (time.process_time() - began) / EVALUATED
        changes = CASES[case][4] | ({} if long else {"compile": False, "precision": "float32"})
        session = Session(methods.get(CASES[case][3]).configure(real, given.ipc, 0, changes, {}), real, {})
        session.prepare(lambda *_: None)
        session.start()
        session.step(1)
        session.step(2)
        began = time.process_time()
        for number in range(3, 3 + given.steps):
            session.step(number)
        return (time.process_time() - began) / given.steps


if __name__ == "__main__":
    main()
