"""The contrastive constraint: its two losses, and who is moved by which of them."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit import Distiller, augment
from ddkit.base.streams import Streams
from ddkit.data import RealData, load_pair
from ddkit.errors import ConfigError, DivergedError
from ddkit.models import ModelSpec
from ddkit.networks import FreshNetworks, Network, RealSignal
from ddkit.objectives import Context, DistributionMatching
from ddkit.objectives.constraints import ContrastiveConstraint, registry, supervised_contrastive
from ddkit.objectives.constraints.contrast import similarity
from ddkit.synthesis import Hallucinators, MultiFormation, Pixels, SharedDecoders, Synthesizer
from ddkit.testing import CHECKS, toy_data

MODEL = "convnet:width=4,depth=2"


def context_for(
    synthesizer: Synthesizer, data: RealData, model: str = MODEL, strategy: str = "color_crop", seed: int = 0
) -> Context:
    streams, augmentation = Streams(seed), augment.create(strategy)
    network = Network(ModelSpec.parse(model), data.shape, data.num_classes)
    network.module.to(next(synthesizer.parameters()).dtype)
    signal, networks = RealSignal(), FreshNetworks()
    signal.setup(data, streams, augmentation, 5)
    context = Context(data.num_classes, signal, network, augmentation, streams, networks=networks)
    networks.setup(context)
    return context


def ready(
    synthesizer: Synthesizer | None = None, strategy: str = "color_crop", **options: Any
) -> tuple[ContrastiveConstraint, Synthesizer]:
    """The constraint on two bases in each of three classes and three hallucinators, in float64."""
    data = toy_data(shape=(1, 16, 16))
    synthesizer = synthesizer or Hallucinators(3, 2, data.shape, hallucinators=3)
    synthesizer.initialise(data, "noise", torch.Generator().manual_seed(0))
    synthesizer.double()
    constraint = registry.create("contrast", options)
    constraint.setup(context_for(synthesizer, data, strategy=strategy), synthesizer)
    return constraint, synthesizer


def weights(constraint: ContrastiveConstraint) -> list[Tensor]:
    return [value.clone() for value in constraint.network.module.state_dict().values()]


def rewind(constraint: ContrastiveConstraint) -> None:
    """Let the next step draw what the first one did."""
    constraint.context.streams.load_state_dict({})


def same(before: list[Tensor], after: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def loop(features: Tensor, classes: list[int], temperature: float) -> float:
    """SupCon, anchor by anchor."""
    z, total = features / features.norm(dim=1, keepdim=True), 0.0
    for a in range(len(z)):
        others = [i for i in range(len(z)) if i != a]
        denominator = sum(math.exp(float(z[a] @ z[i]) / temperature) for i in others)
        positives = [i for i in others if classes[i] == classes[a]]
        logs = [float(z[a] @ z[p]) / temperature - math.log(denominator) for p in positives]
        total -= sum(logs) / len(positives)
    return total / len(z)


@pytest.mark.parametrize("classes", [[0, 1, 2, 0, 1, 2], [0, 0, 1, 1, 0, 0, 1, 1], [0] * 4])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_supervised_contrastive_loss_equals_a_loop_over_anchors(classes, temperature) -> None:
    features = torch.randn(len(classes), 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = supervised_contrastive(features, torch.tensor(classes), temperature)
    assert float(loss) == pytest.approx(loop(features, classes, temperature), rel=1e-12)


def test_one_basis_in_each_of_two_classes_makes_it_two_view_infonce() -> None:
    features = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores = F.normalize(features) @ F.normalize(features).T / 0.07
    scores.fill_diagonal_(-math.inf)
    infonce = F.cross_entropy(scores, torch.tensor([2, 3, 0, 1]))
    loss = supervised_contrastive(features, torch.tensor([0, 1, 0, 1]), 0.07)
    assert float(loss) == pytest.approx(float(infonce), rel=1e-12)


def test_losses_of_zero_features_and_their_gradients_are_finite() -> None:
    features = torch.zeros(4, 3, dtype=torch.float64).requires_grad_()
    loss = (
        supervised_contrastive(features, torch.tensor([0, 1, 0, 1]), 0.07)
        + similarity(features[:2], features[2:]).sum()
    )
    (gradient,) = torch.autograd.grad(loss, features)
    assert float(loss.detach()) == pytest.approx(math.log(3)) and bool(gradient.isfinite().all())


def test_adversarial_term_lies_between_zero_and_one_and_is_one_for_equal_hallucinators() -> None:
    constraint, synthesizer = ready(strategy="none")
    for _ in range(5):
        assert 0 <= constraint.backward(synthesizer)["adversarial"] < 1 - 1e-6
    with torch.no_grad():
        for name, parameter in synthesizer.named_parameters():
            if synthesizer.group_of(name) == "style":
                parameter.copy_(parameter[:1].expand_as(parameter))
    assert constraint.backward(synthesizer)["adversarial"] == pytest.approx(1, abs=1e-12)


def test_gradient_of_the_synthetic_side_is_that_of_the_weighted_term() -> None:
    constraint, synthesizer = ready(weight=0.3, batch=4)
    term = constraint.backward(synthesizer)["adversarial"]
    gradients = [parameter.grad.clone() for parameter in synthesizer.learnable()]
    assert len(gradients) == 7
    for parameter, gradient in zip(synthesizer.learnable(), gradients, strict=True):
        position = int(gradient.abs().argmax())
        values = []
        for step in (1e-5, -2e-5):
            parameter.data.view(-1)[position] += step
            rewind(constraint)
            constraint.context.streams.integer("constraint")
            values.append(constraint.backward(synthesizer)["adversarial"])
        parameter.data.view(-1)[position] += 1e-5
        numeric = 0.3 * (values[0] - values[1]) / 2e-5
        assert numeric == pytest.approx(float(gradient.view(-1)[position]), rel=1e-4)
    assert 0 < term < 1


def test_gradients_add_to_those_of_the_objective() -> None:
    constraint, synthesizer = ready()
    constraint.backward(synthesizer)
    alone = [parameter.grad.clone() for parameter in synthesizer.learnable()]
    for parameter in synthesizer.learnable():
        parameter.grad = torch.ones_like(parameter)
    rewind(constraint)
    constraint.context.streams.integer("constraint")
    constraint.backward(synthesizer)
    for parameter, gradient in zip(synthesizer.learnable(), alone, strict=True):
        torch.testing.assert_close(parameter.grad, gradient + 1, rtol=1e-14, atol=1e-14)


def test_step_of_the_synthetic_side_leaves_the_auxiliary_network_alone() -> None:
    constraint, synthesizer = ready()
    before, start = weights(constraint), [p.detach().clone() for p in synthesizer.parameters()]
    optimiser = torch.optim.SGD(synthesizer.learnable(), lr=1.0)
    constraint.backward(synthesizer)
    assert all(parameter.grad is None for parameter in constraint.network.module.parameters())
    optimiser.step()
    assert same(before, weights(constraint))
    assert all(not torch.equal(a, b) for a, b in zip(start, synthesizer.parameters(), strict=True))


def test_step_of_the_auxiliary_network_leaves_the_synthetic_side_alone() -> None:
    constraint, synthesizer = ready()
    before, start = weights(constraint), copy.deepcopy(synthesizer.state_dict())
    constraint.after_step(synthesizer)
    assert all(parameter.grad is None for parameter in synthesizer.parameters())
    assert same(list(start.values()), list(synthesizer.state_dict().values()))
    # Biases in front of a norm have no gradient.
    pairs = [(a, b) for a, b in zip(before, weights(constraint), strict=True) if a.dim() > 1]
    assert len(pairs) == 3 and not any(torch.equal(a, b) for a, b in pairs)


def test_auxiliary_network_takes_sgd_steps_on_its_three_terms() -> None:
    constraint, synthesizer = ready(strategy="none", task=0.7, cosine=0.2, contrast=0.4, lr=0.01)
    module = copy.deepcopy(constraint.network.module).requires_grad_(True)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    index, original = [], constraint._draw
    constraint._draw = lambda source: index.append(original(source)) or index[-1]  # type: ignore[method-assign]
    for _ in range(3):
        constraint.after_step(synthesizer)
        images, targets = synthesizer(index[-1])
        features = module.features(images.detach())
        first, second = features.chunk(2)
        loss = 0.7 * F.cross_entropy(module(images.detach()), targets)
        loss = loss + 0.2 * (1 - F.cosine_similarity(first, second)).mean() / 2
        loss = loss + 0.4 * supervised_contrastive(features, targets, 0.07)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for mine, expected in zip(constraint.network.module.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "synthesizer",
    [
        Hallucinators(3, 2, (1, 16, 16), hallucinators=3),
        SharedDecoders(3, 4, (1, 16, 16), codes=3, decoders=3, hidden=3),
        MultiFormation(3, 2, (1, 16, 16)),
        MultiFormation(3, 2, (1, 16, 16), decode_type="multi", labels="learned"),
    ],
    ids=["hallucinators", "shared-decoders", "multi-formation", "multi"],
)
def test_pairs_are_two_views_of_one_stored_image_in_every_synthesizer(synthesizer) -> None:
    constraint, _ = ready(synthesizer, batch=4)
    everything = [synthesizer.view_index(torch.arange(len(synthesizer) // synthesizer.views), v) for v in range(3)]
    view_of = {int(i): (code, v) for v, rows in enumerate(everything) for code, i in enumerate(rows)}
    seen = set()
    for _ in range(30):
        first, second = constraint._draw(synthesizer).view(2, 4).tolist()
        for one, other in zip(first, second, strict=True):
            if one in view_of and other in view_of:
                assert view_of[one][0] == view_of[other][0] and view_of[one][1] != view_of[other][1]
                seen.add((view_of[one][1], view_of[other][1]))
    assert seen == {(a, b) for a in range(3) for b in range(3) if a != b}
    constraint.backward(synthesizer)
    constraint.after_step(synthesizer)
    moved = {name for name, parameter in synthesizer.named_parameters() if parameter.grad is not None}
    assert moved == {name for name, _ in synthesizer.named_parameters() if not name.startswith("labels.")}


def test_resumed_constraint_goes_on_as_if_it_had_not_stopped() -> None:
    def play(constraint: ContrastiveConstraint, synthesizer: Synthesizer, steps: int) -> list[float]:
        values = []
        for _ in range(steps):
            values.append(constraint.backward(synthesizer)["adversarial"])
            constraint.after_step(synthesizer)
        return values

    whole, synthesizer = ready()
    play(whole, synthesizer, 2)
    state, streams = copy.deepcopy(whole.state_dict()), copy.deepcopy(whole.context.streams.state_dict())
    expected = play(whole, synthesizer, 3)
    resumed, _ = ready()
    play(resumed, synthesizer, 1)
    resumed.load_state_dict(state)
    resumed.context.streams.load_state_dict(streams)
    assert play(resumed, synthesizer, 3) == expected
    assert same(weights(whole), weights(resumed))


def test_constrained_run_resumes_to_the_same_bytes_and_differs_from_a_free_one() -> None:
    pieces = {"synthesis": "hallucinators", "constraint": {"name": "contrast", "weight": 10.0}}
    CHECKS["resumed_run_equals_uninterrupted_run"]("dm", pieces)
    options: dict[str, Any] = {"steps": 2, "model": MODEL, "objective": {"real_batch": 5}, "synthesis": "hallucinators"}
    free, held = (
        Distiller("dm", 1, constraint=constraint, **options).fit(toy_data()) for constraint in (None, "contrast")
    )
    assert not torch.equal(free.stored["bases"], held.stored["bases"])


def test_weight_zero_switches_it_off_and_allows_one_view() -> None:
    constraint, synthesizer = ready(Hallucinators(3, 2, (1, 16, 16), hallucinators=1), weight=0)
    assert constraint.backward(synthesizer) == {} and constraint.passes_per_step(synthesizer) == 0
    constraint.after_step(synthesizer)
    constraint.load_state_dict(constraint.state_dict())
    assert constraint.context.streams.state_dict() == {}
    assert all(parameter.grad is None for parameter in synthesizer.parameters())


def test_cost_counts_both_steps_of_a_chunk() -> None:
    for batch, stored in ((None, 6), (4, 4), (100, 6)):
        constraint, synthesizer = ready(batch=batch)
        assert constraint.passes_per_step(synthesizer) == 12 * stored


def test_global_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    constraint, synthesizer = ready()
    constraint.backward(synthesizer)
    constraint.after_step(synthesizer)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -0.1}, "constraint.weight=-0.1 must be at least 0"),
        ({"contrast": math.inf}, "constraint.contrast=inf"),
        ({"temperature": 0.0}, "constraint.temperature=0.0 must be positive and finite"),
        ({"lr": math.nan}, "constraint.lr=nan"),
        ({"momentum": 1.0}, r"constraint.momentum=1.0 must lie in \[0, 1\)"),
        ({"batch": 0}, "constraint.batch=0 must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        ContrastiveConstraint(**options)


def test_combinations_without_sense_are_refused() -> None:
    data = toy_data(shape=(1, 16, 16))
    for plain in (Pixels(3, 2, data.shape), Hallucinators(3, 2, data.shape, hallucinators=1)):
        with pytest.raises(ConfigError, match="use synthesis=hallucinators with at least 2 of them"):
            ContrastiveConstraint().setup(context_for(plain, data), plain)
    synthesizer = Hallucinators(3, 2, data.shape)
    with pytest.raises(ConfigError, match="use a network with norm=instance"):
        ContrastiveConstraint().setup(context_for(synthesizer, data, f"{MODEL},norm=batch"), synthesizer)
    context = context_for(synthesizer, data)
    del context.network.module.classifier
    with pytest.raises(ConfigError, match="has no module called classifier"):
        ContrastiveConstraint().setup(context, synthesizer)


def test_auxiliary_network_that_diverges_says_so() -> None:
    constraint, synthesizer = ready(lr=1e30)
    with pytest.raises(DivergedError, match=r"auxiliary network .* lower constraint\.lr \(now 1e\+30\)"):
        for _ in range(5):
            constraint.after_step(synthesizer)


def test_a_larger_weight_tells_images_of_one_basis_apart() -> None:
    train = load_pair("digits")[0]

    def mean_cosine(weight: float) -> float:
        synthesizer = Hallucinators(10, 1, train.shape)
        synthesizer.initialise(train, "real", torch.Generator().manual_seed(0))
        context = context_for(synthesizer, train, "convnet:width=16,depth=2", "none")
        objective, constraint = DistributionMatching(real_batch=32), ContrastiveConstraint(weight=weight)
        objective.setup(context, synthesizer)
        constraint.setup(context, synthesizer)
        optimiser = torch.optim.Adam(synthesizer.learnable(), lr=0.02)
        for _ in range(100):
            optimiser.zero_grad()
            objective.backward(synthesizer)
            constraint.backward(synthesizer)
            optimiser.step()
            constraint.after_step(synthesizer)
        with torch.no_grad():
            features = F.normalize(constraint.network.features(synthesizer()[0]), dim=1).view(10, 5, -1)
        return float((features @ features.transpose(1, 2)).mean() * 25 - 5) / 20

    # The loss of distribution matching is about ten here; two seeds lowered the cosine by 0.21 and 0.10.
    assert mean_cosine(1000.0) <= mean_cosine(1e-9) - 0.05
