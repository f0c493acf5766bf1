"""What the validation of every stage does: score the valid and the test table with a checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from kddcup.config import PredictSettings, ValidationSettings
from kddcup.nn.ranker import Ranker
from kddcup.rank.explanation import explanation_path
from kddcup.rank.metrics import describe_others, with_interval
from kddcup.rank.predictions import ranking, read_answers, write_predictions
from kddcup.rank.scoring import Candidates, encode_candidates, score_encoded
from kddcup.rank.split import Split
from kddcup.stages import Stage, predictions_path
from kddcup.text.vocabulary import Vocabulary
from kddcup.train.folder import find_checkpoint
from kddcup.train.processes import pick_device, set_threads

RESOURCES_DIR = Path("../external_resources")
Explain = Callable[[str, Ranker, Candidates, Vocabulary], None]


@dataclass(frozen=True)
class TrainedModel:
    """A stage's model with the parameters of a checkpoint.

    Args:
        stage: whose it is.
        model: in eval mode, on ``device``.
        vocabulary: of the model.
        region_dim: D of the model.
        device: where to compute.
    """

    stage: Stage
    model: Ranker
    vocabulary: Vocabulary
    region_dim: int
    device: torch.device

    @classmethod
    def load(cls, stage: Stage, settings: ValidationSettings) -> "TrainedModel":
        """Load the checkpoint that the settings name.

        Raises:
            UserError: there is none, or the tables' features are of another extractor.
        """
        checkpoint = find_checkpoint(stage, settings.checkpoints_dir, settings.epoch)
        checkpoint.check_extractor(settings.data_dir)
        device = pick_device(settings.devices)
        if device.type == "cpu":
            set_threads(checkpoint.config.size)
        vocabulary = checkpoint.read_vocabulary(settings.tokenizer)
        model = checkpoint.build(stage).to(device)
        return cls(stage, model, vocabulary, checkpoint.config.model.region_dim, device)

    def predict(self, settings: PredictSettings, explain: Explain | None = None) -> None:
        """Score the valid and the test table and write the predictions.

        Args:
            settings: where from and where to.
            explain: called after the predictions of a table are written, with their path.

        Raises:
            UserError: a table cannot be scored by the model.
        """
        valid_out = settings.valid_out_path or predictions_path(RESOURCES_DIR, "valid", self.stage.name)
        test_out = settings.test_out_path or predictions_path(RESOURCES_DIR, "test", self.stage.name)
        for name, out in (("valid", valid_out), (settings.split, test_out)):
            split = Split(Path(settings.data_dir), name)
            candidates = encode_candidates(
                split.table, self.model, self.vocabulary, self.region_dim, self.device
            )
            if candidates.wordless:
                print(
                    f"{split.table}: {candidates.wordless} queries have no word left; "
                    "their candidates keep the table's order"
                )
            predictions = score_encoded(candidates)
            write_predictions(out, predictions)
            # What an earlier run has said of its scores is not of these.
            explanation_path(out).unlink(missing_ok=True)
            if explain:
                explain(out, self.model, candidates, self.vocabulary)
            figure = ""
            if name == "valid" or split.answers.is_file():
                figure = f"NDCG@5 {with_interval(split.ndcg(predictions))}  "
            print(f"{self.stage.name} on {name}: {figure}{out}")
            if figure:
                print(f"  {describe_others(ranking(predictions), read_answers(split.answers))}")


def predict(stage: Stage, settings: PredictSettings, explain: Explain | None = None) -> None:
    """Load a checkpoint and predict; see :class:`TrainedModel`."""
    TrainedModel.load(stage, settings).predict(settings, explain)
