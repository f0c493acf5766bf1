"""Stage 3: score the valid and the test table with a checkpoint of model1.

Writes the scores of every candidate, which ensemble.py blends. Example, in this folder:

    python validation.py --epoch 5 --split testB
"""

from dataclasses import dataclass

import torch

from kddcup.config import parse_settings
from kddcup.errors import run_script
from kddcup.explanation import Explanation, WordScore, explanation_path, write_explanations
from kddcup.matching import PredictSettings, predict
from kddcup.scoring import Candidates
from kddcup.text import Vocabulary
from model1.model import WordImageModel


@dataclass
class Model1PredictSettings(PredictSettings):
    """Where the scores of model1 go unless told otherwise.

    Args:
        explain: also write what each score is made of, word by word, into NAME_words.json beside NAME.json;
            the evaluation page shows it.
    """

    valid_out_path: str = "../external_resources/valid_pred_model1.json"
    test_out_path: str = "../external_resources/test_pred_model1.json"
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
        parts = model.explain_candidates(batch.queries, batch.owner, batch.heads)
        of_rows = zip(*(part.tolist() for part in parts), strict=True)
        for row, (weights, scores, heads) in zip(batch.places, of_rows, strict=True):
            explanation = explanations[str(candidates.query_ids[candidates.query[row]])]
            words = zip(explanation.words, weights, scores, heads, strict=False)  # a batch is padded
            explanation.products[int(candidates.product[row])] = [WordScore(*part) for _, *part in words]
    write_explanations(explanation_path(predictions), explanations)


def main() -> None:
    """Score both tables."""
    settings = parse_settings(Model1PredictSettings, __doc__)
    predict("model1", WordImageModel, settings, explain if settings.explain else None)


if __name__ == "__main__":
    run_script(main)
