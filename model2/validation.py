"""Stage 4: score the valid and the test table with a checkpoint of model2.

Writes the scores of every candidate, which ensemble.py blends. Example, in this folder:

    python validation.py --epoch 2 --split testB
"""

from kddcup import stages
from kddcup.cli import parse_settings
from kddcup.config import PredictSettings
from kddcup.io.errors import run_script
from kddcup.train.validation import predict


def main() -> None:
    """Score both tables."""
    predict(stages.find("model2"), parse_settings(PredictSettings, __doc__))


if __name__ == "__main__":
    run_script(main)
