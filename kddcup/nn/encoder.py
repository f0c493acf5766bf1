"""The image encoder that all three stages share."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kddcup.config import ModelConfig
from kddcup.data.batch import BOX_COLUMNS, RegionBatch


class ImageEncoder(nn.Module):
    """From the regions of B images to 1 + H heads each: a caption head and H label heads.

    Parameter names and shapes are those of the published checkpoints (part ``item``).

    It has two doors: :meth:`regions` gives the regions in the context of their image, :meth:`pool` the heads;
    :meth:`weigh` tells how much each region counts there.
    All of it but the attention scores runs on [R, D], the regions there are. The second Linear of ``dense``
    runs once per image, after the weighted sum over regions: it is linear, and an image's weights sum to 1.
    Its plain twin, on padded images, is :class:`benchmarks.reference.PaddedEncoder`.

    Args:
        config: widths.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, heads = config.region_dim, config.heads * config.width
        self.width, self.dropout, self.feature_length = config.width, config.dropout, config.feature_length
        self.box_encoding = nn.Sequential(nn.Linear(BOX_COLUMNS, 100), nn.PReLU(), nn.Linear(100, dim))
        self.norm = nn.LayerNorm(dim)
        # Lists of one, as the published names have it.
        self.encoders = nn.ModuleList([nn.MultiheadAttention(dim, config.attention_heads)])
        self.activations = nn.ModuleList([nn.PReLU()])
        self.ffs = nn.ModuleList(
            [nn.Sequential(nn.Linear(dim, config.ff), nn.PReLU(), nn.Linear(config.ff, dim), nn.PReLU())]
        )
        self.dense_summary = nn.Sequential(
            nn.Linear(dim, 512),
            nn.PReLU(),
            nn.Linear(512, 256),
            nn.PReLU(),
            nn.Linear(256, 128),
            nn.PReLU(),
            nn.Linear(128, 1),
        )
        self.dense = nn.Sequential(nn.Linear(dim, heads), nn.PReLU(), nn.Linear(heads, heads))

    def freeze_context(self) -> None:
        """Keep all but ``dense`` and ``dense_summary`` as they are; dropout stays active in train mode."""
        for part in (self.box_encoding, self.norm, self.encoders, self.activations, self.ffs):
            part.requires_grad_(False)

    def forward(self, images: RegionBatch, heads: int | None = None) -> Tensor:
        """Encode B images of at least one region each; arguments and result as in :meth:`pool`."""
        return self.pool(self.regions(images), images.lengths, heads)

    def regions(self, images: RegionBatch) -> Tensor:
        """Put each region's feature into the context of its image.

        Args:
            images: of R regions in all.

        Returns:
            [R, D].
        """
        # What is frozen needs no gradient, and its activations need not be kept.
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.norm.weight.requires_grad):
            features = scale_features(images.features, self.feature_length)
            x = self.norm(features + self.box_encoding(images.boxes))  # [R, D]
            x = F.dropout(x, self.dropout, self.training)
            for attention, activation, ff in zip(self.encoders, self.activations, self.ffs, strict=True):
                x = ff(activation(x + self._attend(attention, x, images.lengths)))  # [R, D]
            return x

    def pool(self, regions: Tensor, lengths: Tensor, heads: int | None = None) -> Tensor:
        """Sum up each image's regions, weighted, into its heads.

        Args:
            regions: [R, D] of :meth:`regions`.
            lengths: [B] regions per image, in CPU memory.
            heads: compute only so many of the heads, the caption head first; all by default.

        Returns:
            [B, heads, E].
        """
        count = len(lengths)
        image = _find_images(lengths, regions.device)
        weight = self._weigh(regions, image, count)  # [R, 1]
        hidden = weight * self.dense[1](self.dense[0](regions))  # [R, (1+H)·E]
        summed = hidden.new_zeros(count, hidden.shape[1]).index_add(0, image, hidden)  # [B, (1+H)·E]
        last = self.dense[2]
        if heads is None:  # a slice of all would cost a copy of the gradient
            flat = last(summed)
        else:
            rows = heads * self.width
            flat = F.linear(summed, last.weight[:rows], last.bias[:rows])
        return flat.view(count, -1, self.width)  # [B, heads, E]

    def weigh(self, regions: Tensor, lengths: Tensor) -> Tensor:
        """Give the weights [R] at which :meth:`pool`, of the same arguments, sums up regions."""
        return self._weigh(regions, _find_images(lengths, regions.device), len(lengths)).squeeze(1)

    def _weigh(self, regions: Tensor, image: Tensor, images: int) -> Tensor:
        return _softmax_per_image(self.dense_summary(regions), image, images)

    def _attend(self, attention: nn.MultiheadAttention, x: Tensor, lengths: Tensor) -> Tensor:
        """Self-attention of the regions within each image, [R, D]; only here is padding."""
        dim, longest = x.shape[1], int(lengths.max())
        place = torch.arange(longest)
        real = (place < lengths[:, None]).to(x.device, non_blocking=True)  # [B, L]
        # Where region r stands among the B·L padded places, known without asking the device.
        starts = torch.arange(len(lengths)) * longest - (lengths.cumsum(0) - lengths)
        spots = (torch.repeat_interleave(starts, lengths) + torch.arange(len(x))).to(
            x.device, non_blocking=True
        )
        projected = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)  # [R, 3D]
        padded = projected.new_zeros(len(lengths) * longest, 3 * dim).index_copy(0, spots, projected)
        query, key, value = padded.view(len(lengths), longest, 3, attention.num_heads, -1).permute(
            2, 0, 3, 1, 4
        )  # [3, B, heads, L, ·]
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=real[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        flat = attended.transpose(1, 2).reshape(-1, dim)[spots]  # [R, D]
        return attention.out_proj(flat)


def _find_images(lengths: Tensor, device: torch.device) -> Tensor:
    """[R] which image a region is of."""
    image = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    return image.to(device, non_blocking=True)


def scale_features(features: Tensor, length: float) -> Tensor:
    """Make sign(x)·√|x| of features [R, D], each scaled to ``length``; 0 leaves them as they are.

    As Perronnin, Sánchez and Mensink (2010) normalise: a few large values do not hide the rest.
    """
    if not length:
        return features
    return length * F.normalize(features.sign() * features.abs().sqrt(), dim=1)


def _softmax_per_image(scores: Tensor, image: Tensor, images: int) -> Tensor:
    """Softmax of [R, 1] scores over the regions of each image, in float32."""
    scores, index = scores.float(), image[:, None]
    with torch.no_grad():
        highest = scores.new_full((images, 1), -torch.inf).scatter_reduce(0, index, scores, "amax")
    exponentials = (scores - highest[image]).exp()
    return exponentials / scores.new_zeros(images, 1).index_add(0, image, exponentials)[image]
