"""Widths, sizes and settings, which travel in checkpoints; what a recipe sets is in stages.py."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    restricted_number_type,
)

from kddcup.io.errors import UserError

Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])
"""The type of seeds, of which scikit-learn takes no larger ones."""
Fraction = restricted_number_type("Fraction", float, [(">=", 0), ("<", 1)])
"""The type of shares that are never the whole."""


@dataclass(frozen=True)
class ModelConfig:
    """The widths of all models; the defaults are the published ones.

    Args:
        region_dim: D, size of a region's feature, as the tables have it.
        width: E, size of a word vector and of a head.
        vocabulary: V, number of words.
        label_heads: H; an image has one caption head and H label heads.
        ff: inner width of the encoder's feed-forward layer.
        dropout: everywhere.
        start: id of the word that begins a caption.
        end: id of the word that ends a caption.
        tagger: whether model1 scores a word as stage 2 does, and starts with equal weights.
        captioner: whether model2 has stage 2's captioner in it.
        feature_length: to which the encoder scales each region's sign(x)·√|x|; 0 leaves features as they are.
    """

    region_dim: int = 2048
    width: int = 1024
    vocabulary: int = 30522
    label_heads: int = 4
    ff: int = 4096
    dropout: float = 0.1
    start: int = 101
    end: int = 102
    tagger: bool = False
    captioner: bool = False
    feature_length: float = 0.0

    @property
    def attention_heads(self) -> int:
        """The largest divisor of D up to 16."""
        return max(n for n in range(1, 17) if self.region_dim % n == 0)

    @property
    def heads(self) -> int:
        """1 + H."""
        return 1 + self.label_heads


@dataclass(frozen=True)
class Size:
    """The widths that do not follow from the data.

    Args:
        lexicon_width: E of a lexicon's word vectors; those of a BERT have their own.
        ff: inner width of the encoder's feed-forward layer.
        fits_batch: whether a batch is that of all processes together, and lowered where a table's rows do
            not fill it.
        threads: of a process on a CPU; 0 is PyTorch's number, or the cores shared out among processes.
    """

    lexicon_width: int
    ff: int
    fits_batch: bool
    threads: int


SIZES = {
    "full": Size(lexicon_width=1024, ff=4096, fits_batch=False, threads=0),
    "small": Size(lexicon_width=128, ff=512, fits_batch=True, threads=1),
}
"""``full`` is the published model, ``small`` is for thousands of rows and a CPU."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a stage is trained at a size: the defaults of the settings of the same names."""

    batch_size: int
    rate: float
    weight_decay: float
    gamma: float
    epochs: int
    use_epoch: int | Literal["best"]
    patience: int = 3
    epoch_steps: int = 0
    average: float = 0.0
    dropout: float = ModelConfig.dropout


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe(Recipe):
    """How stage 2 is trained at a size."""

    labels: Literal["query", "product"] = "query"
    optimizer: Literal["adam", "adamw"] = "adam"
    feature_length: float = ModelConfig.feature_length
    feature_noise: float = 0.0
    region_drop: float = 0.0


@dataclass(frozen=True, kw_only=True)
class MatcherRecipe(Recipe):
    """How a matcher is trained at a size; weight decay is that of the image encoder."""

    encoder_rate: float
    weight_decay: float = 1e-6
    gamma: float = 0.95
    positives: Literal["listed", "worded"] = "listed"


@dataclass(frozen=True, kw_only=True)
class Model1Recipe(MatcherRecipe):
    """How model1 is trained at a size."""

    start: Literal["encoder", "tagger"] = "encoder"
    margin: float = 0.9
    mean_epochs: int = 0


@dataclass(frozen=True, kw_only=True)
class Model2Recipe(MatcherRecipe):
    """How model2 is trained at a size."""

    start: Literal["encoder", "captioner"] = "encoder"


@dataclass
class OptimisationSettings:
    """Optimisation.

    Args:
        epochs: how many to train at most.
        use_epoch: the epoch, counted from 0, that export and validation take unless told otherwise; or
            ``best``, the one with the highest NDCG@5 on valid, and then no worse one but the newest is kept.
        patience: with stop_at_use_epoch and ``best``, epochs without a better one after which training ends.
        epoch_steps: an epoch has at least so many steps: a table with fewer is gone through several times.
        batch_size: rows per process; at the small size, of all processes together.
        rate: learning rate of epochs 0 and 1; afterwards times gamma each epoch.
        weight_decay: of the optimizer, where the published training has it.
        gamma: decay of the rate per epoch.
        average: decay d of the averaged weights a ← d·a + (1 − d)·w after each step, which are scored, saved
            and exported; 0 takes the weights themselves.
        dropout: probability, in all modules.
        seed: of weights, order, negatives and dropout.
    """

    epochs: PositiveInt
    use_epoch: NonNegativeInt | Literal["best"]
    batch_size: PositiveInt
    rate: PositiveFloat
    weight_decay: NonNegativeFloat
    gamma: PositiveFloat
    patience: PositiveInt = 3
    epoch_steps: NonNegativeInt = 0
    average: Fraction = 0.0
    dropout: ClosedUnitInterval = 0.1
    seed: Seed = 2020


@dataclass
class HardwareSettings:
    """Hardware.

    Args:
        devices: GPUs, by number, one for each process; without a GPU it has no effect.
        workers: processes per rank that read batches; 0 reads in a thread of the training process.
        precision: of the layers in training: float32; tf32, where a GPU rounds the factors of products to a
            relative 5e-4 and losses move by about 1e-4 of themselves; bf16, where all is rounded to 4e-3 and
            losses move by 1e-3. Losses, parameters and scores stay float32.
        timeout: seconds that processes wait for one another; rank 0 scores the valid table meanwhile.
    """

    devices: list[int] = dataclasses.field(default_factory=list)
    workers: NonNegativeInt = 0
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    timeout: PositiveInt = 1800


@dataclass
class RunSettings:
    """Run.

    Args:
        data_dir: folder of the tables and of what stage 1 wrote.
        checkpoints_dir: where model-epochN.pth go.
        resume: continue from the last save in checkpoints_dir; torchrun's restarts do so by themselves.
        save_every: steps between saves within an epoch; 0 saves at its end alone.
        stop_at_use_epoch: end after use_epoch, or once ``best`` is decided, instead of after the last epoch.
        max_steps: end after this many steps of this call and write a checkpoint; 0 means no limit.
        log_json: a file to which a line of JSON is appended every 100 steps and at each epoch's end.
    """

    data_dir: str = "../data"
    checkpoints_dir: str = "./checkpoints"
    resume: bool = False
    save_every: NonNegativeInt = 0
    stop_at_use_epoch: bool = False
    max_steps: NonNegativeInt = 0
    log_json: str | None = None


@dataclass
class TrainSettings(RunSettings, HardwareSettings, OptimisationSettings):
    """Training, in all stages.

    Raises:
        UserError: the epoch to use is beyond the last.
    """

    def __post_init__(self) -> None:
        """See that the epoch to use will be there."""
        if self.use_epoch != "best" and self.use_epoch >= self.epochs:
            raise UserError(
                f"--use_epoch {self.use_epoch} is beyond the last epoch, which is {self.epochs - 1} with "
                f"--epochs {self.epochs}: name an earlier one, or train longer"
            )


@dataclass
class MatcherSettings(TrainSettings):
    """Matchers.

    Args:
        encoder_rate: learning rate of the image encoder's dense and dense_summary.
        encoder: the image encoder that stage 2 exported; its config gives the size.
        positives: the products that are no negatives of a query: those listed under it, or also those whose
            queries have all words of it.
    """

    encoder_rate: PositiveFloat = 5e-6
    positives: Literal["listed", "worded"] = "listed"
    encoder: str = "../user_data/image_encoder_large.pth"


@dataclass
class ValidationSettings:
    """Checkpoint.

    Args:
        data_dir: folder of the tables.
        checkpoints_dir: by default ./checkpoints if it has that epoch, else ./ckpt.
        epoch: of the checkpoint, from 0; by default the one that its config says to use.
        devices: the GPU, by number; without a GPU it has no effect.
        tokenizer: a BERT folder, for a checkpoint that carries no vocabulary.
    """

    data_dir: str = "../data"
    checkpoints_dir: str | None = None
    epoch: NonNegativeInt | None = None
    devices: list[int] = dataclasses.field(default_factory=list)
    tokenizer: str | None = None


@dataclass
class PredictSettings(ValidationSettings):
    """Predictions.

    Args:
        split: the test table.
        valid_out_path: where the scores of the valid table go; by default
            ../external_resources/valid_pred_STAGE.json.
        test_out_path: where the scores of the test table go; by default
            ../external_resources/test_pred_STAGE.json.
    """

    split: Literal["testA", "testB"] = "testB"
    valid_out_path: str | None = None
    test_out_path: str | None = None
