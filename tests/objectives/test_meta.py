"""Meta-learning on toy data in float64: gradients down to every parameter, what is reported, what is refused."""

from __future__ import annotations

import math
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
from ddkit.models import ModelSpec, weights_by_name
from ddkit.networks import FixedNetworks, FreshNetworks, Network, NetworkSource, RealSignal, Signal
from ddkit.objectives import Context, MetaLearning
from ddkit.synthesis import MultiFormation, Pixels, SharedDecoders, Synthesizer
from ddkit.testing import toy_data

DSA = "color_crop_cutout_flip_scale_rotate"
EXACT = 1e-10


def ready(
    objective: MetaLearning,
    *,
    synthesizer: Callable[..., Synthesizer] = Pixels,
    source: NetworkSource | None = None,
    signal: Signal | None = None,
    strategy: str = "none",
    ipc: int = 2,
    model: str = "convnet:width=4,depth=1",
    **options: Any,
) -> tuple[MetaLearning, Synthesizer]:
    """Set ``objective`` up in float64: (objective, synthesizer)."""
    data, streams, augmentation = toy_data(counts=(5, 7, 4)), Streams(0), augment.create(strategy)
    network = Network(ModelSpec.parse(model), data.shape, data.num_classes)
    network.module.double()
    signal, source = signal or RealSignal(), source or FreshNetworks()
    signal.setup(data, streams, augmentation, 4)
    made = synthesizer(data.num_classes, ipc, data.shape, **options)
    made.initialise(data, "noise", torch.Generator().manual_seed(7))
    made.double()
    context = Context(data.num_classes, signal, network, augmentation, streams, networks=source)
    source.setup(context)
    objective.setup(context, made)
    return objective, made


def run(objective: MetaLearning, synthesizer: Synthesizer) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Run one backward pass from fresh streams: (scalars, gradients of everything learned)."""
    objective.context.streams.load_state_dict({})
    learned = {**dict(synthesizer.named_parameters()), **objective.sizes.raw}
    for parameter in learned.values():
        parameter.grad = None
    scalars = objective.backward(synthesizer)
    return scalars, {name: p.grad.clone() for name, p in learned.items() if p.grad is not None}


def by_hand(objective: MetaLearning, synthesizer: Synthesizer) -> Tensor:
    """Return the loss with a graph through decoder, augmentation and all steps, from the same streams."""
    context, streams = objective.context, Streams(0)
    module, augmentation = context.network.module, context.augmentation
    signal = RealSignal()
    signal.setup(toy_data(counts=(5, 7, 4)), streams, augmentation, 4)
    draws = augmentation.draw(1, streams("augmentation"))
    chunks = objective.order.batches(synthesizer, streams("student-batches"))

    def loss(theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        seen = augmentation.apply(images, draws, torch.zeros(len(images), dtype=torch.int64))
        return F.cross_entropy(functional_call(module, weights_by_name(module, theta), (seen.double(),)), targets)

    total = torch.zeros((), dtype=torch.float64)
    for _ in range(objective.students):
        context.network.reset(streams.integer("networks"))
        theta = torch.cat([weight.detach().flatten() for weight in module.parameters()]).requires_grad_()
        path, velocity = [theta], torch.zeros_like(theta)
        rates, momenta = objective.sizes.rates(), objective.sizes.momenta()
        for number, chunk in enumerate(chunks):
            (gradient,) = torch.autograd.grad(loss(theta, *synthesizer(chunk)), theta, create_graph=True)
            mu = 0 if momenta is None else momenta[number] if momenta.dim() else momenta
            velocity = mu * velocity + gradient
            theta = theta - (rates[number] if rates.dim() else rates) * velocity
            path.append(theta)
        for number in [objective.inner_steps, *reversed(objective.judged)]:
            images, labels = (signal.balanced if objective.balanced else signal.labelled)(
                objective.real_images // 3 if objective.balanced else objective.real_images, "real"
            )
            total = total + loss(path[number], images, labels) / objective.students
    return total


def many_decoders(*positions: Any, **options: Any) -> SharedDecoders:
    return SharedDecoders(*positions, decoders=2, hidden=2, code_channels=1, codes=2, **options)


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dd": ({"inner_steps": 6, "batch_per_class": 1}, {}),
    "sldd": ({"inner_steps": 4, "batch_per_class": 1}, {"labels": "free"}),
    "learned-probabilities": ({"inner_steps": 3, "learn_lr": "shared"}, {"labels": "learned"}),
    "rtp": (
        {"inner_steps": 4, "order": "random", "batch_per_class": 2, "learn_lr": "none", "momentum": 0.9, "lr": 0.05}
        | {"balanced": True, "real_images": 9},
        {"synthesizer": MultiFormation, "factor": 2, "strategy": DSA},
    ),
    "gtn": (
        {"inner_steps": 4, "rate_form": "exp", "momentum": 0.5, "learn_momentum": True, "momentum_form": "exp"}
        | {"intermediate_every": 1},
        {"synthesizer": many_decoders},
    ),
    "students": ({"inner_steps": 2, "students": 3, "order": "shuffled", "batch_syn": 4, "momentum": 0.5}, {}),
}


@pytest.mark.filterwarnings("ignore:factor 2 decodes")
@pytest.mark.parametrize("method", ["adjoint", "checkpointed", "full"])
@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_autograd_through_decoder_augmentation_and_unroll(case: str, method: str) -> None:
    settings, options = CASES[case]
    objective = MetaLearning(**{"lr": 0.2, "real_images": 12, "meta_gradient": method, **settings})
    objective, synthesizer = ready(objective, **options)
    scalars, found = run(objective, synthesizer)
    learned = {**dict(synthesizer.named_parameters()), **objective.sizes.raw}
    loss = by_hand(objective, synthesizer)
    expected = torch.autograd.grad(loss, list(learned.values()))
    assert abs(scalars["loss"] - float(loss.detach())) < EXACT
    assert set(found) == set(learned)
    for (name, gradient), reference in zip(learned.items(), expected, strict=True):
        assert float((found[name] - reference).norm()) < EXACT * float(reference.norm()), (name, gradient.shape)


def test_scalars_describe_students_and_steps() -> None:
    objective, synthesizer = ready(MetaLearning(inner_steps=2, lr=0.05, momentum=0.5, learn_lr="none"))
    scalars, _ = run(objective, synthesizer)
    assert scalars["lr"] == pytest.approx(0.05) and scalars["mu"] == pytest.approx(0.5)
    assert scalars["error"] * 16 == pytest.approx(round(scalars["error"] * 16)), "all 16 real images judge"
    plain, synthesizer = ready(MetaLearning(inner_steps=2))
    assert "mu" not in run(plain, synthesizer)[0]


class Observing(FreshNetworks):
    """Keeps what the objective tells it."""

    def observe(self, gradient: Tensor, *, images: int, error: float) -> None:
        self.seen = (gradient, images, error)


def test_the_source_learns_the_first_gradient_and_keeps_its_weights() -> None:
    source = Observing()
    objective, synthesizer = ready(MetaLearning(inner_steps=4, batch_per_class=1), source=source)
    scalars, _ = run(objective, synthesizer)
    gradient, images, error = source.seen
    assert images == 3 and error == scalars["error"]
    weights = torch.cat([weight.detach().flatten() for weight in source.network.module.parameters()])
    first = objective.order.batches(synthesizer, torch.Generator())[0]
    batch = [part.detach() for part in synthesizer(first)]
    torch.testing.assert_close(gradient, objective.flat.loss.gradient(weights, *batch))


def test_static_one_hot_rows_give_the_run_of_hard_labels() -> None:
    rows = F.one_hot(torch.arange(3).repeat_interleave(2), 3).float()
    results = []
    for labels in ("hard", rows):
        objective, synthesizer = ready(MetaLearning(inner_steps=4, batch_per_class=1), labels=labels)
        parameters = [*synthesizer.parameters(), *objective.sizes.raw.values()]
        adam = torch.optim.Adam(parameters, lr=0.01, betas=(0.5, 0.999))
        for _ in range(5):
            adam.zero_grad()
            objective.backward(synthesizer)
            adam.step()
        results.append([parameter.detach().clone() for parameter in parameters])
    for hard, soft in zip(*results, strict=True):
        assert float((hard - soft).abs().max()) < EXACT


def test_classes_without_images_are_judged_all_the_same() -> None:
    objective, synthesizer = ready(MetaLearning(inner_steps=2), classes=[0, 2], labels="free")
    assert len(objective.order.batches(synthesizer, torch.Generator())[0]) == 4
    _, found = run(objective, synthesizer)
    assert all(bool(gradient.any()) for gradient in found.values())
    assert objective.recipe_changes()["classes"] == 2


def test_recipe_carries_the_given_steps() -> None:
    objective, _ = ready(MetaLearning(inner_steps=4, batch_per_class=1, momentum=0.5, lr=0.03))
    changes = objective.recipe_changes()
    assert changes == {
        "schedule": "given",
        "milestones": [],
        "rates": pytest.approx([0.03] * 4),
        "momenta": pytest.approx([0.5] * 4),
        "runs": 2,
    }
    fixed, _ = ready(MetaLearning(inner_steps=4, batch_per_class=1), source=FixedNetworks())
    source = fixed.context.networks
    assert isinstance(source, FixedNetworks)
    assert fixed.recipe_changes()["start"] == source.seeds[0] and fixed.recipe_changes()["momenta"] == []
    several, _ = ready(MetaLearning(inner_steps=4), source=FixedNetworks(count=2))
    assert "start" not in several.recipe_changes()
    shared, _ = ready(MetaLearning(inner_steps=4, order="random", learn_lr="shared"))
    assert shared.recipe_changes() == {"lr": pytest.approx(0.02)}
    assert ready(MetaLearning(inner_steps=4, order="random"))[0].recipe_changes() == {}


def test_card_names_first_and_last_step() -> None:
    objective, _ = ready(MetaLearning(inner_steps=3, momentum=0.9))
    card = objective.metadata()["inner"]
    assert (card["steps"], card["order"]) == (3, "fixed")
    assert card["rates"] == pytest.approx([0.02] * 2) and card["momenta"] == pytest.approx([0.9] * 2)


def test_state_restores_what_was_learned() -> None:
    settings: dict[str, Any] = {"inner_steps": 3, "momentum": 0.5, "learn_momentum": True}
    objective, _ = ready(MetaLearning(**settings))
    with torch.no_grad():
        for raw in objective.sizes.raw.values():
            raw.add_(torch.arange(3))
    other, _ = ready(MetaLearning(**settings))
    other.load_state_dict(objective.state_dict())
    assert other.sizes.listed() == objective.sizes.listed() != ready(MetaLearning(**settings))[0].sizes.listed()
    assert other.parameter_groups() == {"inner": list(other.sizes.raw.values())}


def test_passes_count_steps_real_images_and_judgements() -> None:
    synthesizer = Pixels(3, 2, (1, 8, 8))
    assert MetaLearning(inner_steps=4, real_images=10).passes_per_step(synthesizer) == 12 * 4 * 6 + 3 * 10
    windowed = MetaLearning(inner_steps=4, real_images=10, window=1, intermediate_every=1)
    assert windowed.passes_per_step(synthesizer) == (12 + 3 * 3) * 6 + 3 * 10
    judged = MetaLearning(inner_steps=4, real_images=10, intermediate_every=2, students=2, batch_per_class=1)
    assert judged.passes_per_step(synthesizer) == 2 * (12 * 4 * 3 + 3 * 10 * 2)


def test_a_student_that_diverges_names_its_rates() -> None:
    objective, synthesizer = ready(MetaLearning(inner_steps=30, lr=1e300, learn_lr="none"))
    with pytest.raises(DivergedError, match=r"learning rates from 1e\+300 to 1e\+300 over 30 inner steps: lower"):
        run(objective, synthesizer)


class Silent(RealSignal):
    """A signal that does not tell risks."""

    risk = Signal.risk


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_steps": 0}, "objective.inner_steps=0 must be at least 1"),
        ({"students": 0}, "objective.students=0"),
        ({"window": 0}, "objective.window=0"),
        ({"real_images": 0}, "objective.real_images=0"),
        ({"lr": 0.0}, "objective.lr=0.0 must be positive"),
        ({"lr": math.inf}, "objective.lr=inf must be positive and finite"),
        ({"momentum": 1.0}, r"objective.momentum=1.0 must lie in \[0, 1\)"),
        ({"learn_momentum": True}, "objective.momentum=0 with objective.learn_momentum=true"),
        ({"intermediate_every": -1}, "objective.intermediate_every=-1"),
        ({"meta_gradient": "tesla", "momentum": 0.9}, "'tesla' knows plain gradient descent only, not momentum"),
        ({"meta_gradient": "tesla", "intermediate_every": 1}, "not intermediate losses"),
        ({"order": "shuffled", "batch_per_class": 1}, "set objective.batch_syn instead"),
        ({"order": "fixed", "batch_syn": 4}, "set objective.batch_per_class instead"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MetaLearning(**options)


@pytest.mark.parametrize("option", ["order", "learn_lr", "rate_form", "momentum_form", "meta_gradient"])
def test_unknown_names_are_refused(option: str) -> None:
    with pytest.raises(UnknownNameError, match="nonsense"):
        MetaLearning(**{option: "nonsense"})


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({}, {"signal": Silent()}, "Silent does not tell 'risk'"),
        ({}, {"labels": "assigned"}, "nothing would assign them"),
        ({}, {"model": "convnet:width=4,depth=1,norm=batch"}, "has batch norm"),
        ({"batch_per_class": 2}, {"ipc": 3}, "does not divide the 3 decoded images"),
        ({"batch_per_class": 1, "inner_steps": 2}, {"ipc": 3}, "would never reach all 3 runs"),
        ({"order": "shuffled", "batch_syn": 7}, {}, "a batch of 7 synthetic images"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(
    settings: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ready(MetaLearning(**settings), **options)


def test_a_momentum_of_one_is_warned_of_once() -> None:
    objective, synthesizer = ready(MetaLearning(inner_steps=2, momentum=0.9, learn_momentum=True, momentum_form="exp"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective.after_step(synthesizer)
    with torch.no_grad():
        objective.sizes.raw["momenta"][1] = 0.2
    with pytest.warns(UserWarning, match="momentum of inner step 1 is 1.22"):
        objective.after_step(synthesizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective.after_step(synthesizer)
