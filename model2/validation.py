"""Stage 4: score the valid and the test table with a checkpoint of model2.

Writes the scores of every candidate, which ensemble.py blends. Example, in this folder:

    python validation.py --epoch 2 --split testB
"""

from dataclasses import dataclass

from kddcup.config import parse_settings
from kddcup.errors import run_script
from kddcup.matching import PredictSettings, predict
from model2.model import SentenceImageModel


@dataclass
class Model2PredictSettings(PredictSettings):
    """Where the scores of model2 go unless told otherwise."""

    valid_out_path: str = "../external_resources/valid_pred_model2.json"
    test_out_path: str = "../external_resources/test_pred_model2.json"


def main() -> None:
    """Score both tables."""
    predict("model2", SentenceImageModel, parse_settings(Model2PredictSettings, __doc__))


if __name__ == "__main__":
    run_script(main)
