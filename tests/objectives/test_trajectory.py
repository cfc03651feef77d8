"""Trajectory matching on toy data: segments, batches, gradients through the decoder, the student's rate."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from ddkit import augment
from ddkit.base.streams import Streams
from ddkit.errors import ConfigError, DivergedError, UnknownNameError
from ddkit.models import ModelSpec
from ddkit.networks import FreshNetworks, Network, RealSignal
from ddkit.objectives import Context, Objective, registry
from ddkit.objectives.trajectory import TrajectoryMatching
from ddkit.synthesis import MultiFormation, Pixels, SharedDecoders, Synthesizer
from ddkit.testing import toy_data
from tests.objectives.expert_stub import StubExperts

DSA = "color_crop_cutout_flip_scale_rotate"
EXACT = 1e-10


def ready(
    objective: TrajectoryMatching,
    *,
    synthesizer: Callable[..., Synthesizer] = Pixels,
    source: StubExperts | None = None,
    strategy: str = "none",
    seed: int = 0,
    model: str = "convnet:width=4,depth=2",
    **options: Any,
) -> tuple[TrajectoryMatching, Synthesizer]:
    """Set ``objective`` up in float64: (objective, synthesizer)."""
    data, streams, augmentation = toy_data(counts=(5, 7, 4)), Streams(seed), augment.create(strategy)
    network = Network(ModelSpec.parse(model), data.shape, data.num_classes)
    network.module.double()
    signal, source = RealSignal(), source or StubExperts()
    made = synthesizer(data.num_classes, 2, data.shape, **options)
    made.initialise(data, "noise", torch.Generator().manual_seed(7))
    made.double()
    context = Context(data.num_classes, signal, network, augmentation, streams, networks=source)
    source.setup(context)
    objective.setup(context, made)
    return objective, made


def run(objective: TrajectoryMatching, synthesizer: Synthesizer, seed: int = 0) -> dict[str, float]:
    """Run one backward pass from fresh streams."""
    objective.context.streams.load_state_dict({})
    objective.context.streams.seed = seed
    synthesizer.zero_grad()
    objective.rate.grad = None
    return objective.backward(synthesizer)


def by_hand(objective: TrajectoryMatching, synthesizer: Synthesizer, seed: int = 0) -> Tensor:
    """Return the loss with a graph through all steps, decoding anew at every step, from the same streams."""
    context, streams = objective.context, Streams(seed)
    context.streams.load_state_dict({})
    context.streams.seed = seed
    segment = objective.source.segment(objective.max_start_epoch, objective.expert_epochs)
    chunks = synthesizer.inner_batches(objective.student_steps, objective.batch_syn, streams("student-batches"))
    draws = [context.augmentation.draw_train(len(chunk), streams("augmentation")) for chunk in chunks]
    shapes = {name: parameter.shape for name, parameter in context.network.module.named_parameters()}
    theta = segment.start.detach().requires_grad_()
    for chunk, drawn in zip(chunks, draws, strict=True):
        images, targets = synthesizer(chunk)
        images = context.augmentation.apply(images, drawn, torch.arange(len(chunk)))
        parts = theta.split([shape.numel() for shape in shapes.values()])
        weights = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        logits = functional_call(context.network.module, weights, (images,))
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, targets), theta, create_graph=True)
        theta = theta - objective.rate * gradient
    return (theta - segment.target).square().sum() / (segment.start - segment.target).square().sum()


def many_decoders(*positions: Any, **options: Any) -> SharedDecoders:
    return SharedDecoders(*positions, decoders=2, hidden=2, code_channels=1, codes=2, **options)


@pytest.mark.parametrize("method", ["adjoint", "full", "auto"])
@pytest.mark.parametrize(
    ("synthesizer", "options", "settings"),
    [
        (Pixels, {}, {"student_steps": 5}),
        (Pixels, {"labels": "learned"}, {"student_steps": 4, "batch_syn": 4}),
        (MultiFormation, {"factor": 2}, {"student_steps": 3, "batch_syn": 5}),
        (many_decoders, {}, {"student_steps": 3}),
    ],
    ids=["pixels", "learned-labels", "multi-formation", "shared-decoders"],
)
def test_gradients_equal_autograd_through_decoder_augmentation_and_unroll(
    method: str, synthesizer: Callable[..., Synthesizer], options: dict[str, Any], settings: dict[str, Any]
) -> None:
    objective, made = ready(
        TrajectoryMatching(lr=0.3, meta_gradient=method, **settings), synthesizer=synthesizer, strategy=DSA, **options
    )
    scalars = run(objective, made, seed=3)
    learnable = dict(made.named_parameters())
    found = {name: parameter.grad.clone() for name, parameter in learnable.items() if parameter.grad is not None}
    assert objective.rate.grad is not None
    rate_gradient = objective.rate.grad.clone()
    loss = by_hand(objective, made, seed=3)
    assert scalars["loss"] == pytest.approx(float(loss.detach()), abs=1e-12)
    expected = torch.autograd.grad(loss, [*learnable.values(), objective.rate])
    assert set(found) == set(learnable)
    for (name, gradient), reference in zip(found.items(), expected[:-1], strict=True):
        assert float((gradient - reference).norm()) < EXACT * max(1.0, float(reference.norm())), name
    assert float((rate_gradient - expected[-1]).abs()) < EXACT * max(1.0, float(expected[-1].abs()))


def test_every_image_is_decoded_once_per_outer_step(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, made = ready(TrajectoryMatching(student_steps=6, batch_syn=4))
    seen: list[list[int]] = []
    decode = made.decode
    monkeypatch.setattr(made, "decode", lambda index: seen.append(index.tolist()) or decode(index))
    run(objective, made)
    assert seen == [[0, 1, 2, 3, 4, 5]]


def test_scalars_say_what_happened() -> None:
    source = StubExperts()
    objective, made = ready(TrajectoryMatching(student_steps=2, max_start_epoch=4, lr=0.05), source=source)
    scalars = run(objective, made)
    expert, epoch = source.asked[-1]
    assert scalars["epoch"] == epoch
    assert scalars["student_lr"] == pytest.approx(0.05)
    length = (source.weights(expert, epoch + 2) - source.weights(expert, epoch)).norm()
    assert scalars["end_distance"] == pytest.approx(float(length) * scalars["loss"] ** 0.5)


def test_the_same_streams_give_the_same_step_and_others_another() -> None:
    objective, made = ready(TrajectoryMatching(student_steps=3, batch_syn=4), strategy=DSA)
    first, second, other = run(objective, made, 1), run(objective, made, 1), run(objective, made, 2)
    assert first == second
    assert first["loss"] != other["loss"]


def test_noise_changes_the_start_but_not_the_denominator() -> None:
    def quiet(noise: float) -> dict[str, float]:
        # A rate of almost nothing: the student stays where the noise put it.
        objective, made = ready(TrajectoryMatching(student_steps=1, init_noise=noise, lr=1e-6, learn_lr=False))
        return run(objective, made)

    clean = quiet(0.0)
    assert clean["loss"] == pytest.approx(1.0, abs=1e-4)
    noisy = quiet(3.0)
    # Random noise of r segment lengths is almost orthogonal to the segment: 1 + r^2 over the clean denominator.
    assert noisy["loss"] == pytest.approx(10.0, rel=0.3)
    objective, made = ready(TrajectoryMatching(student_steps=1, lr=1e-6, learn_lr=False))
    assert run(objective, made) == clean


def test_a_fixed_rate_is_no_parameter() -> None:
    objective, made = ready(TrajectoryMatching(student_steps=2, learn_lr=False))
    assert objective.parameter_groups() == {}
    run(objective, made)
    assert objective.rate.grad is None
    assert objective.recipe_changes()["lr"] == pytest.approx(0.01)


def test_the_learned_rate_travels_with_the_result_and_through_the_state() -> None:
    objective, _ = ready(TrajectoryMatching(student_steps=2))
    (parameter,) = objective.parameter_groups()["student_lr"]
    with torch.no_grad():
        parameter.fill_(0.07)
    assert objective.recipe_changes() == {"lr": pytest.approx(0.07)}
    other, _ = ready(TrajectoryMatching(student_steps=2))
    (same,) = other.parameter_groups()["student_lr"]
    other.load_state_dict(objective.state_dict())
    assert torch.equal(same, parameter)


def test_the_rate_is_kept_above_the_lower_bound() -> None:
    objective, made = ready(TrajectoryMatching(lr_range=(1e-3, 1.0)))
    with torch.no_grad():
        objective.rate.fill_(-0.5)
    objective.after_step(made)
    assert float(objective.rate.detach()) == pytest.approx(1e-3)


@pytest.mark.parametrize("rate", [2.0, float("nan"), float("inf")])
def test_a_rate_that_ran_away_stops_the_run(rate: float) -> None:
    objective, made = ready(TrajectoryMatching(lr_range=(1e-3, 1.0), student_steps=1))
    run(objective, made)
    with torch.no_grad():
        objective.rate.fill_(rate)
    with pytest.raises(DivergedError, match=rf"became {rate:.4g} after a segment from epoch \d, the most is 1: lower"):
        objective.after_step(made)


def test_a_student_that_explodes_stops_the_run() -> None:
    objective, made = ready(TrajectoryMatching(student_steps=3, lr=1e200, lr_range=(1e-6, 1e300), learn_lr=False))
    with pytest.raises(DivergedError, match=r"from expert \d at epoch \d with a learning rate of 1e\+200"):
        run(objective, made)


def test_a_loss_that_stays_high_is_reported_once() -> None:
    objective, made = ready(TrajectoryMatching(student_steps=1, init_noise=5.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(49):
            objective.backward(made)
    resumed, _ = ready(TrajectoryMatching(student_steps=1, init_noise=5.0))
    resumed.load_state_dict(objective.state_dict())
    with pytest.warns(UserWarning, match="above 2 for 50 steps"):
        resumed.backward(made)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(60):
            resumed.backward(made)


def test_passes_count_the_steps_of_the_student() -> None:
    objective, made = ready(TrajectoryMatching(student_steps=5, batch_syn=4, meta_gradient="adjoint"))
    assert objective.passes_per_step(made) == 12 * 5 * 4
    full, made = ready(TrajectoryMatching(student_steps=5))  # whose graph is small
    assert full.passes_per_step(made) == 9 * 5 * 6
    labelled, made = ready(TrajectoryMatching(student_steps=5, soft_labels="per_segment"), labels="assigned")
    assert labelled.passes_per_step(made) == 9 * 5 * 6 + 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student_steps": 0}, "objective.student_steps=0 must be at least 1"),
        ({"expert_epochs": 0}, "objective.expert_epochs=0 must be at least 1"),
        ({"max_start_epoch": 0}, "objective.max_start_epoch=0 must be at least 1"),
        ({"batch_syn": 0}, "objective.batch_syn=0 must be at least 1"),
        ({"lr": 0.0}, "objective.lr=0.0 must lie in"),
        ({"lr": -1.0}, "objective.lr=-1.0 must lie in"),
        ({"lr": float("nan")}, "objective.lr=nan must lie in"),
        ({"lr": 200.0}, r"objective.lr=200.0 must lie in objective.lr_range=\[1e-06, 100.0\]"),
        ({"lr_range": (0.0, 1.0)}, "must be two positive numbers"),
        ({"lr_range": (1.0, 0.5)}, "must be two positive numbers"),
        ({"init_noise": -0.1}, "objective.init_noise=-0.1 must be at least 0"),
        ({"soft_labels": "always"}, "unknown soft labels of trajectory matching 'always'"),
        ({"meta_gradient": "telsa"}, "did you mean 'tesla'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrajectoryMatching(**options)


def test_options_are_read_from_a_configuration() -> None:
    objective: Objective = registry.create("trajectory", {"lr_range": [0.001, 1], "batch_syn": 3})
    assert isinstance(objective, TrajectoryMatching)
    assert objective.lr_range == (0.001, 1.0)
    with pytest.raises(UnknownNameError, match="did you mean 'student_steps'"):
        registry.create("trajectory", {"student_step": 3})


def test_what_does_not_fit_is_refused_before_anything_is_computed() -> None:
    with pytest.raises(ConfigError, match="FreshNetworks does not have: use networks=experts"):
        ready(TrajectoryMatching(), source=FreshNetworks())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="experts of 6 epochs, 21 are needed"):
        ready(TrajectoryMatching(max_start_epoch=20, expert_epochs=2))
    with pytest.raises(ConfigError, match="a batch of 7 synthetic images must hold between 1 and all 6"):
        ready(TrajectoryMatching(batch_syn=7))
    with pytest.raises(ConfigError, match=r"soft_labels lets experts label .* needs synthesis.labels=assigned"):
        ready(TrajectoryMatching(soft_labels="fixed"))
    with pytest.raises(ConfigError, match="nothing would assign them"):
        ready(TrajectoryMatching(), labels="assigned")
    with pytest.raises(ConfigError, match="has batch norm"):
        ready(TrajectoryMatching(), model="convnet:width=4,depth=1,norm=batch")
