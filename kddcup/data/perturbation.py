"""Images as a model in training sees them: some regions are missing, and features are disturbed."""

import numpy as np
import torch

from kddcup.data.batch import RegionBatch


class Perturbation:
    """Drops regions and multiplies features by noise. What a row gets depends on seed, sweep and row alone.

    Args:
        region_drop: probability that a region is left out; one of an image stays at least.
        feature_noise: deviation of the normal noise around 1 that each number of a feature is multiplied by.
        seed: of the run.
    """

    def __init__(self, region_drop: float, feature_noise: float, seed: int) -> None:
        self._region_drop, self._feature_noise, self._seed = region_drop, feature_noise, seed

    def __call__(self, images: RegionBatch, rows: np.ndarray, sweep: int) -> RegionBatch:
        """Perturb the images of these rows [B] of the table in a sweep over it."""
        kept, noise = [], []
        for row, regions in zip(rows.tolist(), images.lengths.tolist(), strict=True):
            rng = np.random.default_rng([self._seed, sweep, row])
            stays = rng.random(regions) >= self._region_drop
            stays[rng.integers(regions)] |= not stays.any()
            kept.append(stays)
            if self._feature_noise:
                shape = (np.count_nonzero(stays), images.features.shape[1])
                noise.append(rng.standard_normal(shape, np.float32))
        stays = torch.from_numpy(np.concatenate(kept))
        features = images.features[stays]
        if noise:
            features *= 1 + self._feature_noise * torch.from_numpy(np.concatenate(noise))
        lengths = torch.tensor([np.count_nonzero(stays) for stays in kept])
        return RegionBatch(features, images.boxes[stays], lengths)
