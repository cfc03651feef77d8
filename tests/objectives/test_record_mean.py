"""Does the real signal answer for single records, and do stages and pools serve what a signal asks of them?"""

from __future__ import annotations

import itertools

import torch

from ddkit.base.config import DistillConfig
from ddkit.engine import Session
from ddkit.networks import FixedNetworks, SyntheticTrainedNetworks
from ddkit.networks.real_signal import RealSignal
from ddkit.testing.small import toy_data


class Watching(RealSignal):
    """Remembers the source of the networks."""

    def connect(self, networks: object) -> None:
        self.networks = networks


def session(**options: object) -> Session:
    values = {
        "ipc": 1,
        "steps": 8,
        "objective": {"name": "gradient", "real_batch": 4},
        "model": "mlp:width=8",
        "recipe": "dc",
        **options,
    }
    made = Session(DistillConfig.create(values), toy_data(), {"signal": Watching()})
    made.start()
    return made


def test_the_mean_over_all_records_is_the_mean_of_their_rows() -> None:
    made = session()
    real = made.real
    mean = made.signal.record_mean(lambda images, labels: images.flatten(1) * (1 + labels[:, None]), len(real), "x")
    rows = real.batch(torch.arange(len(real))).flatten(1) * (1 + real.labels[:, None])
    assert torch.allclose(mean, rows.mean(0), atol=1e-6)


def test_a_signal_meets_the_source_of_networks_before_the_first_step() -> None:
    made = session(networks={"name": "fixed", "count": 3})
    assert isinstance(made.signal, Watching) and made.signal.networks is made.networks


def test_a_pool_hands_out_the_network_that_is_selected() -> None:
    made = session(networks={"name": "fixed", "count": 3})
    pool = made.networks
    assert isinstance(pool, FixedNetworks)
    seen = [pool.select(number).snapshot() for number in (0, 2, 0)]
    assert all(torch.equal(seen[0][name], seen[2][name]) for name in seen[0])
    assert not torch.equal(*(weights["classifier.weight"] for weights in seen[:2]))
    assert pool.number == 0
    current = pool.current().snapshot()
    assert torch.equal(current["classifier.weight"], pool.select(pool.number).snapshot()["classifier.weight"])


def test_a_stage_of_several_updates_trains_the_network_once() -> None:
    made = session(networks={"name": "synthetic-trained", "outer_loop": 2, "inner_epochs": 1, "updates": 3})
    source = made.networks
    assert isinstance(source, SyntheticTrainedNetworks) and source.life() == 6
    weights = []
    for step in range(1, 8):
        weights.append(made.networks.network.snapshot()["classifier.weight"] if step > 1 else None)
        made.step(step)
    weights.append(made.networks.network.snapshot()["classifier.weight"])
    changed = [not torch.equal(a, b) for a, b in itertools.pairwise(weights[1:])]
    # Trained after step 3 of the first network; replaced when step 7 asks for the next.
    assert changed == [False, True, False, False, False, True]
