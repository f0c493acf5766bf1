"""Stage 5: blend the two models and write the submission.

The weight is the first best of 100 on the valid table. Example:

    python ensemble.py --data_dir data/sample --resources_dir external_resources/sample
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kddcup.blending import WEIGHTS, best_weight, blend, read_pair
from kddcup.config import parse_settings
from kddcup.errors import run_script
from kddcup.metrics import bootstrap_interval, ndcg_per_query, random_ndcg
from kddcup.predictions import check_answered, ranking, read_answers, write_submission
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


def report(name: str, rankings: Mapping[str, list[int]], answers: Mapping[str, list[int]]) -> None:
    """Print one line with NDCG@5 and its 95 % bootstrap interval."""
    per_query = ndcg_per_query(rankings, answers)
    low, high = bootstrap_interval(per_query)
    print(f"  {name:<12} {per_query.mean():.6f}  [{low:.4f}, {high:.4f}]")


def main() -> None:
    """Find the weight, report, write the submission."""
    settings = parse_settings(EnsembleSettings, __doc__)
    folder, data = Path(settings.resources_dir), Path(settings.data_dir)
    valid, test = read_pair(folder, "valid"), read_pair(folder, "test")
    splits = [(Split(data, "valid"), valid)]
    if Split(data, settings.split).answers.is_file():
        splits.append((Split(data, settings.split), test))
    answers = read_answers(splits[0][0].answers)
    check_answered(valid[0], answers, (folder / "valid_pred_model1.json", splits[0][0].answers))
    weight, _ = best_weight(*valid, answers)
    print(f"best weight of model1 on valid: {weight:.6f} (index {WEIGHTS.tolist().index(weight)})")
    for split, pair in splits:
        judged = read_answers(split.answers)
        check_answered(pair[0], judged, (folder, split.answers))
        candidates = ranking(pair[0])
        print(f"NDCG@5 on {split.name} [95 % bootstrap interval over queries]")
        print(f"  {'random order':<12} {random_ndcg(candidates, judged):.6f}")
        report("model1", candidates, judged)
        report("model2", ranking(pair[1]), judged)
        report("blend", ranking(blend(*pair, weight)), judged)
    submission = folder / "submission.csv"
    write_submission(submission, blend(*test, weight))
    print(f"submission: {submission}")


if __name__ == "__main__":
    run_script(main)
