"""A search index to share: one archive, its manifest, and a page about its models in Markdown."""

import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from kddcup.io.errors import UserError
from kddcup.io.files import read_json, write_json, write_text
from kddcup.rank.logistic import LOGISTIC, LogisticRanker
from kddcup.release.archive import MANIFEST, SEARCH, SEARCH_CARD, is_release_file, pack, summarize
from kddcup.release.manifest import MADE_BY, PACKAGES, describe_run
from kddcup.search.index import INDEX, Index
from kddcup.search.settings import IndexSettings
from kddcup.search.words import WORDS
from kddcup.train.checkpoint import SAFETENSORS, Checkpoint

CARD = """# Search in {products} products

`python -m kddcup.search query "WORDS" --index {folder}` finds products by what their pictures show. This page
was written by `{made_by} --search`.

## What is in it

{models}

The whole index is ranked by {first}, exactly; the best are then ranked by all models, whose scores
({normalize} within the query) are summed by weight. The index has, of each product, {size} kB of encoded
picture, its id, title and link, and where its pictures are; the pictures themselves are not in it.

## What the models were trained on

Pairs of a query and a product that was found under it{data}. Pictures were seen by {extractor}.
The models know {words} words of these queries, the commonest being {common}.

{training}

## How well they do

NDCG@5 on the valid table of the run, on which the weights of the blend were chosen:

| | NDCG@5 |
|---|---|
{figures}

A query of that table has about 30 candidates. Over a whole catalogue figures are lower: measure them with
`python -m kddcup.search judge` on queries of your own.

## What it is not for

- Products, pictures or queries that differ from those it was trained on, in kind, style or language, before
  somebody has measured how well it does there.
- Decisions about people, or anything that must not be wrong: it ranks by likeness and finds something for any
  words. A product that is found for "leather" may be of something else.
- Keeping secrets: ids, titles and links are in the index as they were given.
"""


def write_search_release(folder: Path, out: Path) -> None:
    """Write an index as an archive, and its manifest, into a folder.

    Args:
        folder: of the index.
        out: folder of the archive.

    Raises:
        UserError: there is no index, or the folder has the release of a run.
    """
    manifest, archive = out / MANIFEST, f"{SEARCH}.tar.gz"
    if manifest.is_file() and archive not in read_json(manifest, MADE_BY).get("archives", {}):
        raise UserError(f"{out} has the release of a run: name another folder with --out")
    index = Index.open(folder)
    settings = IndexSettings.read(index.models_folder)
    checkpoints = {
        name: Checkpoint.read(index.models_folder / f"{name}{SAFETENSORS}", MADE_BY)
        for name in settings.names
        if (index.models_folder / f"{name}{SAFETENSORS}").is_file()
    }
    card = out / SEARCH_CARD
    write_text(card, write_card(index, settings, checkpoints))
    pack(out / archive, {**find_index_files(index), f"{SEARCH}/{SEARCH_CARD}": card})
    write_json(
        manifest,
        {
            "archives": {archive: summarize(out / archive)},
            "runs": {name: describe_run(checkpoint) for name, checkpoint in checkpoints.items()},
            "search": {
                "products": index.count,
                "first": settings.first,
                "blend": settings.weights,
                "normalize": settings.normalize,
                "ndcg@5": settings.valid,
            },
            "packages": {package: metadata.version(package) for package in PACKAGES},
        },
    )
    print(f"{index.count:,} products: {out / archive}, and what there is to say of them: {card}")
    index.close()


def find_index_files(index: Index) -> dict[str, Path]:
    """Find the files of an index, by their names in the archive; nothing else that lies there."""
    paths = [index.folder / INDEX]
    for name in index.manifest.names:
        place = index.folder / name
        paths += sorted(place.iterdir()) if place.is_dir() else [place]
    files = {f"{SEARCH}/{os.path.relpath(path, index.folder)}": path for path in paths}
    for name, path in files.items():
        if not is_release_file(name):
            raise UserError(f"{path} is nothing that an index has: move it away")
    return files


def write_card(index: Index, settings: IndexSettings, checkpoints: Mapping[str, Checkpoint]) -> str:
    """Describe an index and its models in Markdown."""
    models, training = [], []
    for name in settings.names:
        weight = f"weight {settings.weights[name]:.3f}" if name in settings.weights else "not in the blend"
        if name in checkpoints:
            config = checkpoints[name].config
            models.append(f"- {name}, {config.size} size, {weight}")
            chosen = ("seed", "epochs", "batch_size", "rate", "use_epoch")
            known = ", ".join(f"{key} {config.training[key]}" for key in chosen if key in config.training)
            training.append(f"- {name}: {known or 'settings unknown'}")
        else:
            words = len(LogisticRanker.read(index.models_folder / LOGISTIC).words)
            models.append(f"- {name} regression of {words:,} words, {weight}")
    digests = {checkpoint.config.data for checkpoint in checkpoints.values() if checkpoint.config.data}
    counts = read_json(index.models_folder / WORDS, MADE_BY)
    segment = index.segments[0]
    size = sum(array.nbytes for array in segment.arrays.values()) / max(1, segment.products) / 1e3
    return CARD.format(
        products=f"{index.count:,}",
        folder=index.folder.name,
        made_by=MADE_BY,
        models="\n".join(models),
        normalize=settings.normalize,
        first=settings.first,
        size=f"{size:.1f}",
        data=f" (digest of the data: {', '.join(sorted(digests))})" if digests else "",
        extractor=settings.extractor or "an extractor that is not known",
        words=f"{len(counts):,}",
        common=", ".join(list(counts)[:10]) or "none",
        training="\n".join(training),
        figures="\n".join(f"| {name} | {figure:.4f} |" for name, figure in settings.valid.items()),
    )
