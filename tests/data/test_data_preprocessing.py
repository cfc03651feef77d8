"""Does preprocessing equal its equations, and does it undo itself?"""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from ddkit.data import Preprocessing
from ddkit.data.whitening import MAXIMUM_ZCA_SIZE, channel_statistics, covariance
from ddkit.errors import DataError


def byte_images(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def correlated_images(generator: torch.Generator, count: int, *shape: int) -> Tensor:
    """Images whose pixels share a brightness, so that the covariance is far from diagonal."""
    brightness = torch.rand(count, 1, 1, 1, generator=generator)
    noise = torch.rand(count, *shape, generator=generator)
    return ((0.6 * brightness + 0.4 * noise) * 255).to(torch.uint8)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (3, 5, 9), (1, 28, 28), (3, 32, 32), (3, 224, 224)])
def test_uint8_and_float_images_are_standardised_alike(shape: tuple[int, int, int], generator: torch.Generator) -> None:
    images = byte_images(generator, 4, *shape)
    mean, std = (0.4914, 0.4822, 0.4465)[: shape[0]], (0.2023, 0.1994, 0.2010)[: shape[0]]
    column = (1, -1, 1, 1)
    oracle = images.double() / 255 - torch.tensor(mean, dtype=torch.float64).view(column)
    oracle /= torch.tensor(std, dtype=torch.float64).view(column)
    preprocessing = Preprocessing(mean, std)
    for given in (images, images.float() / 255, images.double() / 255):
        output = preprocessing.apply(given)
        assert output.dtype == torch.float32 and output.shape == images.shape
        torch.testing.assert_close(output.double(), oracle, atol=2e-6, rtol=0)
    inverted = preprocessing.invert(preprocessing.apply(images))
    torch.testing.assert_close(inverted, images / 255, atol=1e-6, rtol=0)


def test_apply_leaves_its_input_unchanged(generator: torch.Generator) -> None:
    images = torch.rand(2, 1, 4, 4, generator=generator)
    before = images.clone()
    Preprocessing((0.5,), (0.5,)).apply(images)
    Preprocessing((0.5,), (0.5,)).invert(images)
    assert torch.equal(images, before)


def test_invert_does_not_clip() -> None:
    preprocessing = Preprocessing((0.5,), (0.25,))
    inverted = preprocessing.invert(torch.tensor([-4.0, 4.0]).view(2, 1, 1, 1))
    assert inverted.flatten().tolist() == [-0.5, 1.5]


def test_identity_only_rescales(generator: torch.Generator) -> None:
    images = byte_images(generator, 3, 3, 4, 4)
    torch.testing.assert_close(Preprocessing.identity(3).apply(images), images / 255)


@pytest.mark.parametrize("zca", [False, True])
def test_float_images_are_differentiable_after_use_in_inference_mode(zca: bool, generator: torch.Generator) -> None:
    preprocessing = Preprocessing.fit(correlated_images(generator, 40, 1, 3, 3), zca=zca)
    images = torch.rand(2, 1, 3, 3, generator=generator).requires_grad_()
    with torch.inference_mode():
        preprocessing.apply(images)
        preprocessing.invert(images)
    (gradient,) = torch.autograd.grad(preprocessing.invert(preprocessing.apply(images)).sum(), images)
    torch.testing.assert_close(gradient, torch.ones_like(gradient), atol=1e-4, rtol=0)


def test_fitted_statistics_equal_the_float64_ones_for_any_chunking(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = byte_images(generator, 50, 3, 6, 4)
    images[:, 1] //= 2
    pixels = images.double().transpose(0, 1).flatten(1) / 255
    mean, std = channel_statistics(images)
    torch.testing.assert_close(mean, pixels.mean(1), atol=1e-14, rtol=0)
    torch.testing.assert_close(std, pixels.std(1, correction=0), atol=1e-14, rtol=0)
    monkeypatch.setattr("ddkit.data.whitening._CHUNK_BYTES", 7 * 72)
    again = channel_statistics(images)
    assert torch.equal(again[0], mean) and torch.equal(again[1], std)


def test_constant_channel_is_centred_and_not_scaled() -> None:
    images = torch.full((5, 1, 4, 4), 51, dtype=torch.uint8)
    preprocessing = Preprocessing.fit(images)
    assert preprocessing.std == (1.0,)
    assert preprocessing.apply(images).abs().max() < 1e-6


def test_covariance_is_exact_beyond_one_chunk(generator: torch.Generator) -> None:
    images = byte_images(generator, 2500, 1, 3, 5)
    flat = images.flatten(1).double()
    mean, cov = covariance(images)
    torch.testing.assert_close(mean, flat.mean(0), atol=1e-10, rtol=0)
    torch.testing.assert_close(cov, torch.cov(flat.T, correction=0), atol=1e-8, rtol=0)


def test_covariance_of_extreme_bytes_is_exact() -> None:
    images = torch.zeros(2048, 1, 2, 2, dtype=torch.uint8)
    images[1::2] = 255
    assert torch.equal(covariance(images)[1], torch.full((4, 4), 127.5**2, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 3, 4)])
def test_whitened_covariance_matches_its_closed_form(shape: tuple[int, int, int], generator: torch.Generator) -> None:
    images = correlated_images(generator, 300, *shape)
    preprocessing = Preprocessing.fit(images, zca=True, regularisation=0.1)
    assert preprocessing.zca_matrix is not None and preprocessing.zca_inverse is not None
    pixels = images.double().flatten(2) / 255
    channels = pixels.transpose(0, 1).flatten(1)
    standardised = (pixels - channels.mean(1)[:, None]) / channels.std(1, correction=0)[:, None]
    cov = torch.cov(standardised.flatten(1).T, correction=0)
    values, vectors = torch.linalg.eigh(cov)
    ridge = 0.1 * cov.trace() / len(cov)
    matrix = preprocessing.zca_matrix.double()
    expected = vectors @ torch.diag(values / (values + ridge)) @ vectors.T
    torch.testing.assert_close(matrix @ cov @ matrix, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(matrix, matrix.T, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        torch.linalg.matrix_power(matrix @ matrix, -1),
        cov + ridge * torch.eye(len(cov), dtype=torch.float64),
        atol=1e-4,
        rtol=0,
    )
    output = preprocessing.apply(images).double().flatten(1)
    torch.testing.assert_close(output.mean(0), torch.zeros(len(cov)).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cov(output.T, correction=0), expected, atol=1e-5, rtol=0)


def test_whitening_of_pixels_adds_its_regularisation_to_unstandardised_eigenvalues(generator: torch.Generator) -> None:
    images = correlated_images(generator, 300, 3, 3, 4)
    preprocessing = Preprocessing.fit(images, zca="pixels", regularisation=0.1)
    cov = torch.cov((images.double() / 255).flatten(1).T, correction=0)
    values, vectors = torch.linalg.eigh(cov)
    expected = vectors @ torch.diag(values / (values + 0.1)) @ vectors.T
    output = preprocessing.apply(images).double().flatten(1)
    torch.testing.assert_close(torch.cov(output.T, correction=0), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(preprocessing.invert(preprocessing.apply(images)), images / 255, atol=1e-5, rtol=0)


def test_unknown_whitening_is_refused(generator: torch.Generator) -> None:
    with pytest.raises(DataError, match="standardised or pixels"):
        Preprocessing.fit(correlated_images(generator, 5, 1, 4, 4), zca="sphering")  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 5)])
def test_zca_inverse_undoes_zca(shape: tuple[int, int, int], generator: torch.Generator) -> None:
    images = correlated_images(generator, 100, *shape)
    preprocessing = Preprocessing.fit(images, zca=True)
    torch.testing.assert_close(preprocessing.invert(preprocessing.apply(images)), images / 255, atol=1e-5, rtol=0)


def test_whitening_fewer_images_than_pixels_stays_finite(generator: torch.Generator) -> None:
    images = correlated_images(generator, 3, 1, 8, 8)
    preprocessing = Preprocessing.fit(images, zca=True)
    assert bool(preprocessing.apply(images).isfinite().all())


@pytest.mark.parametrize("zca", [False, True])
def test_parts_survive_json_and_pickle(zca: bool, generator: torch.Generator) -> None:
    preprocessing = Preprocessing.fit(correlated_images(generator, 30, 3, 4, 4), zca=zca)
    preprocessing.apply(torch.zeros(1, 3, 4, 4))
    metadata = json.loads(json.dumps(preprocessing.metadata()))
    rebuilt = Preprocessing.from_tensors(preprocessing.to_tensors(), metadata)
    assert rebuilt == preprocessing and hash(rebuilt) == hash(preprocessing)
    assert pickle.loads(pickle.dumps(preprocessing)) == preprocessing
    assert bool(preprocessing.to_tensors()) == zca
    assert rebuilt != Preprocessing.identity(3)
    assert preprocessing != "preprocessing"


def test_zca_tensors_count_in_equality(generator: torch.Generator) -> None:
    preprocessing = Preprocessing.fit(correlated_images(generator, 30, 1, 3, 3), zca=True)
    tensors = preprocessing.to_tensors()
    changed = {**tensors, "zca_mean": tensors["zca_mean"] + 1}
    assert Preprocessing.from_tensors(changed, preprocessing.metadata()) != preprocessing


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((), (), "0 means"),
        ((0.1, 0.2), (1.0,), "2 means and 1 standard"),
        ("abc", (1.0,), "0 means"),
        ((0.1,), (0.0,), "positive finite"),
        ((float("nan"),), (1.0,), "finite means"),
        ((0.1,), (float("inf"),), "positive finite"),
    ],
)
def test_bad_constants_are_refused(mean: Any, std: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Preprocessing(mean, std)
    assert "\n" not in str(caught.value)


def test_inconsistent_zca_tensors_are_refused() -> None:
    eye = torch.eye(4)
    with pytest.raises(DataError, match="incomplete"):
        Preprocessing((0.0,), (1.0,), torch.zeros(4), eye)
    with pytest.raises(DataError, match="have shapes"):
        Preprocessing((0.0,), (1.0,), torch.zeros(4), eye, torch.eye(3))
    with pytest.raises(DataError, match="multiple of the 3 channels"):
        Preprocessing((0.0,) * 3, (1.0,) * 3, torch.zeros(4), eye, eye)
    with pytest.raises(DataError, match="zca_matrix holds NaN"):
        Preprocessing((0.0,), (1.0,), torch.zeros(4), eye * float("nan"), eye)


@pytest.mark.parametrize("key", ["mean", "std", "zca"])
def test_metadata_of_a_wrong_type_is_refused(key: str) -> None:
    metadata = Preprocessing.identity(1).metadata()
    with pytest.raises(DataError, match=f"{key}='x'"):
        Preprocessing.from_tensors({}, {**metadata, key: "x"})
    del metadata[key]
    with pytest.raises(DataError, match=f"{key}=None"):
        Preprocessing.from_tensors({}, metadata)


def test_metadata_that_promises_absent_tensors_is_refused() -> None:
    with pytest.raises(DataError, match="lacks zca_mean, zca_matrix, zca_inverse"):
        Preprocessing.from_tensors({}, {"mean": [0.0], "std": [1.0], "zca": True})
    with pytest.raises(DataError, match="0 means"):
        Preprocessing.from_tensors({}, {"mean": ["a"], "std": [1.0], "zca": False})


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (3, 4, 4), (2, 4, 4, 3)])
def test_images_with_another_channel_count_are_refused(shape: tuple[int, ...]) -> None:
    preprocessing = Preprocessing.identity(3)
    for use in (preprocessing.apply, preprocessing.invert):
        with pytest.raises(DataError, match="for 3 channels"):
            use(torch.zeros(shape))


def test_images_of_another_size_than_the_whitened_are_refused(generator: torch.Generator) -> None:
    preprocessing = Preprocessing.fit(correlated_images(generator, 20, 1, 4, 4), zca=True)
    with pytest.raises(DataError, match="1 channel and 16 whitened values"):
        preprocessing.apply(torch.zeros(1, 1, 4, 5))


def test_integer_images_other_than_bytes_are_refused() -> None:
    with pytest.raises(DataError, match=r"torch\.int64 images: give uint8"):
        Preprocessing.identity(1).apply(torch.zeros(1, 1, 2, 2, dtype=torch.int64))


def test_fit_refuses_what_it_cannot_fit(generator: torch.Generator) -> None:
    images = correlated_images(generator, 10, 1, 3, 3)
    for bad in (images.float(), images[0], images[:0]):
        with pytest.raises(DataError, match="cannot fit preprocessing"):
            Preprocessing.fit(bad)
    for regularisation in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(DataError, match="regularisation"):
            Preprocessing.fit(images, zca=True, regularisation=regularisation)
    with pytest.raises(DataError, match="all images are the same"):
        Preprocessing.fit(images[:1].expand(4, -1, -1, -1), zca=True)
    with pytest.raises(DataError, match=f"at most {MAXIMUM_ZCA_SIZE} values"):
        Preprocessing.fit(torch.zeros(1, 3, 224, 224, dtype=torch.uint8), zca=True)
