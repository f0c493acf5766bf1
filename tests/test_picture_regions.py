"""Features inside boxes, by hand and by a loop; EfficientNet-Lite0 by its published figures."""

import numpy as np
import pytest
import torch
from PIL import Image

from kddcup.pictures.backbones import Pixels, load_default
from kddcup.pictures.lite import load_lite, load_plain_lite
from kddcup.pictures.regions import CROPS, SAMPLES, cut_grid, pool_boxes, weigh_cells, weigh_samples


@pytest.fixture
def ramp():
    """[1, 4, 4]: 0 … 15, row after row."""
    return torch.arange(16.0).view(1, 4, 4)


@pytest.mark.parametrize(
    ("box", "mean"),
    [
        ((0, 0, 1, 1), 7.5),
        ((0, 0, 0.5, 0.5), (0 + 1 + 4 + 5) / 4),
        ((0.5, 0.25, 1, 0.5), (9 + 13) / 2),
        ((0.2, 0.2, 0.8, 0.8), (5 + 6 + 9 + 10) / 4),  # the outer cells' centres lie at .125 and .875
        ((0.3, 0.3, 0.31, 0.31), 5),  # no centre is inside: the nearest
        ((1, 1, 1, 1), 15),
    ],
)
def test_crops_take_the_mean_of_the_cells_inside(ramp, box, mean):
    assert pool_boxes(ramp, torch.tensor([box], dtype=torch.float32), weigh_cells).item() == pytest.approx(
        mean
    )


def test_sampling_by_hand():
    # Cells' centres lie at .25 and .75; beyond them the value stays, between them it rises.
    feature_map = torch.tensor([[[0.0, 4.0]]])
    for left, right, expected in ((0, 0.2, 0), (0.25, 0.75, 2), (0.25, 0.5, 1), (0.8, 1, 4), (0.5, 0.5, 2)):
        box = torch.tensor([[0, left, 1, right]])
        assert pool_boxes(feature_map, box, weigh_samples).item() == pytest.approx(expected, abs=1e-6)


def sample(feature_map, y, x):
    """Bilinear interpolation as in RoIAlign, of one point."""
    height, width = feature_map.shape[1:]
    y, x = (min(max(share * cells - 0.5, 0), cells - 1) for share, cells in ((y, height), (x, width)))
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = y - top, x - left
    upper = feature_map[:, top, left] * (1 - across) + feature_map[:, top, right] * across
    lower = feature_map[:, bottom, left] * (1 - across) + feature_map[:, bottom, right] * across
    return upper * (1 - down) + lower * down


def test_sampling_is_roialign_by_a_loop():
    generator = torch.Generator().manual_seed(0)
    feature_map = torch.rand(3, 5, 7, generator=generator, dtype=torch.float64).float()
    corners = torch.rand(6, 2, 2, generator=generator).sort(1).values
    boxes = corners.flatten(1)
    expected = []
    for top, left, bottom, right in boxes.tolist():
        steps = [(i + 0.5) / SAMPLES for i in range(SAMPLES)]
        points = [
            sample(feature_map, top + v * (bottom - top), left + u * (right - left))
            for v in steps
            for u in steps
        ]
        expected.append(torch.stack(points).mean(0))
    torch.testing.assert_close(pool_boxes(feature_map, boxes, weigh_samples), torch.stack(expected))


def test_a_batch_is_pooled_as_its_maps_are():
    maps = torch.rand(2, 3, 8, 11)
    boxes = torch.from_numpy(CROPS)
    both = pool_boxes(maps, boxes, weigh_cells)
    assert both.shape == (2, 6, 3)
    torch.testing.assert_close(both[1], pool_boxes(maps[1], boxes, weigh_cells))


def test_a_grid_tiles_the_picture():
    boxes = cut_grid(2)
    assert boxes.tolist() == [[0, 0, 0.5, 0.5], [0, 0.5, 0.5, 1], [0.5, 0, 1, 0.5], [0.5, 0.5, 1, 1]]
    assert cut_grid(1).tolist() == [[0, 0, 1, 1]]


@torch.inference_mode()
def test_lite_has_its_published_map():
    pixels = ((torch.arange(3 * 224 * 224) * 31 % 251) / 125.5 - 1).view(1, 3, 224, 224)
    plain, fast = (load()(pixels).last_hidden_state for load in (load_plain_lite, load_lite))
    for feature_map in (plain, fast):
        assert feature_map.shape == (1, 1280, 7, 7)
        assert feature_map.sum().item() == pytest.approx(7853.13, rel=1e-5)
        assert feature_map.max().item() == 6
        means = feature_map.mean((0, 2, 3))[:4].tolist()
        assert means == pytest.approx([1.17529, 0, 1.25329, 0], rel=1e-5, abs=1e-9)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "scaled"),  # both width × height
    [
        ((256, 256), (256, 256)),
        ((1000, 500), (512, 256)),
        ((300, 400), (256, 352)),  # 341 to the next multiple of 32
        ((1, 1), (256, 256)),
        ((5000, 10), (1024, 256)),  # squeezed
        ((260, 256), (256, 256)),
    ],
)
def test_the_short_side_is_256_pixels(size, scaled):
    assert Pixels().scale(Image.new("RGB", size)).shape == (scaled[1], scaled[0], 3)
    assert Pixels(side=224, is_square=True).scale(Image.new("RGB", size)).shape == (224, 224, 3)


def test_pixels_are_normalised_by_imagenet():
    found = Pixels().normalise([np.full((2, 2, 3), 255, np.uint8)], torch.device("cpu"))
    expected = (1 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(found[0, :, 0, 0], expected, rtol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def test_the_default_takes_pictures_as_they_are_scaled():
    backbone = load_default("float32")
    view = backbone.pixels.scale(Image.new("RGB", (640, 320), "red"))
    assert backbone([view, view], torch.device("cpu")).shape == (2, backbone.dim, 8, 16)
