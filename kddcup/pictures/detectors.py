"""Detectors of transformers: boxes, and features pooled inside them.

Of each of a detector's queries the surest class is taken, so that a query gives one box. (transformers'
post-processing of RT-DETR and its kin takes the best of queries × classes, in which a query comes several
times and is not known by its number.) Boxes come as centre, width and height, and go as top, left, bottom,
right.
"""

import json
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kddcup.io.errors import UserError, explain_error, make_printable
from kddcup.pictures.backbones import Backbone, Precision, count_patches, lay_out
from kddcup.pictures.regions import WHOLE_PICTURE, Regions, pool_boxes, weigh_samples
from kddcup.pictures.weights import explain_failure, find_folder, list_weights, load_network, sum_files
from kddcup.table.extractor import Extractor

PICTURE = "picture"
"""The name of the class of the region that is all of a picture; its number follows the detector's own."""
SHORT_SIDE = 800
"""The short side for a detector whose processor names none."""
_SETTINGS = ("size", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
"""The settings of a processor that decide what pixels it makes."""


class ProcessorView:
    """A picture as a detector's own processor scales and normalises it: [3, height, width] float32."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __call__(self, image: Image.Image) -> np.ndarray:
        """The pixels of a picture in RGB."""
        return np.asarray(self._processor(images=image, return_tensors="np")["pixel_values"][0], np.float32)


def read_queries(logits: Tensor, centres: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """The surest class of each query of a picture, and its box.

    Args:
        logits: [Q, classes] of a detector trained with the focal loss, or [Q, classes + 1] of one trained
            with cross-entropy, whose last is that of no object.
        centres: [Q, 4] centre x, centre y, width, height, as shares of the picture's sides.
        classes: how many there are.

    Returns:
        [Q] scores, [Q] classes, and [Q, 4] top, left, bottom, right, inside the picture.
    """
    shares = logits.sigmoid() if logits.shape[-1] == classes else logits.softmax(-1)[:, :classes]
    scores, labels = shares.max(-1)
    x, y, width, height = centres.unbind(-1)
    boxes = torch.stack([y - height / 2, x - width / 2, y + height / 2, x + width / 2], -1)
    return scores, labels, boxes.clamp(0, 1)


class Detector:
    """A detector of transformers, and the map that its own backbone makes on the way.

    Args:
        name: as the user named it.
        sha256: of its weights.
        network: in eval mode, on its device.
        processor: of its pictures.
        precision: of its layers.
    """

    def __init__(
        self, name: str, sha256: str, network: nn.Module, processor: Any, precision: Precision
    ) -> None:
        self.name, self.sha256, self.processor, self.precision = name, sha256, processor, precision
        self._network = network
        self._maps: list[Tensor] = []
        backbone = getattr(network.base_model, "backbone", None)
        if backbone is not None:

            def keep(_: nn.Module, __: tuple, maps: list[tuple[Tensor, Tensor]]) -> None:
                self._maps[:] = [maps[-1][0]]  # with its mask

            backbone.register_forward_hook(keep)

    @property
    def classes(self) -> list[str]:
        """The names of its classes."""
        names = self._network.config.id2label
        return [make_printable(str(names.get(i, ""))) or str(i) for i in range(len(names))]

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find boxes.

        Args:
            pixels: [B, 3, height, width].

        Returns:
            logits [B, Q, ·], boxes [B, Q, 4] and map [B, D, rows, columns], in float32.
        """
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            found = self._network(pixel_values=pixels)
        if self._maps:
            feature_map = self._maps.pop()
        else:
            rows, columns = count_patches(self._network, pixels)
            # A token of the class, the patches, the tokens of the boxes.
            feature_map = lay_out(found.last_hidden_state[:, 1 : 1 + rows * columns], rows, columns)
        return found.logits.float(), found.pred_boxes.float(), feature_map.float()


class DetectorExtractor:
    """Takes all of a picture, and the boxes of which a detector is surest.

    The features are pooled inside them, by bilinear sampling, from the detector's own map: the last of its
    convolutional backbone, or its patch tokens; or from the map of another backbone.

    Args:
        detector: on the device.
        most: regions of a picture, all of it included.
        dim: D of the detector's own map.
        backbone: another network to take the features of, on the device.
    """

    def __init__(self, detector: Detector, most: int, dim: int, backbone: Backbone | None = None) -> None:
        self._detector, self._backbone, self.most = detector, backbone, most
        self._classes = len(detector.classes)
        self.labels = [*detector.classes, PICTURE]
        processor = detector.processor
        self.views = (ProcessorView(processor), *([backbone.pixels.scale] if backbone else []))
        self.shortest = max(find_short_side(processor), backbone.pixels.side if backbone else 0)
        settings = processor.to_dict()
        pixels = json.dumps({key: settings.get(key) for key in _SETTINGS}, sort_keys=True, default=dict)
        self.description = Extractor(
            f"up to {most} boxes",
            backbone.dim if backbone else dim,
            f"{pixels}; {backbone.pixels}" if backbone else pixels,
            backbone.name if backbone else "its own backbone",
            backbone.sha256 if backbone else "",
            detector.name,
            detector.sha256,
            detector.precision,
        )

    def extract(self, pictures: list[tuple[np.ndarray, ...]], device: torch.device) -> list[Regions]:
        """The regions of each picture, given its views."""
        pixels = torch.from_numpy(np.stack([views[0] for views in pictures])).to(device)
        logits, centres, feature_map = self._detector(pixels)
        if self._backbone:
            feature_map = self._backbone([views[1] for views in pictures], device)
        return [self._choose(*picture) for picture in zip(logits, centres, feature_map, strict=True)]

    def _choose(self, logits: Tensor, centres: Tensor, feature_map: Tensor) -> Regions:
        scores, labels, boxes = read_queries(logits, centres, self._classes)
        has_area = (boxes[:, 2:] > boxes[:, :2]).all(1)
        order = scores.masked_fill(~has_area, -1).argsort(descending=True, stable=True)
        best = order[: min(self.most - 1, int(has_area.sum()))]
        chosen = torch.cat([torch.from_numpy(WHOLE_PICTURE).to(boxes), boxes[best]])
        features = pool_boxes(feature_map, chosen, weigh_samples)
        numbers = [self._classes, *labels[best].tolist()]
        return Regions(chosen.cpu().numpy(), features.cpu().numpy(), np.array(numbers, np.int64))


def find_short_side(processor: Any) -> int:
    """The pixels of a short side that a processor needs."""
    size = processor.size
    return size.shortest_edge or min(size.height or SHORT_SIDE, size.width or SHORT_SIDE)


def load_detector(
    name: str, precision: Precision, most: int, device: torch.device, backbone: Backbone | None = None
) -> DetectorExtractor:
    """A detector of transformers that needs neither torchvision nor timm.

    Args:
        name: a folder, or a name on the hub.
        precision: of its layers.
        most: regions of a picture, all of it included.
        device: where it goes.
        backbone: another network to take the features of, on the device.

    Raises:
        UserError: it cannot be loaded, or does not find boxes as detectors of the DETR family do.
    """
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    folder = find_folder(name)
    network = load_network(AutoModelForObjectDetection, folder).to(device)
    with explain_failure(folder):
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    detector = Detector(name, sum_files(list_weights(folder)), network, processor, precision)
    try:
        side = find_short_side(processor)
        pixels = torch.from_numpy(ProcessorView(processor)(Image.new("RGB", (side, side))))
        with torch.inference_mode():
            dim = detector(pixels[None].to(device))[2].shape[1]
    except Exception as error:  # of a network or a processor of another kind
        raise UserError(
            f"{name} does not find boxes as is known here ({explain_error(error)}): name an RT-DETR, "
            "RT-DETRv2, D-FINE, DETR or YOLOS"
        ) from None
    return DetectorExtractor(detector, most, dim, backbone)
