"""Which images a student of meta-learning sees in which step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ddkit.errors import ConfigError
from ddkit.objectives.meta_order import InnerOrder
from ddkit.synthesis import MultiFormation, Pixels, Synthesizer

SHAPE = (1, 8, 8)


def batches(order: InnerOrder, synthesizer: Synthesizer, seed: int = 0) -> list[Tensor]:
    return order.batches(synthesizer, torch.Generator().manual_seed(seed))


def test_fixed_runs_follow_each_other_and_repeat() -> None:
    found = batches(InnerOrder("fixed", 5, 2, None), Pixels(3, 4, SHAPE))
    first, second = [0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]
    assert [batch.tolist() for batch in found] == [first, second, first, second, first]


def test_a_number_of_batches_stays_right_where_a_code_is_decoded_into_several_images() -> None:
    order = InnerOrder("fixed", 6, None, None, batches=3)
    plain = Pixels(2, 3, SHAPE)
    assert (order.taken(plain), order.runs(plain)) == (1, 3)
    with pytest.warns(UserWarning, match="factor 2 decodes"):
        several = MultiFormation(2, 3, SHAPE, factor=2)
    order.check(several)
    assert (order.taken(several), order.runs(several)) == (4, 3)
    seen = torch.cat(batches(order, several)[:3])
    assert sorted(seen.tolist()) == list(range(24))


@pytest.mark.parametrize(
    ("options", "message"),
    [(("random", 6, None, None, 3), "leave it out"), (("fixed", 6, 1, None, 3), "leave it out")],
)
def test_a_number_of_batches_goes_with_a_fixed_order_alone(options, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        InnerOrder(*options)


def test_a_number_of_batches_that_does_not_divide_becomes_a_divisor() -> None:
    order, pixels = InnerOrder("fixed", 6, None, None, batches=4), Pixels(2, 6, SHAPE)
    with pytest.warns(UserWarning, match="does not divide the 6 decoded images of a class: 3 batches of 2"):
        order.check(pixels)
    assert (order.runs(pixels), order.taken(pixels)) == (3, 2)


def test_batches_hold_the_labels_of_their_images() -> None:
    labels = torch.eye(3).repeat_interleave(4, dim=0)
    synthesizer = Pixels(3, 4, SHAPE, labels=labels)
    for batch in batches(InnerOrder("fixed", 2, 2, None), synthesizer):
        targets = synthesizer(batch)[1]
        assert targets.argmax(1).tolist() == [0, 0, 1, 1, 2, 2] == synthesizer.classes[batch].tolist()


def test_random_rows_are_distinct_within_a_step_and_new_in_every_step() -> None:
    synthesizer = Pixels(3, 6, SHAPE)
    found = batches(InnerOrder("random", 20, 4, None), synthesizer)
    for batch in found:
        assert len(set(batch.tolist())) == 12
        assert synthesizer.classes[batch].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert len({tuple(batch.tolist()) for batch in found}) > 10
    assert set(torch.cat(found).tolist()) == set(range(18))
    assert [b.tolist() for b in batches(InnerOrder("random", 20, 4, None), synthesizer)] == [b.tolist() for b in found]


def test_more_random_rows_than_images_are_warned_of_and_all_are_taken() -> None:
    order, synthesizer = InnerOrder("random", 2, 9, None), Pixels(3, 2, SHAPE)
    with pytest.warns(UserWarning, match="batch_per_class=9, but a class has 2 decoded images"):
        order.check(synthesizer)
    assert order.taken(synthesizer) == 2


def test_shuffled_batches_are_those_of_the_synthesizer() -> None:
    synthesizer = Pixels(3, 4, SHAPE)
    expected = synthesizer.inner_batches(4, 5, torch.Generator().manual_seed(3))
    found = batches(InnerOrder("shuffled", 4, None, 5), synthesizer, 3)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


@pytest.mark.filterwarnings("ignore:factor 2 decodes")
def test_batches_of_many_decoded_images_choose_a_size_that_reaches_all() -> None:
    synthesizer = MultiFormation(3, 3, SHAPE, factor=2, batch_images=5)  # 12 decoded images of each class
    assert InnerOrder("random", 2, None, None).taken(synthesizer) == 5
    assert InnerOrder("fixed", 12, None, None).taken(synthesizer) == 4, "the largest divisor up to 5"
    assert InnerOrder("fixed", 2, None, None).taken(synthesizer) == 6, "two steps reach no more than two runs"
    for steps in (1, 2, 3, 30):
        order = InnerOrder("fixed", steps, None, None)
        order.check(synthesizer)
        assert set(torch.cat(batches(order, synthesizer)).tolist()) == set(range(len(synthesizer)))


def test_classes_without_images_do_not_shift_the_others() -> None:
    synthesizer = Pixels(5, 2, SHAPE, classes=[1, 4])
    order = InnerOrder("fixed", 2, 1, None)
    assert [synthesizer.classes[batch].tolist() for batch in batches(order, synthesizer)] == [[1, 4], [1, 4]]
    assert order.batch_size(synthesizer) == 2
