"""A table of candidates and its answers."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kddcup.rank.metrics import ndcg_per_query
from kddcup.rank.predictions import Predictions, check_answered, ranking, read_answers


@dataclass(frozen=True)
class Split:
    """A table of candidates and its answers, by the competition's names."""

    data_dir: Path
    name: str

    @property
    def table(self) -> Path:
        """``DATA/NAME/NAME.tsv``."""
        return self.data_dir / self.name / f"{self.name}.tsv"

    @property
    def answers(self) -> Path:
        """``DATA/NAME/NAME_answer.json``."""
        return self.data_dir / self.name / f"{self.name}_answer.json"

    def read_answers(self, predictions: Predictions, source: Path) -> dict[str, list[int]]:
        """Read the answers, and check that they fit predictions.

        Args:
            predictions: scores of the candidates.
            source: the file that has them, for messages.

        Raises:
            UserError: the answers cannot be read, or do not fit.
        """
        answers = read_answers(self.answers)
        check_answered(predictions, answers, (source, self.answers))
        return answers

    def ndcg(self, predictions: Predictions) -> np.ndarray:
        """[queries] NDCG@5 of each query that has answers.

        Raises:
            UserError: the answers cannot be read, or name a query that the predictions lack.
        """
        answers = self.read_answers(predictions, self.table)
        return ndcg_per_query(ranking(predictions), answers)
