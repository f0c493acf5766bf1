"""Stage 5: blend the two models and write the submission.

The weight is the first best of 100 on the valid table. Example:

    python ensemble.py --data_dir data/sample --resources_dir external_resources/sample
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kddcup.blending import WEIGHTS, best_weight, blend, read_pair
from kddcup.config import parse_settings
from kddcup.errors import run_script
from kddcup.metrics import ndcg_per_query, random_ndcg, with_interval
from kddcup.predictions import Predictions, check_answered, ranking, read_answers, write_submission
from kddcup.scoring import Split


@dataclass
class EnsembleSettings:
    """Settings of stage 5.

    Args:
        data_dir: folder of the tables; their answers are read.
        resources_dir: folder of the predictions of model1 and model2; submission.csv is written there.
        split: the test table; its own answers, where it has some, are only reported on.
    """

    data_dir: str = "data"
    resources_dir: str = "external_resources"
    split: Literal["testA", "testB"] = "testB"


def judged(split: Split, predictions: Predictions, source: Path) -> dict[str, list[int]]:
    """The answers of a split, for whose queries there are predictions, read from the file ``source``."""
    answers = read_answers(split.answers)
    check_answered(predictions, answers, (source, split.answers))
    return answers


def report(
    name: str, pair: tuple[Predictions, Predictions], weight: float, answers: dict[str, list[int]]
) -> None:
    """Print NDCG@5 of a random order, of each model and of the blend, with 95 % bootstrap intervals."""
    print(f"NDCG@5 on {name} [95 % bootstrap interval over queries]")
    print(f"  {'random order':<12} {random_ndcg(ranking(pair[0]), answers):.6f}")
    for label, predictions in (("model1", pair[0]), ("model2", pair[1]), ("blend", blend(*pair, weight))):
        per_query = ndcg_per_query(ranking(predictions), answers)
        print(f"  {label:<12} {with_interval(per_query)}")


def main() -> None:
    """Find the weight, report, write the submission."""
    settings = parse_settings(EnsembleSettings, __doc__)
    folder, data = Path(settings.resources_dir), Path(settings.data_dir)
    valid, test = read_pair(folder, "valid"), read_pair(folder, "test")
    answers = judged(Split(data, "valid"), valid[0], folder / "valid_pred_model1.json")
    weight, _ = best_weight(*valid, answers)
    print(f"best weight of model1 on valid: {weight:.6f} (index {WEIGHTS.tolist().index(weight)})")
    submission = folder / "submission.csv"
    write_submission(submission, blend(*test, weight))
    report("valid", valid, weight, answers)
    split = Split(data, settings.split)
    if split.answers.is_file():
        report(split.name, test, weight, judged(split, test[0], folder / "test_pred_model1.json"))
    print(f"submission: {submission}")


if __name__ == "__main__":
    run_script(main)
