"""Stage 3: score the valid and the test table with a checkpoint of model1.

Writes the scores of every candidate, which ensemble.py blends. Example, in this folder:

    python validation.py --epoch 5 --split testB
"""

from dataclasses import dataclass

from kddcup.config import parse_settings
from kddcup.errors import run_script
from kddcup.matching import PredictSettings, predict
from model1.model import WordImageModel


@dataclass
class Model1PredictSettings(PredictSettings):
    """Where the scores of model1 go unless told otherwise."""

    valid_out_path: str = "../external_resources/valid_pred_model1.json"
    test_out_path: str = "../external_resources/test_pred_model1.json"


def main() -> None:
    """Score both tables."""
    predict("model1", WordImageModel, parse_settings(Model1PredictSettings, __doc__))


if __name__ == "__main__":
    run_script(main)
