"""Does every query clip, add its noise, count, and let nothing else through?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ddkit.errors import ConfigError
from ddkit.integrations.private import PrivacyBudgetError, Queries
from ddkit.integrations.private.data import RecordFunction
from ddkit.integrations.private.noise import NoiseSource, SeededNoise, SystemNoise
from tests.integrations.private_small import pixels, records, wall, with_public_constants


class Nobody(SeededNoise):
    """Draws samples without anybody in them."""

    def uniform(self, count: int) -> Tensor:
        return torch.ones(count, dtype=torch.float64)


def test_a_query_is_the_sum_of_clipped_rows() -> None:
    real = with_public_constants(records())
    rows = real.batch(torch.arange(len(real))).flatten(1).double()
    clip = float(rows.norm(dim=1).median())
    expected = (rows * (clip / rows.norm(dim=1)).clamp(max=1)[:, None]).sum(0)
    assert torch.allclose(wall().noisy_sum(pixels, clip=clip, sigma=1.0, chunk=5), expected)


@pytest.mark.parametrize("clip", [0.1, 3.0])
def test_one_record_more_changes_all_class_sums_together_by_at_most_the_bound(clip: float) -> None:
    real = records()
    fewer = real.subset(torch.arange(1, len(real)))
    sums = [wall(part).noisy_class_sums(pixels, clip=clip, sigma=1.0)[0] for part in (real, fewer)]
    assert float((sums[0] - sums[1]).norm()) <= clip * (1 + 1e-12)


def test_counting_classes_raises_the_sensitivity_by_its_weight() -> None:
    real = records()
    fewer = real.subset(torch.arange(1, len(real)))
    answers = []
    for part in (real, fewer):
        sums, counts = wall(part).noisy_class_sums(pixels, clip=1.0, sigma=1.0, count_weight=0.5)
        assert counts is not None
        answers.append(torch.cat([sums.flatten(), 0.5 * counts]))
    assert float((answers[0] - answers[1]).norm()) == pytest.approx((1 + 0.25) ** 0.5)
    assert counts.tolist() == [11, 12, 12]


def test_a_row_that_is_not_finite_adds_nothing() -> None:
    def broken(images: Tensor, labels: Tensor) -> Tensor:
        rows = images.flatten(1).clone()
        rows[labels == 0, 3] = float("nan")
        rows[labels == 1, 5] = float("inf")
        return rows

    real = records()
    last = wall(real.subset((real.labels == 2).nonzero().flatten()), records=36)
    assert torch.allclose(
        wall(real).noisy_sum(broken, clip=1.0, sigma=1.0), last.noisy_sum(pixels, clip=1.0, sigma=1.0)
    )


@pytest.mark.parametrize("source", [SeededNoise(0), SystemNoise()], ids=["seeded", "system"])
def test_noise_has_the_planned_deviation_and_is_independent_of_the_records(source: NoiseSource) -> None:
    def long(images: Tensor, labels: Tensor) -> Tensor:
        return torch.zeros(len(images), 20_000)

    answer = wall(queries=Queries(3.0, 1.0, 1), noise=source).noisy_sum(long, clip=0.5, sigma=3.0)
    assert float(answer.std()) == pytest.approx(1.5, rel=0.03)
    assert abs(float(answer.mean())) < 6 * 1.5 / 20_000**0.5


def test_system_noise_is_standard_normal_and_never_repeats() -> None:
    draws = SystemNoise().gaussian((40_001,))
    assert draws.dtype == torch.float64 and abs(float(draws.mean())) < 0.03
    assert float(draws.std()) == pytest.approx(1, abs=0.02)
    assert float((draws.abs() < 1.96).double().mean()) == pytest.approx(0.95, abs=0.01)
    assert not torch.equal(draws, SystemNoise().gaussian((40_001,)))
    uniform = SystemNoise().uniform(10_000)
    assert float(uniform.min()) > 0 and float(uniform.max()) < 1
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.03)


def test_uniform_draws_stay_inside_their_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    # The largest word rounds up to 1 where its cell is not exact, and the smallest one has a logarithm.
    for byte, end in ((b"\xff", 1.0), (b"\x00", 0.0)):
        monkeypatch.setattr("ddkit.integrations.private.noise.os.urandom", lambda count, byte=byte: byte * count)
        draw = float(SystemNoise().uniform(1))
        assert 0 < draw < 1 and draw == pytest.approx(end)


def test_poisson_samples_have_the_planned_size_and_vary() -> None:
    private = wall(queries=Queries(0.01, 0.25, 60), noise=SeededNoise(0))
    sizes = [
        float(private.noisy_sum(lambda images, _: torch.ones(len(images), 1), clip=1.0, sigma=0.01, rate=0.25))
        for _ in range(60)
    ]
    assert len(set(map(round, sizes))) > 3 and all(abs(size - round(size)) < 0.1 for size in sizes)
    assert sum(sizes) / 60 == pytest.approx(9, abs=1.5)


def test_an_empty_sample_is_a_query_of_noise_alone_and_is_paid_for() -> None:
    private = wall(queries=Queries(1.0, 0.1, 2), noise=Nobody(0))
    seen = []

    def rows(images: Tensor, labels: Tensor) -> Tensor:
        seen.append(images)
        return images.flatten(1)

    answer = private.noisy_sum(rows, clip=1.0, sigma=1.0, rate=0.1)
    assert answer.shape == (64,) and float(answer.std()) > 0.5
    assert private.plan.made == 1
    assert all(torch.equal(images, private.public.batch(torch.tensor([0]))) for images in seen)


def test_a_query_beyond_the_plan_reads_nothing() -> None:
    private = wall()
    private.noisy_sum(pixels, clip=1.0, sigma=1.0)

    def never(images: Tensor, labels: Tensor) -> Tensor:
        raise AssertionError("records were read")

    with pytest.raises(PrivacyBudgetError, match="is refused"):
        private.noisy_sum(never, clip=1.0, sigma=1.0)
    with pytest.raises(PrivacyBudgetError, match="is not planned"):
        private.noisy_sum(never, clip=1.0, sigma=0.1)


@pytest.mark.parametrize(
    "rows",
    [
        lambda images, labels: torch.ones(len(images) + 1, 4),
        lambda images, labels: torch.ones(1, 4),
        lambda images, labels: torch.ones(len(images)),
        lambda images, labels: images,
    ],
)
def test_a_query_needs_one_row_per_record(rows: RecordFunction) -> None:
    with pytest.raises(ConfigError, match="it needs one row per record"):
        wall().noisy_sum(rows, clip=1.0, sigma=1.0)


@pytest.mark.parametrize("clip", [0.0, -1.0, float("inf"), float("nan")])
def test_a_bound_that_bounds_nothing_is_refused_before_it_is_paid_for(clip: float) -> None:
    private = wall()
    with pytest.raises(ConfigError, match="must be positive and finite"):
        private.noisy_sum(pixels, clip=clip, sigma=1.0)
    assert private.plan.made == 0


def test_the_stand_in_knows_shape_and_classes_and_not_one_pixel() -> None:
    real = records()
    public = wall(real).public
    assert (public.shape, public.class_names, len(public)) == (real.shape, real.class_names, real.num_classes)
    assert not bool(public.images.any())
    assert public.preprocessing.mean == (0.5,) and public.preprocessing.std == (0.5,)
    assert wall(records(seed=1)).public.fingerprint == public.fingerprint


@pytest.mark.parametrize("counts", [[1, 2], [1, 2, 0], [3, -1, 4], [1.5, 2, 3], "equal"])
def test_public_counts_must_fit_the_classes(counts: object) -> None:
    with pytest.raises(ConfigError, match=r"must be positive public whole numbers|one for each of 3 classes"):
        wall(counts=counts)


@pytest.mark.parametrize("constants", [(0.5,), (0.5, 0.0), "data", (0.1, float("nan"))])
def test_normalisation_must_be_public_constants(constants: object) -> None:
    with pytest.raises(ConfigError, match="must be public constants"):
        wall(normalisation=constants)
