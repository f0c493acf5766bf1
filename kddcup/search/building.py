"""The commands that write an index: ``index``, ``add`` and ``remove``."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from kddcup.cli import parse_settings
from kddcup.io.atomic import atomic_folder
from kddcup.io.errors import UserError
from kddcup.search.catalogue import (
    CatalogueSettings,
    Item,
    check_extractors,
    estimate_products,
    find_tables,
    open_catalogue,
    read_items,
)
from kddcup.search.index import Index, Manifest, Part
from kddcup.search.models import load_model
from kddcup.search.run import Run, RunFolders
from kddcup.search.settings import IndexSettings
from kddcup.search.writing import Encoder, IndexWriter, describe_size, renumber
from kddcup.train.processes import pick_device

INDEX_HELP = """Build an index of all products, to search in. Examples:

    python -m kddcup.search index --data_dir data/shop --out shop.index
    python -m kddcup.search index --data_dir data/shop --tables data/new/new.tsv --out new.index
    python -m kddcup.search index --data_dir data/shop --images photos --out photos.index

The models are those of blend.json, each at its epoch to use. An index that is there already is replaced with
--force; whoever has it open keeps what was there.
"""
ADD_HELP = """Add products to an index; one of an id that is there takes its place. Example:

    python -m kddcup.search add --index shop.index --tables data/new/new.tsv
    python -m kddcup.search add --index shop.index --images photos --pairs products.csv
"""
REMOVE_HELP = """Remove products from an index, by the shop's ids. Example:

    python -m kddcup.search remove 1007 1012 --index shop.index
"""


@dataclass(kw_only=True)
class BuildSettings(CatalogueSettings):
    """Settings of an index, of the products of all tables of data_dir where no others are named.

    Args:
        out: folder of the index.
        data_dir: folder of the tables and of what stage 1 wrote.
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
    resources_dir: str | None = None
    checkpoints_dir: str | None = None
    first: str | None = None
    tokenizer: str | None = None
    devices: list[int] = field(default_factory=list)
    force: bool = False


@dataclass(kw_only=True)
class AddSettings(CatalogueSettings):
    """Settings of an addition.

    Args:
        index: folder of the index.
        devices: the GPU that encodes, by number; without a GPU it has no effect.
    """

    index: str
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


def _load_encoder(settings: IndexSettings, folder: Path, devices: list[int]) -> Encoder:
    device = pick_device(devices)
    models = {name: load_model(name, folder, device) for name in settings.names}
    return Encoder(models, models[settings.likeness])


def build(args: list[str]) -> None:
    """Build an index."""
    settings = parse_settings(BuildSettings, INDEX_HELP, args=args)
    out = Path(settings.out)
    folders = RunFolders.find(settings.data_dir, settings.resources_dir, settings.checkpoints_dir)
    run = Run(folders, settings.first, settings.tokenizer)
    dim, extractor, trained = run.settings.region_dim, run.settings.extractor, f"the run of {folders.data}"
    with IndexWriter(out) as writer:
        if writer.is_there and not settings.force:
            raise UserError(f"{out} is an index already: add to it with 'add', or replace it with --force")
        with open_catalogue(settings, out, extractor, trained) as named:
            tables = named or find_tables(folders.data)
            check_extractors(tables, extractor, trained)
            models, segment = writer.name("models"), writer.name("segment")
            with atomic_folder(out / models) as part:
                run.write(part)
            encoder = _load_encoder(run.settings, out / models, settings.devices)
            print(describe_size(estimate_products(tables), encoder.measure(dim), out), flush=True)
            count = encoder.write(read_items(tables, dim), out / segment, out)
            writer.replace(Manifest(models, (Part(segment),)))
    print(f"{count:,} products: {out}")


def add(args: list[str]) -> None:
    """Add products to an index."""
    settings = parse_settings(AddSettings, ADD_HELP, args=args)
    folder = Path(settings.index)
    Index.open(folder).close()  # before a lock makes a folder that is not there
    with IndexWriter(folder) as writer:
        index = Index.open(folder)
        of_models = IndexSettings.read(index.models_folder)
        with open_catalogue(settings, folder, of_models.extractor, str(folder)) as tables:
            if not tables:
                raise UserError("no products are named: name tables with --tables or pictures with --images")
            dim, replaced = of_models.region_dim, []
            encoder = _load_encoder(of_models, index.models_folder, settings.devices)
            print(describe_size(estimate_products(tables), encoder.measure(dim), folder), flush=True)

            def items() -> Iterator[Item]:
                for item, row in renumber(read_items(tables, dim), index):
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
    Index.open(folder).close()
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
