"""Stage 2: pretrain the image encoder by tagging and captioning.

Reads DATA/features and DATA/info; writes a checkpoint and scores valid after every epoch. Examples, in this
folder:

    python train.py
    torchrun --nproc_per_node=2 train.py --devices 0 1
"""

from kddcup.config import PretrainSettings, parse_settings
from kddcup.corpus import told_size
from kddcup.errors import run_script
from kddcup.loader import TrainLoader
from kddcup.training import Trainer, TrainingData, launch
from multilabel.model import MultiLabelClassifier


def parameter_groups(model: MultiLabelClassifier, settings: PretrainSettings) -> list[dict]:
    """Adam's one group: all but the word vectors."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [{"params": trained, "lr": settings.rate, "weight_decay": settings.weight_decay}]


def main() -> None:
    """Train."""
    settings = parse_settings(
        PretrainSettings,
        __doc__,
        "multilabel",
        lambda settings: settings.size or told_size(settings.data_dir),
    )
    with launch(settings) as process:
        data = TrainingData.open(settings.data_dir)
        corpus, vocabulary = data.info.corpus, data.info.vocabulary
        config = data.config(settings, settings.size or told_size(settings.data_dir))
        model = MultiLabelClassifier(config.model, vocabulary.start, vocabulary.end)
        model.set_words(data.info.words)
        tokens = corpus.tokens.without(vocabulary.unknown)
        loader = TrainLoader(
            corpus, data.store, tokens, settings, process.rank, process.ranks, accumulate=settings.accumulate
        )
        trainer = Trainer(
            process, model, parameter_groups(model, settings), {"model": model}, settings, config
        )
        for epoch in trainer.epochs():
            trainer.steps(epoch, loader.epoch(epoch, process.device), len(loader))
            trainer.finish(epoch, lambda: data.valid_ndcg(model, vocabulary.encode_known, process.device))


if __name__ == "__main__":
    run_script(main)
