"""What stages 3 and 4, the matchers, share: their settings, their data, their validation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from kddcup.checkpoint import RunConfig, find_checkpoint, load_encoder, load_strictly
from kddcup.config import MatcherSettings, ModelConfig, Settings, Stage, ValidationSettings, parse_settings
from kddcup.encoder import ImageEncoder
from kddcup.errors import UserError
from kddcup.explanation import explanation_path
from kddcup.loader import TrainLoader
from kddcup.metrics import with_interval
from kddcup.predictions import write_predictions
from kddcup.processes import Process, pick_device
from kddcup.sampling import NegativeSampler, Toss
from kddcup.scoring import Candidates, Scorer, Split, encode_candidates, score_encoded
from kddcup.text import Vocabulary
from kddcup.training import TrainingData


def matcher_settings(
    stage: Stage, description: str | None, kind: type[Settings] = MatcherSettings
) -> Settings:
    """Settings of training a matcher; the size is that of the encoder."""
    return parse_settings(kind, description, stage, lambda settings: load_encoder(settings.encoder)[1].size)


@dataclass(frozen=True)
class MatcherData:
    """The training data and the exported encoder, which fit each other."""

    settings: MatcherSettings
    process: Process
    data: TrainingData
    encoder: Mapping[str, Tensor]
    config: RunConfig

    @classmethod
    def open(cls, settings: MatcherSettings, process: Process) -> "MatcherData":
        """Open what stages 1 and 2 made.

        Raises:
            UserError: a part is absent, or the encoder was made for other data.
        """
        encoder, exported = load_encoder(settings.encoder)
        data = TrainingData.open(settings.data_dir)
        config = data.config(settings, exported.size)
        if exported.vocabulary is not None:  # a bare state dict says nothing of its data; its shapes tell
            model = replace(exported.model, dropout=settings.dropout)
            misfits = [
                f"{field.name} {getattr(model, field.name)}, not {getattr(config.model, field.name)}"
                for field in fields(model)
                if getattr(model, field.name) != getattr(config.model, field.name)
            ]
            if exported.vocabulary != config.vocabulary:
                misfits.append("another vocabulary")
            if misfits:
                raise UserError(
                    f"{settings.encoder} was made for other data than {settings.data_dir} "
                    f"({', '.join(misfits)}): run stage 2 on this data"
                )
        return cls(settings, process, data, encoder, config)

    def load_encoder(self, item: ImageEncoder) -> None:
        """Load the exported encoder, strictly."""
        load_strictly(item, self.encoder, self.settings.encoder)

    def loader(self, toss: Toss, accumulate: int = 1) -> TrainLoader:
        """Batches of rows with negatives, each of so many micro-batches."""
        corpus = self.data.info.corpus
        sampler = NegativeSampler(corpus, toss, self.settings.seed)
        return TrainLoader(
            corpus,
            self.data.store,
            corpus.tokens,
            self.settings,
            self.process.rank,
            self.process.ranks,
            sampler,
            accumulate,
        )

    def parameter_groups(self, model: nn.Module) -> list[dict]:
        """Adam's groups: of the image encoder what is not frozen, and the rest of what is not frozen."""
        encoder = [parameter for parameter in model.item.parameters() if parameter.requires_grad]
        known = set(map(id, model.item.parameters()))
        rest = [one for one in model.parameters() if one.requires_grad and id(one) not in known]
        return [
            {"params": encoder, "lr": self.settings.encoder_rate, "weight_decay": self.settings.weight_decay},
            {"params": rest, "lr": self.settings.rate},
        ]

    def valid_ndcg(self, model: Scorer) -> float:
        """NDCG@5 on valid."""
        return self.data.valid_ndcg(model, self.data.info.vocabulary.encode, self.process.device)


@dataclass
class PredictSettings(ValidationSettings):
    """Settings of validation in stages 3 and 4.

    Args:
        split: the test table.
        valid_out_path: where the scores of the valid table go.
        test_out_path: where the scores of the test table go.
    """

    split: Literal["testA", "testB"] = "testB"
    valid_out_path: str = ""
    test_out_path: str = ""


def predict(
    stage: Stage,
    build: type[nn.Module],
    settings: PredictSettings,
    explain: Callable[[str, nn.Module, Candidates, Vocabulary], None] | None = None,
) -> None:
    """Score the valid and the test table with a checkpoint and write the predictions.

    Args:
        stage: whose checkpoint.
        build: the model's class, made from a :class:`ModelConfig`; its children are the checkpoint's parts.
        settings: where from and where to.
        explain: called after the predictions of a table are written, with their path.
    """
    checkpoint = find_checkpoint(stage, settings.checkpoints_dir, settings.epoch)
    device = pick_device(settings.devices)
    config: ModelConfig = checkpoint.config.model
    vocabulary = checkpoint.vocabulary(settings.tokenizer)
    model = checkpoint.build(lambda: build(config)).to(device)
    for name, out in (("valid", settings.valid_out_path), (settings.split, settings.test_out_path)):
        split = Split(Path(settings.data_dir), name)
        candidates = encode_candidates(split.table, model, vocabulary.encode, config.region_dim, device)
        predictions = score_encoded(candidates, model)
        write_predictions(out, predictions)
        # What an earlier run has said of its scores is not of these.
        explanation_path(out).unlink(missing_ok=True)
        if explain:
            explain(out, model, candidates, vocabulary)
        reached = ""
        if name == "valid" or split.answers.is_file():
            per_query = split.ndcg(predictions)
            reached = f"NDCG@5 {with_interval(per_query)}  "
        print(f"{stage} on {name}: {reached}{out}")
