"""Who made the features of a table: ``extractor.json``, which travels with them.

Features of two extractors have nothing in common, even where they have as many dimensions: a model that was
trained on those of the one scores those of the other by chance.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kddcup.io.errors import UserError
from kddcup.io.files import read_json, write_json

EXTRACTOR_FILE = "extractor.json"


@dataclass(frozen=True)
class Extractor:
    """What made the features of a table. Two are the same where all but the names is.

    Args:
        regions: how they were found: "6 crops", "3 x 3 crops", "up to 10 boxes".
        dim: D, size of a region's feature.
        pixels: how pictures were scaled and normalised.
        backbone: the network that the features are of.
        backbone_sha256: of its weights.
        detector: the network that found the boxes, if any.
        detector_sha256: of its weights.
        precision: of the networks' layers, ``float32`` or ``bf16``.
        version: of the code, which changes when it makes other features of the same pictures.
    """

    regions: str
    dim: int
    pixels: str
    backbone: str = dataclasses.field(compare=False)
    backbone_sha256: str = ""
    detector: str = dataclasses.field(default="", compare=False)
    detector_sha256: str = ""
    precision: str = "float32"
    version: int = 1

    def __str__(self) -> str:
        """As an error names it."""
        parts = [self.detector, f"{self.backbone} {self.backbone_sha256[:8]}", self.regions, self.pixels]
        return ", ".join([*filter(None, parts), f"{self.dim} dimensions", self.precision])

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Extractor":
        """The inverse of ``dataclasses.asdict``.

        Raises:
            TypeError: a field is missing, left over, or of another type.
        """
        extractor = cls(**values)
        for field in dataclasses.fields(cls):
            if type(getattr(extractor, field.name)) is not field.type:
                raise TypeError(f"{field.name} of the extractor is not of type {field.type.__name__}")
        return extractor


def write_extractor(data_dir: Path, extractor: Extractor) -> None:
    """Write ``DATA/extractor.json``."""
    write_json(data_dir / EXTRACTOR_FILE, dataclasses.asdict(extractor))


def read_extractor(folder: Path) -> Extractor | None:
    """What made the features of a folder's tables; None, an unknown extractor, where it does not say.

    Args:
        folder: ``DATA``, or ``DATA/info``.

    Raises:
        UserError: the file is not as :func:`write_extractor` writes it.
    """
    path = folder / EXTRACTOR_FILE
    if not path.is_file():
        return None
    made_by = "it comes with the tables"
    values = read_json(path, made_by)
    try:
        return Extractor.from_dict(values)
    except TypeError:
        raise UserError(f"{path} does not describe an extractor: {made_by}") from None


def check_same_extractor(
    trained: Extractor | None, model: str, found: Extractor | None, source: str, advice: str
) -> None:
    """Check that features are by the extractor that a model knows; an unknown one fits only an unknown one.

    Args:
        trained: the extractor of the features that the model was trained on.
        model: names it.
        found: the extractor of the features at hand.
        source: where these are.
        advice: what to do where they differ.

    Raises:
        UserError: they differ.
    """
    if trained != found:
        raise UserError(
            f"{source} has features by {found or 'an unknown extractor'}, but {model} was trained on "
            f"those by {trained or 'an unknown extractor'}: {advice}"
        )
