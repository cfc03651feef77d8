"""Configurations: validated, merged, read from assignments, written as JSON."""

from __future__ import annotations

import json

import pytest
import torch

from ddkit import Distiller, methods
from ddkit.base.config import (
    DistillConfig,
    OptimiserConfig,
    OptimiserSettings,
    merge,
    parse_assignments,
    piece_from_text,
)
from ddkit.errors import ConfigError, UnknownNameError
from ddkit.objectives import DistributionMatching, GradientMatching
from ddkit.synthesis import Pixels, SharedDecoders
from ddkit.testing import toy_data


def test_configuration_survives_json() -> None:
    config = DistillConfig.create(
        {"ipc": 2, "objective": {"name": "gradient", "metric": "cos"}, "optimiser": {"groups": {"labels": {"lr": 0.1}}}}
    )
    assert DistillConfig.create(json.loads(json.dumps(config.as_dict()))) == config


def test_configuration_is_frozen() -> None:
    config = DistillConfig.create({"ipc": 1})
    with pytest.raises(Exception, match="frozen"):
        config.ipc = 2  # type: ignore[misc]


def test_piece_is_given_by_name_or_with_options() -> None:
    config = DistillConfig.create({"ipc": 1, "objective": "gradient", "networks": {"name": "fresh"}})
    assert config.objective is not None and (config.objective.name, config.objective.options) == ("gradient", {})


@pytest.mark.parametrize("piece", ["synthesis", "networks", "recipe"])
def test_options_without_a_name_belong_to_the_default_piece(piece: str) -> None:
    default = getattr(DistillConfig.create({"ipc": 1}), piece)
    changed = getattr(DistillConfig.create({"ipc": 1, piece: {"labels": "soft"}}), piece)
    assert (changed.name, changed.options) == (default.name, {"labels": "soft"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ipc": 0}, "ipc=0"),
        ({"ipc": 1, "seed": -1}, "seed=-1"),
        ({"ipc": 1, "steps": -1}, "steps=-1"),
        ({"ipc": 1, "ema": 1.0}, "ema=1.0"),
        ({"ipc": 1, "precision": "float16"}, "precision='float16'"),
        ({"ipc": 1, "optimiser": {"lr": 0}}, "optimiser.lr=0"),
        ({"ipc": 1, "optimiser": {"lr": float("inf")}}, "optimiser.lr=inf"),
        ({"ipc": 1, "optimiser": {"lr": float("nan")}}, "optimiser.lr=nan"),
        ({"ipc": 1, "optimiser": {"momentum": 1.0}}, "optimiser.momentum=1.0"),
        ({"ipc": 1, "optimiser": {"speed": 1.0}}, "optimiser.speed=1.0"),
        ({"ipc": 1, "optimiser": {"groups": {"labels": {"lr": -1}}}}, "lr"),
        ({"ipc": 1, "objective": {"metric": "cos"}}, "objective.name"),
        ({"ipc": 1, "synthesis": {"labels": torch.ones(2)}}, "synthesis"),
    ],
)
def test_bad_value_is_named_on_one_line(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        DistillConfig.create(values)
    assert "\n" not in str(error.value)


def test_every_wrong_value_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"ipc=0.*steps=-1"):
        DistillConfig.create({"ipc": 0, "steps": -1})


def test_unknown_option_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'augmentation'"):
        DistillConfig.create({"ipc": 1, "augmentaton": "none"})


def test_group_settings_lie_over_the_common_ones() -> None:
    config = OptimiserConfig(name="adam", lr=0.1, groups={"labels": {"lr": 0.5, "name": "sgd"}})
    assert (config.of("images").name, config.of("images").lr) == ("adam", 0.1)
    assert (config.of("labels").name, config.of("labels").lr, config.of("labels").momentum) == ("sgd", 0.5, 0.5)


def test_merge_descends_and_leaves_its_arguments_alone() -> None:
    base = {"a": {"x": 1, "y": 2}, "b": 3}
    assert merge(base, {"a": {"y": 5}, "c": 6}) == {"a": {"x": 1, "y": 5}, "b": 3, "c": 6}
    assert base == {"a": {"x": 1, "y": 2}, "b": 3}


def test_piece_of_another_name_does_not_inherit_options() -> None:
    base = {"objective": {"name": "gradient", "metric": "cos"}}
    assert merge(base, {"objective": "distribution"}) == {"objective": {"name": "distribution"}}
    assert merge(base, {"objective": {"name": "distribution", "real_batch": 2}})["objective"] == {
        "name": "distribution",
        "real_batch": 2,
    }
    assert merge(base, {"objective": {"name": "gradient", "real_batch": 2}})["objective"]["metric"] == "cos"
    assert merge({"objective": "gradient"}, {"objective": {"metric": "mse"}})["objective"] == {
        "name": "gradient",
        "metric": "mse",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps=100", {"steps": 100}),
        ("optimiser.lr=1e-3", {"optimiser": {"lr": 0.001}}),
        ("compile=true", {"compile": True}),
        ("ema=null", {"ema": None}),
        ("model=convnet:width=4,depth=2", {"model": "convnet:width=4,depth=2"}),
        ("augmentation=none", {"augmentation": "none"}),
        ("x=[1, 2]", {"x": [1, 2]}),
        ("x={", {"x": "{"}),
        ("x=", {"x": ""}),
    ],
)
def test_assignments_are_read_as_yaml_scalars(text: str, expected: dict) -> None:
    assert parse_assignments([text]) == expected


def test_assignments_are_merged_in_order() -> None:
    assert parse_assignments(["a.x=1", "a.y=2", "a.x=3"]) == {"a": {"x": 3, "y": 2}}


@pytest.mark.parametrize("text", ["steps", "=3", ".=3", ""])
def test_text_that_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not an assignment"):
        parse_assignments([text])


def test_piece_is_read_from_text_with_options() -> None:
    assert piece_from_text("gradient") == {"name": "gradient"}
    assert piece_from_text("pixels:labels=soft,label_confidence=0.8") == {
        "name": "pixels",
        "labels": "soft",
        "label_confidence": 0.8,
    }
    config = DistillConfig.create({"ipc": 1, "objective": "gradient:metric=cos"})
    assert config.objective is not None and config.objective.options == {"metric": "cos"}
    for wrong in ("gradient:", "gradient:cos"):
        with pytest.raises(ConfigError):
            piece_from_text(wrong)


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({}, {1: 2.0, 10: 2.0}),
        (
            {"schedule": "milestones", "milestones": [0.5, 0.8], "gamma": 0.1},
            {5: 2.0, 6: 0.2, 8: 0.2, 9: 0.02, 10: 0.02},
        ),
        ({"schedule": "cosine"}, {1: 2.0, 6: 1.0}),
        ({"schedule": "cosine", "floor": 0.1}, {1: 2.0, 6: 1.1, 11: 0.2}),
    ],
)
def test_rate_of_a_step_follows_from_the_step(settings: dict, rates: dict[int, float]) -> None:
    optimiser = OptimiserSettings(lr=2.0, **settings)
    assert {step: optimiser.rate(step, 10) for step in rates} == pytest.approx(rates)


@pytest.mark.parametrize(
    "wrong",
    [
        {"schedule": "milestones"},
        {"milestones": [0.5]},
        {"schedule": "milestones", "milestones": [0.8, 0.5]},
        {"schedule": "milestones", "milestones": [1.5]},
        {"groups": {"labels": {"speed": 1}}},
        {"groups": {"labels": {"schedule": "milestones"}}},
        {"groups": {"labels": {"clip": 1.0}}},
        {"floor": 0.1},
        {"floor": 1.0, "schedule": "cosine"},
        {"betas": [0.9, 1.0]},
        {"betas": [0.9]},
        {"clip": 0},
        {"clip": float("inf")},
    ],
)
def test_schedule_that_makes_no_sense_is_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="bad configuration"):
        DistillConfig.create({"ipc": 1, "optimiser": wrong})


def test_later_settings_of_an_optimiser_are_written_only_where_they_are_set() -> None:
    """Folders of runs and artifacts of the first release know neither; both stay what they were."""
    plain = DistillConfig.create({"ipc": 1}).as_dict()["optimiser"]
    first_release = {"name", "lr", "momentum", "weight_decay", "schedule", "milestones", "gamma", "groups"}
    assert set(plain) == first_release
    own = {"name": "adam", "betas": [0.5, 0.999], "schedule": "cosine", "floor": 0.1, "clip": 2.0}
    config = DistillConfig.create({"ipc": 1, "optimiser": own})
    assert set(config.as_dict()["optimiser"]) == first_release | {"betas", "floor", "clip"}
    assert DistillConfig.create(json.loads(json.dumps(config.as_dict()))) == config


def test_groups_take_over_betas_and_floor_but_no_limit_of_their_own() -> None:
    config = OptimiserConfig(name="adam", betas=(0.5, 0.9), schedule="cosine", floor=0.2, clip=1.0)
    group = config.of("images")
    assert (group.betas, group.floor, hasattr(group, "clip")) == ((0.5, 0.9), 0.2, False)


def test_another_objective_brings_the_rate_that_suits_it() -> None:
    preset = methods.get("dm").configure(toy_data(), 1)
    swapped = methods.get("dm").configure(toy_data(), 1, overrides={"objective": "gradient"})
    assert (preset.composition, swapped.composition) == (None, "dm x gradient")
    assert (preset.optimiser.lr, swapped.optimiser.lr) == (1.0, Pixels.defaults("gradient")["optimiser"]["lr"])
    own = methods.get("dm").configure(toy_data(), 1, overrides={"objective": "gradient", "optimiser": {"lr": 0.3}})
    assert own.optimiser.lr == 0.3
    unchanged = methods.get("dm").configure(toy_data(), 1, overrides={"objective": {"real_batch": 7}})
    assert unchanged.optimiser == preset.optimiser


def test_coreset_refuses_a_piece_that_it_would_ignore() -> None:
    with pytest.raises(ConfigError, match="'random' picks real images and would ignore objective=gradient"):
        methods.get("random").configure(toy_data(), 1, overrides={"objective": "gradient:metric=cos"})


def test_piece_given_as_an_object_is_the_piece_of_its_registered_name() -> None:
    named = methods.get("dc").configure(toy_data(), 1)
    objective = Distiller("dc", 1, objective=GradientMatching()).configure(toy_data())
    assert (objective.composition, objective.init, objective.optimiser) == (None, "noise", named.optimiser)
    synthesizer = Distiller("dm", 1, synthesizer=SharedDecoders(3, 1, (1, 8, 8), decoders=1, hidden=2)).configure(
        toy_data()
    )
    assert synthesizer.composition == "dm x shared-decoders"
    assert synthesizer.optimiser.name == SharedDecoders.defaults("feature")["optimiser"]["name"] == "adam"


class OfAnotherScale(DistributionMatching):
    gradient_scale = "entropy"


class OfNoScale(DistributionMatching):
    gradient_scale = None


def test_objective_of_ones_own_gets_the_rate_of_its_scale() -> None:
    class Own(GradientMatching):
        pass

    config = Distiller("dm", 1, objective=Own()).configure(toy_data())
    assert (config.composition, config.optimiser.lr) == ("dm x own", 0.1)
    config = Distiller("dm", 1, objective=Own(), optimiser={"lr": 7.0}).configure(toy_data())
    assert (config.composition, config.optimiser.lr) == ("dm x own", 7.0)


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        (
            OfAnotherScale,
            "synthesis 'pixels' knows no learning rate for 'ofanotherscale', whose gradients have scale 'entropy'",
        ),
        (OfNoScale, "objective 'ofnoscale' does not declare the scale of its gradients"),
    ],
)
def test_no_learning_rate_is_guessed(own: type[DistributionMatching], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Distiller("dc", 1, objective=own()).configure(toy_data())
    config = Distiller("dc", 1, objective=own(), optimiser={"lr": 3.0}).configure(toy_data())
    assert config.optimiser.lr == 3.0


def test_names_of_pieces_do_not_depend_on_case() -> None:
    config = methods.get("dcc").configure(toy_data(), 1, overrides={"objective": "Gradient:real_batch=3"})
    assert config.composition is None and config.objective is not None
    assert (config.objective.options["level"], config.objective.options["real_batch"]) == ("batch", 3)


def test_other_networks_make_another_composition_with_the_same_optimiser() -> None:
    preset = methods.get("dm").configure(toy_data(), 1)
    pooled = methods.get("dm").configure(toy_data(), 1, overrides={"networks": "pool"})
    assert (pooled.composition, pooled.optimiser) == ("dm x pool", preset.optimiser)


def test_composition_cannot_be_made_up() -> None:
    with pytest.raises(ConfigError, match="unknown option 'composition'"):
        methods.get("dm").configure(toy_data(), 1, overrides={"composition": "mine"})


def test_values_that_are_no_numbers_are_named_by_their_path() -> None:
    with pytest.raises(ConfigError, match=r"objective=.*lr=nan must be a finite number"):
        DistillConfig.create({"ipc": 1, "objective": {"name": "trajectory", "lr": float("nan")}})
    with pytest.raises(ConfigError, match=r"group 'student_lr': .*lr=-0.001"):
        DistillConfig.create({"ipc": 1, "optimiser": {"groups": {"student_lr": {"lr": -1e-3}}}})


def test_none_in_words_is_none() -> None:
    config = DistillConfig.create({"ipc": 1, "constraint": "none", "zca": "None"})
    assert config.constraint is None and config.zca is None
