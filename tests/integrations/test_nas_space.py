"""Are search spaces what the papers say, and do they refuse what cannot be ranked?"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ddkit.errors import ConfigError, UnknownNameError
from ddkit.integrations.nas import SearchSpace
from ddkit.models import ModelSpec
from tests.integrations.nas_cases import generator, linear


def test_the_grid_of_the_papers_has_720_convnets_and_the_small_one_72() -> None:
    space = SearchSpace.literature()
    assert len(space) == len(set(space)) == 720
    assert all(spec.name == "convnet" for spec in space.values())
    assert len(SearchSpace.small()) == 72


def test_a_grid_keeps_the_order_of_its_choices_and_names_candidates_by_their_options() -> None:
    space = SearchSpace.convnet(depth=[1, 2], width=[4, 8])
    assert list(space) == [f"convnet(depth={depth},width={width})" for depth in (1, 2) for width in (4, 8)]
    assert space["convnet(depth=2,width=8)"] == ModelSpec("convnet", {"depth": 2, "width": 8})


def test_a_space_takes_functions_specs_and_texts() -> None:
    space = SearchSpace({"own": linear, "spec": ModelSpec("mlp"), "text": "convnet:width=4"})
    assert space["text"].options == {"width": 4}
    assert isinstance(space["own"].build((1, 8, 8), 10, 0), nn.Sequential)


def test_a_built_network_follows_from_its_seed_and_leaves_the_global_random_state_alone() -> None:
    spec = SearchSpace({"own": linear})["own"]
    before = torch.get_rng_state()
    first, again, other = (spec.build((1, 8, 8), 10, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[1].weight, again[1].weight)  # type: ignore[index]
    assert not torch.equal(first[1].weight, other[1].weight)  # type: ignore[index]


def test_a_sample_is_drawn_from_the_generator_without_replacement() -> None:
    space = SearchSpace.small()
    chosen = space.sample(10, generator(1))
    assert list(chosen) == list(space.sample(10, generator(1))) != list(space.sample(10, generator(2)))
    assert len(set(chosen)) == 10 and [name for name in space if name in chosen] == list(chosen)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: SearchSpace({}), "at least one candidate"),
        (lambda: SearchSpace({"x": 3}), "'x' is a int"),  # type: ignore[dict-item]
        (lambda: SearchSpace({"x": linear()}), "'x' is a network, .* lambda: Sequential"),
        (lambda: SearchSpace.convnet(depth=[]), "at least one value"),
        (lambda: SearchSpace.convnet(depth=3), r"depth=3: give a list"),  # type: ignore[arg-type]
        (lambda: SearchSpace.convnet(depth=[1, 1]), "names a value twice"),
        (lambda: SearchSpace.convnet(dept=[1]), "did you mean 'depth'"),
        (lambda: SearchSpace.convnet(norm=["batchh"]), "norm"),
        (lambda: SearchSpace.small().sample(73, generator()), "1 to 72"),
        (lambda: SearchSpace({"x": lambda: 5})["x"].build((1, 8, 8), 10, 0), "built a int"),  # type: ignore
    ],
)
def test_a_mistake_is_refused_in_one_line(make: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        make()  # type: ignore[operator]
    assert "\n" not in str(caught.value)


def test_an_unknown_candidate_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'own'"):
        SearchSpace({"own": linear}).subset(["owm"])


@pytest.mark.parametrize("given", [linear, [linear], nn.Flatten()])
def test_what_is_no_mapping_is_no_space(given: object) -> None:
    with pytest.raises(ConfigError, match="mapping of names to builders"):
        SearchSpace.of(given)  # type: ignore[arg-type]
