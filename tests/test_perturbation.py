import numpy as np
import pytest
import torch

from kddcup.data.batch import RegionBatch
from kddcup.data.perturbation import Perturbation
from tests import small


def perturbed(
    images: RegionBatch, rows, sweep: int = 0, seed: int = 1, drop: float = 0.5, noise: float = 0.5
):
    return Perturbation(drop, noise, seed)(images, np.array(rows), sweep)


def test_what_a_row_gets_depends_on_seed_sweep_and_row_alone():
    images = small.images(6, 6, 6, 6)
    whole = perturbed(images, [3, 8, 5, 8])
    begin = int(whole.lengths[0])
    end = begin + int(whole.lengths[1])
    alone = perturbed(small.images(6, 6, 6, 6), [0, 8, 0, 0])
    first = int(alone.lengths[0])
    assert alone.lengths[1] == whole.lengths[1] == whole.lengths[3]
    assert torch.equal(alone.features[first : first + end - begin], whole.features[begin:end])
    for other in (perturbed(images, [3, 8, 5, 8], sweep=1), perturbed(images, [3, 8, 5, 8], seed=2)):
        assert not torch.equal(other.lengths, whole.lengths) or not torch.equal(
            other.features, whole.features
        )


def test_regions_are_dropped_at_their_rate_and_one_stays_at_least():
    images = small.images(*[5] * 2000)
    found = perturbed(images, range(2000), drop=0.3, noise=0)
    assert found.lengths.sum().item() / 10_000 == pytest.approx(0.7, abs=0.02)
    kept = {tuple(row) for row in images.features.tolist()}
    assert all(tuple(row) in kept for row in found.features[:50].tolist())
    assert found.lengths.sum() == len(found.features) == len(found.boxes)
    lonely = perturbed(small.images(*[2] * 500), range(500), drop=0.99, noise=0)
    assert lonely.lengths.min() == 1
    assert lonely.lengths.float().mean() < 1.1
    # Which one stays is drawn too.
    first, second = (small.images(*[2] * 500).features[place::2] for place in (0, 1))
    single = lonely.lengths == 1
    starts = lonely.lengths.cumsum(0) - lonely.lengths
    chosen = lonely.features[starts[single]]
    for candidates in (first, second):
        assert 100 < (chosen == candidates[single]).all(1).sum() < 400


def test_a_box_goes_with_its_region():
    images = small.images(*[4] * 100)
    images.boxes[:, 0] = images.features[:, 0]
    found = perturbed(images, range(100), noise=0)
    assert torch.equal(found.boxes[:, 0], found.features[:, 0])


def test_noise_multiplies_each_number_by_a_normal_one_around_1():
    images = RegionBatch(torch.full((500, 8), 2.0), torch.rand(500, 5), torch.full((100,), 5))
    found = perturbed(images, range(100), drop=0, noise=0.3)
    factors = found.features / 2
    assert factors.mean().item() == pytest.approx(1, abs=0.03)
    assert factors.std().item() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(found.boxes, images.boxes)
    assert (images.features == 2).all()
