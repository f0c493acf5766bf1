"""The commands that write an index: ``index``, ``add`` and ``remove``."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch

from kddcup import stages
from kddcup.cli import parse_settings
from kddcup.io.atomic import atomic_folder
from kddcup.io.errors import UserError
from kddcup.nn.ranker import WordRanker
from kddcup.rank.blend import BLEND, MADE_BY, Blend
from kddcup.search.catalogue import CatalogueTable, Item, estimate_products, find_tables, read_items
from kddcup.search.index import Index, Manifest, Part
from kddcup.search.models import IndexedModel, WordModel
from kddcup.search.settings import IndexSettings
from kddcup.search.words import count_words, write_words
from kddcup.search.writing import Encoder, IndexWriter, describe_size, renumber
from kddcup.table.extractor import check_same_extractor
from kddcup.text.vocabulary import Vocabulary
from kddcup.train.checkpoint import SAFETENSORS, Checkpoint, write_checkpoint
from kddcup.train.folder import find_checkpoint
from kddcup.train.processes import pick_device

INDEX_HELP = """Build an index of all products, to search in. Examples:

    python -m kddcup.search index --data_dir data/shop --out shop.index
    python -m kddcup.search index --data_dir data/shop --tables data/new/new.tsv --out new.index

The models are those of blend.json, each at its epoch to use. An index that is there already is replaced with
--force; whoever has it open keeps what was there.
"""
ADD_HELP = """Add products to an index; one of an id that is there takes its place. Example:

    python -m kddcup.search add --index shop.index --tables data/new/new.tsv
"""
REMOVE_HELP = """Remove products from an index, by the shop's ids. Example:

    python -m kddcup.search remove 1007 1012 --index shop.index
"""


@dataclass
class BuildSettings:
    """Settings of an index.

    Args:
        out: folder of the index.
        data_dir: folder of the tables and of what stage 1 wrote.
        tables: index the products of these tables instead of those of data_dir.
        resources_dir: folder of blend.json; by default as main.sh has it, external_resources or its
            sub-folder of the name of data_dir.
        checkpoints_dir: of a stage, within its folder; by default likewise.
        first: the model that ranks the whole index; by default the one of the blend that does best on valid.
        tokenizer: a BERT folder, for checkpoints that carry no vocabulary.
        devices: the GPU that encodes, by number; without a GPU it has no effect.
        force: replace an index that is there.
    """

    out: str
    data_dir: str = "data"
    tables: list[str] = field(default_factory=list)
    resources_dir: str | None = None
    checkpoints_dir: str | None = None
    first: str | None = None
    tokenizer: str | None = None
    devices: list[int] = field(default_factory=list)
    force: bool = False


@dataclass
class AddSettings:
    """Settings of an addition.

    Args:
        index: folder of the index.
        tables: the tables of the products.
        devices: the GPU that encodes, by number; without a GPU it has no effect.
    """

    index: str
    tables: list[str]
    devices: list[int] = field(default_factory=list)


@dataclass
class RemoveSettings:
    """Settings of a removal.

    Args:
        index: folder of the index.
        ids: the shop's ids of the products, which may also be given before all flags.
    """

    index: str
    ids: list[str]


class _Trained(NamedTuple):
    """A model of a finished run, and the name by which a blend calls it."""

    stage: stages.Stage
    checkpoint: Checkpoint
    vocabulary: Vocabulary


@dataclass
class Run:
    """The finished run whose models an index gets.

    Args:
        blend: of its models.
        trained: these by name, and the one that ranks first.
        first: its name.
    """

    blend: Blend
    trained: dict[str, _Trained]
    first: str

    @classmethod
    def find(cls, settings: BuildSettings) -> "Run":
        """Find the blend of a run, and its models.

        Raises:
            UserError: a part of the run is absent, or no model scores word by word.
        """
        sub = "" if Path(settings.data_dir) == Path("data") else Path(settings.data_dir).resolve().name
        resources = Path(settings.resources_dir or Path("external_resources") / sub)
        checkpoints = settings.checkpoints_dir or str(Path("checkpoints") / sub)
        blend = Blend.read(resources)
        names = [model.name for model in blend.models if model.weight]
        trained = {}
        for name in dict.fromkeys([*names, *([settings.first] if settings.first else [])]):
            try:
                stage = stages.find(name)
            except UserError:
                raise UserError(
                    f"{resources / BLEND} blends {name}, which no stage makes, so that it cannot score other "
                    f"products: blend without it, by '{MADE_BY}'"
                ) from None
            checkpoint = find_checkpoint(stage, str(Path(name) / checkpoints), None)
            trained[name] = _Trained(stage, checkpoint, checkpoint.read_vocabulary(settings.tokenizer))
        figures = blend.figures["valid"].models
        able = [name for name in trained if _scores_words(trained[name])]
        first = settings.first or max(able, key=lambda name: figures.get(name, 0.0), default=None)
        if first not in able:
            raise UserError(
                f"{first or resources / BLEND} does not score word by word, which the first ranking needs: "
                f"name with --first one of {', '.join(able) or 'model1 and multilabel'}"
            )
        return cls(blend, trained, first)

    def write(self, folder: Path, data_dir: Path) -> None:
        """Write all that an index needs of the run into its folder of models."""
        config = self.trained[self.first].checkpoint.config
        for name, (stage, checkpoint, vocabulary) in self.trained.items():
            model = checkpoint.build(stage)
            carried = replace(checkpoint.config, vocabulary=vocabulary.to_dict())
            write_checkpoint(folder / f"{name}{SAFETENSORS}", stage.name_parts(model), carried)
        figures = self.blend.figures["valid"]
        IndexSettings(
            names=tuple(self.trained),
            weights={model.name: model.weight for model in self.blend.models if model.weight},
            normalize=self.blend.normalize,
            first=self.first,
            similar=f"{self.first}.caption_head",
            region_dim=config.model.region_dim,
            extractor=config.extractor,
            valid={**figures.models, "blend": figures.blend},
        ).write(folder)
        write_words(folder, count_words(data_dir, self.trained[self.first].vocabulary.dictionary))


def _scores_words(trained: _Trained) -> bool:
    with torch.device("meta"):
        return isinstance(trained.stage.build(trained.checkpoint.config.model), WordRanker)


def _load_encoder(settings: IndexSettings, folder: Path, devices: list[int]) -> Encoder:
    device = pick_device(devices)
    models = {name: settings.load_model(name, folder, device) for name in settings.names}
    return Encoder(models, _as_word_model(models[settings.first]))


def _as_word_model(model: IndexedModel) -> WordModel:
    assert isinstance(model, WordModel)
    return model


def _check_tables(tables: list[CatalogueTable], settings: IndexSettings, source: str) -> None:
    """See that the tables' features are by the extractor of the models' ``source``."""
    for table in tables:
        advice = "extract the tables as the models' were, or train on tables of the same kind"
        check_same_extractor(settings.extractor, source, table.extractor, str(table.path), advice)


def build(args: list[str]) -> None:
    """Build an index."""
    settings = parse_settings(BuildSettings, INDEX_HELP, args=args)
    out, data = Path(settings.out), Path(settings.data_dir)
    tables = [CatalogueTable.of(Path(path)) for path in settings.tables] or find_tables(data)
    run = Run.find(settings)
    with IndexWriter(out) as writer:
        if writer.is_there and not settings.force:
            raise UserError(f"{out} is an index already: add to it with 'add', or replace it with --force")
        models, segment = writer.name("models"), writer.name("segment")
        with atomic_folder(out / models) as part:
            run.write(part, data)
        of_models = IndexSettings.read(out / models)
        _check_tables(tables, of_models, f"the run of {data}")
        encoder = _load_encoder(of_models, out / models, settings.devices)
        print(
            describe_size(estimate_products(tables), encoder.measure(of_models.region_dim), out), flush=True
        )
        count = encoder.write(read_items(tables, of_models.region_dim), out / segment, out)
        writer.replace(Manifest(models, (Part(segment),)))
    print(f"{count:,} products: {out}")


def add(args: list[str]) -> None:
    """Add products to an index."""
    settings = parse_settings(AddSettings, ADD_HELP, args=args)
    folder = Path(settings.index)
    tables = [CatalogueTable.of(Path(path)) for path in settings.tables]
    with IndexWriter(folder) as writer:
        index = Index.open(folder)
        of_models = IndexSettings.read(index.models_folder)
        _check_tables(tables, of_models, str(folder))
        encoder = _load_encoder(of_models, index.models_folder, settings.devices)
        print(
            describe_size(estimate_products(tables), encoder.measure(of_models.region_dim), folder),
            flush=True,
        )
        replaced: list[int] = []

        def items() -> Iterator[Item]:
            for item, row in renumber(read_items(tables, of_models.region_dim), index):
                if row is not None:
                    replaced.append(row)
                yield item

        segment = writer.name("segment")
        count = encoder.write(items(), folder / segment, folder)
        manifest = writer.remove(index, replaced, index.manifest)
        index.close()
        writer.replace(replace(manifest, parts=(*manifest.parts, Part(segment))))
    print(f"{count:,} products added, {len(replaced):,} of them in the place of earlier ones: {folder}")


def remove(args: list[str]) -> None:
    """Remove products from an index."""
    settings = parse_settings(RemoveSettings, REMOVE_HELP, args=args)
    folder = Path(settings.index)
    with IndexWriter(folder) as writer:
        index = Index.open(folder)
        rows = {id_: index.find(id_) for id_ in settings.ids}
        absent = [id_ for id_, row in rows.items() if row is None]
        if absent:
            raise UserError(
                f"{folder} has no product {absent[0]} (and {len(absent) - 1:,} more of these are not there): "
                "name the shop's ids of products that it has"
            )
        manifest = writer.remove(index, [row for row in rows.values() if row is not None], index.manifest)
        index.close()
        writer.replace(manifest)
    print(f"{len(rows):,} products removed: {folder}")
