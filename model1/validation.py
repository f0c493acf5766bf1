"""Stage 3: score the valid and the test table with a checkpoint of model1.

Writes the scores of every candidate, which ensemble.py blends. Example, in this folder:

    python validation.py --epoch 5 --split testB
"""

from dataclasses import dataclass

import torch

from kddcup import stages
from kddcup.cli import parse_settings
from kddcup.config import PredictSettings
from kddcup.io.errors import run_script
from kddcup.rank.explanation import Explanation, WordScore, explanation_path, write_explanations
from kddcup.rank.scoring import Candidates
from kddcup.text.vocabulary import Vocabulary
from kddcup.train.validation import predict
from model1.model import WordImageModel

STAGE = stages.find("model1")


@dataclass
class Model1PredictSettings(PredictSettings):
    """Explanation.

    Args:
        explain: also write what each score is made of, word by word, into NAME_words.json beside NAME.json;
            the evaluation page shows it.
    """

    explain: bool = False


@torch.inference_mode()
def explain(predictions: str, model: WordImageModel, candidates: Candidates, vocabulary: Vocabulary) -> None:
    """Write what the scores of ``candidates`` are made of beside the file ``predictions``."""
    explanations = {
        str(query_id): Explanation(
            [vocabulary.tokens[token] for token in tokens],
            {product: [] for product in candidates.product[rows].tolist()},
        )
        for query_id, tokens, rows in zip(
            candidates.query_ids, candidates.tokens, candidates.rows, strict=True
        )
    }
    for batch in candidates.batches("explain"):
        parts = model.explain_candidates(batch.queries, batch.owner, batch.images)
        of_rows = zip(*(part.tolist() for part in parts), strict=True)
        for row, (weights, scores, heads) in zip(batch.places, of_rows, strict=True):
            explanation = explanations[str(candidates.query_ids[candidates.query[row]])]
            words = zip(explanation.words, weights, scores, heads, strict=False)  # a batch is padded
            explanation.products[int(candidates.product[row])] = [WordScore(*part) for _, *part in words]
    write_explanations(explanation_path(predictions), explanations)


def main() -> None:
    """Score both tables."""
    settings = parse_settings(Model1PredictSettings, __doc__)
    predict(STAGE, settings, explain if settings.explain else None)


if __name__ == "__main__":
    run_script(main)
