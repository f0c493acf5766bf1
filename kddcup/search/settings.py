"""What an index says of its models: the blend, the first ranking, the extractor of their features."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_args

from kddcup.io.errors import UserError
from kddcup.io.files import read_json, write_json
from kddcup.rank.fusion import Normalization
from kddcup.search.segment import REBUILD
from kddcup.table.extractor import Extractor

SETTINGS = "settings.json"
"""The name of the file in the folder of models."""


@dataclass(frozen=True)
class IndexSettings:
    """What an index says of its models.

    Args:
        names: of all models that it has.
        weights: of the blended ones, by name.
        normalize: what is done to the scores of each of these before they are summed.
        first: the model that ranks the whole index by default.
        likeness: the model that says which products are alike, and how much each region counts.
        region_dim: D of the features that the models take.
        extractor: of these features; None where it is unknown.
        valid: NDCG@5 on the valid table, by model, and of the ``blend``.
    """

    names: tuple[str, ...]
    weights: dict[str, float]
    normalize: Normalization
    first: str
    likeness: str
    region_dim: int
    extractor: Extractor | None
    valid: dict[str, float]

    def write(self, folder: Path) -> None:
        """Write them into the folder of models."""
        write_json(folder / SETTINGS, dataclasses.asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what :meth:`write` wrote.

        Raises:
            UserError: it is absent, or of another form.
        """
        path = folder / SETTINGS
        content: Any = read_json(path, REBUILD)
        try:
            extractor = content.pop("extractor")
            settings = cls(
                names=tuple(content.pop("names")),
                extractor=None if extractor is None else Extractor.from_dict(extractor),
                **content,
            )
            if settings.normalize not in get_args(Normalization) or not settings.weights:
                raise ValueError
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UserError(f"{path} does not describe the models of an index: {REBUILD}") from None
        return settings
