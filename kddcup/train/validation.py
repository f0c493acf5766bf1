"""What the validation of every matcher does: score the valid and the test table with a checkpoint."""

from collections.abc import Callable
from pathlib import Path

from kddcup.config import PredictSettings
from kddcup.nn.ranker import Ranker
from kddcup.rank.explanation import explanation_path
from kddcup.rank.metrics import with_interval
from kddcup.rank.predictions import write_predictions
from kddcup.rank.scoring import Candidates, encode_candidates, score_encoded
from kddcup.rank.split import Split
from kddcup.stages import Stage
from kddcup.text.vocabulary import Vocabulary
from kddcup.train.folder import find_checkpoint
from kddcup.train.processes import pick_device

RESOURCES_DIR = Path("../external_resources")


def predict(
    stage: Stage,
    settings: PredictSettings,
    explain: Callable[[str, Ranker, Candidates, Vocabulary], None] | None = None,
) -> None:
    """Score the valid and the test table with a checkpoint and write the predictions.

    Args:
        stage: whose checkpoint.
        settings: where from and where to.
        explain: called after the predictions of a table are written, with their path.

    Raises:
        UserError: there is no such checkpoint, or a table cannot be scored by it.
    """
    checkpoint = find_checkpoint(stage, settings.checkpoints_dir, settings.epoch)
    checkpoint.check_extractor(settings.data_dir)
    device = pick_device(settings.devices)
    vocabulary = checkpoint.read_vocabulary(settings.tokenizer)
    model = checkpoint.build(stage).to(device)
    valid_out = settings.valid_out_path or stage.predictions_path(RESOURCES_DIR, "valid")
    test_out = settings.test_out_path or stage.predictions_path(RESOURCES_DIR, "test")
    for name, out in (("valid", valid_out), (settings.split, test_out)):
        split = Split(Path(settings.data_dir), name)
        dim = checkpoint.config.model.region_dim
        candidates = encode_candidates(split.table, model, vocabulary, dim, device)
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
            explain(out, model, candidates, vocabulary)
        figure = ""
        if name == "valid" or split.answers.is_file():
            figure = f"NDCG@5 {with_interval(split.ndcg(predictions))}  "
        print(f"{stage.name} on {name}: {figure}{out}")
