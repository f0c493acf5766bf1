"""Stage 4: train model2, which matches the whole sentence with the image.

Reads DATA/features, DATA/info and the encoder of stage 2; writes a checkpoint and scores valid after every
epoch. Examples, in this folder:

    python train.py
    python -u -m torch.distributed.launch --nproc_per_node=2 train.py --devices 0 1
"""

from kddcup.config import PointwiseSettings
from kddcup.errors import run_script
from kddcup.log import started
from kddcup.matching import MatcherData, matcher_settings
from kddcup.processes import launch
from kddcup.sampling import Toss
from kddcup.training import Trainer
from model2.model import SentenceImageModel

TOSS = Toss(once=False, cluster_from_all=0.5)


def main() -> None:
    """Train."""
    settings = matcher_settings("model2", __doc__, PointwiseSettings)
    with launch(settings) as process:
        made = MatcherData.open(settings, process)
        model = SentenceImageModel(made.config.model)
        model.score.set_words(made.data.info.words)
        made.load_encoder(model.item)
        loader = made.loader(TOSS, settings.accumulate)
        process.say(started("model2", settings, made.config, made.data.counts(), model, process))
        parts = dict(model.named_children())
        trainer = Trainer(process, model, made.parameter_groups(model), parts, settings, made.config)
        for epoch in trainer.epochs():
            trainer.steps(epoch, loader)
            trainer.finish(epoch, lambda: made.valid_ndcg(model))


if __name__ == "__main__":
    run_script(main)
