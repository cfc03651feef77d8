"""Do the private baselines learn, spend what they claim and repeat?"""

from __future__ import annotations

import pytest
import torch

from ddkit.data import load_pair
from ddkit.errors import ConfigError
from ddkit.integrations.private.baselines import RandomConvolution, dp_sgd_linear, dp_sgd_network
from ddkit.integrations.private.merf import dp_merf
from tests.integrations.private_small import TINY_MODEL, records


def test_random_features_are_public_and_have_norm_one() -> None:
    layer = RandomConvolution((1, 8, 8), 6, 3, 4, seed=1)
    rows = layer(torch.randn(5, 1, 8, 8))
    assert rows.shape == (5, 6 * 16 + 1)
    assert torch.allclose(rows.norm(dim=1), torch.full((5,), (1 + 0.01) ** 0.5))
    assert torch.equal(layer.weight, RandomConvolution((1, 8, 8), 6, 3, 4, seed=1).weight)


def test_the_linear_model_learns_digits_privately() -> None:
    train, test = load_pair("digits")
    made = dp_sgd_linear(train, test, 10, 1e-5, steps=60, lr=8.0, accountant="rdp")
    assert made.accuracy > 0.85 and 9.9 < made.epsilon <= 10 and made.steps == 60
    noisy = dp_sgd_linear(train, test, 0.3, 1e-5, steps=60, lr=8.0, accountant="rdp")
    assert noisy.accuracy < made.accuracy and noisy.sigma > made.sigma


def test_the_network_of_opacus_spends_what_it_claims_and_repeats() -> None:
    real = records()
    options = {"model": TINY_MODEL, "epochs": 2, "accountant": "rdp", "batch": 12}
    first, second = (dp_sgd_network(real, real, 4, 1e-5, **options) for _ in range(2))  # type: ignore[arg-type]
    assert first == second
    assert 3.9 < first.epsilon <= 4.04 and first.steps == 8


def test_an_empty_sample_of_the_network_is_a_step_like_any_other() -> None:
    real = records()
    # One record expected: more than a third of the samples are empty.
    made = dp_sgd_network(real, real, 100, 1e-5, model=TINY_MODEL, epochs=1, accountant="rdp", batch=1)
    assert made.steps == 36 and 0 <= made.accuracy <= 1 and made.epsilon > 95


def test_the_network_refuses_batch_norm() -> None:
    real = records()
    with pytest.raises(ConfigError, match="every record on its own"):
        dp_sgd_network(real, real, 4, 1e-5, model="convnet:width=4,depth=1,norm=batch")


def test_dp_merf_generates_images_of_every_class_at_its_price() -> None:
    made = dp_merf(records(), 2.0, 1e-5, per_class=5, steps=5)
    assert made.hard_labels().bincount().tolist() == [5, 5, 5]
    assert 1.9 < made.metadata["privacy"]["epsilon"] <= 2


def test_dp_merf_counts_by_the_accountant_that_it_is_given() -> None:
    noise = {
        name: dp_merf(records(), 2.0, 1e-5, per_class=1, steps=1, accountant=name).metadata["privacy"]  # type: ignore[arg-type]
        for name in ("prv", "rdp")
    }
    assert noise["rdp"]["accountant"] == "rdp"
    assert noise["rdp"]["noise_multiplier"] > noise["prv"]["noise_multiplier"]


@pytest.mark.parametrize("wrong", [{"per_class": 0}, {"steps": 0}, {"features": 1}, {"batch": 2}])
def test_dp_merf_refuses_sizes_that_generate_nothing(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must be a whole number of at least"):
        dp_merf(records(), 2.0, 1e-5, **wrong)
