"""What sets cost: one price for distilled and real ones."""

import pytest
import torch

from ddkit.data.distilled.budget import Budget, label_bytes, payload
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.preprocessing import Preprocessing


def make(labels, images=None, **options):
    labels = torch.tensor(labels)
    images = torch.rand(len(labels), 1, 4, 4) if images is None else images
    names = options.pop("class_names", ("a", "b", "c"))
    return DistilledDataset(
        images, labels, class_names=names, preprocessing=Preprocessing(mean=(0.5,), std=(0.5,)), **options
    )


@pytest.mark.parametrize(
    ("labels", "classes", "cost"),
    [
        ([0, 0, 1, 2], 3, 0),
        ([1, 0, 2], 3, 1),
        ([1, 0] * 8, 2, 2),
        ([2, 0, 1, 1, 0], 3, 2),
        ([5, 1], 1000, 3),
        ([0], 1, 0),
    ],
)
def test_hard_labels_cost_what_tells_the_classes_apart(labels, classes, cost):
    assert label_bytes(torch.tensor(labels), classes) == cost


def test_every_other_tensor_costs_its_bytes_and_so_does_what_it_needs():
    stored = {"images": torch.zeros(2, 3), "labels": torch.zeros(2, 4), "decoder": torch.zeros(5, dtype=torch.float16)}
    assert payload(stored, 4, [torch.zeros(3, 3)]) == 24 + 32 + 10 + 36


def test_a_real_and_a_distilled_set_have_the_same_price_of_a_label():
    learned, real = make([0, 1, 2]), make([0, 1, 2], (torch.rand(3, 1, 4, 4) * 255).to(torch.uint8))
    assert learned.budget.payload == 4 * 48
    assert real.budget.payload == 48
    assert make([2, 1, 0]).budget.payload == 4 * 48 + 1


def test_the_price_of_a_coded_set_is_what_its_file_keeps_as_tensors():
    coded = make([0, 1, 2]).coded("uniform:bits=4")
    assert coded.budget.payload == coded.budget.bytes == sum(part.nbytes for part in coded.coding.parts().values())


def test_whitening_counts():
    plain = make([0, 1, 2])
    whitening = {"zca_mean": torch.zeros(16), "zca_matrix": torch.eye(16), "zca_inverse": torch.eye(16)}
    preprocessing = Preprocessing.from_tensors(whitening, {"mean": (0.0,), "std": (1.0,), "zca": True})
    whitened = DistilledDataset(plain.images, plain.labels, class_names=plain.class_names, preprocessing=preprocessing)
    held = sum(tensor.nbytes for tensor in preprocessing.to_tensors().values())
    assert whitened.budget.payload == plain.budget.payload + held > plain.budget.payload


def test_the_file_is_counted_once_there_is_one(tmp_path):
    distilled = make([0, 1, 2])
    assert distilled.budget.file is None and "file" not in distilled.budget.as_dict()
    path = distilled.save(tmp_path / "set.safetensors")
    assert distilled.budget.file == path.stat().st_size == DistilledDataset.load(path).budget.file
    assert distilled.budget.payload < distilled.budget.file


def test_a_file_keeps_the_four_numbers_that_do_not_follow_from_it():
    assert set(Budget(1, 1, 4, 16, payload=16, file=100).kept()) == {"images", "decoded_images", "floats", "bytes"}
