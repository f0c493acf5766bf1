"""Stage 1: tables in, regions and vocabulary out.

Reads DATA/train/train.tsv once and writes DATA/features (all regions of all products, memory-mapped) and
DATA/info (queries, products, classes, clusters, vocabulary). Example:

    python preprocess.py --data_dir data/sample --size small --tokenizer lexicon
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jsonargparse.typing import NonNegativeInt, PositiveInt

from kddcup.cli import parse_settings
from kddcup.config import SIZES, PretrainRecipe, Seed
from kddcup.data.corpus import BAD_ROWS, INFO_FILES, Corpus, write_info
from kddcup.data.loader import check_batch_size, count_examples, fit_batch_size
from kddcup.data.sampling import check_negatives
from kddcup.io.errors import UserError, run_script
from kddcup.io.folders import MARKER, lock_folder, read_marker, verify_checksums, write_marker
from kddcup.stages import STAGES
from kddcup.table.contents import Contents
from kddcup.table.extractor import EXTRACTOR_FILE, read_extractor, write_extractor
from kddcup.table.ingest import Ingest
from kddcup.table.table import BadRows, Table
from kddcup.text.bert import read_bert
from kddcup.text.lexicon import build_lexicon
from kddcup.text.segmentation import JIEBA, UserDictionary
from kddcup.text.vocabulary import LEXICON, Vocabulary, read_user_dictionary, save_vocabulary

MADE_BY = "python preprocess.py"
CHOICES = ("size", "tokenizer", "user_dict", "feature_dtype", "bad_rows", "seed")
"""The settings that decide what is written."""


@dataclass
class PreprocessSettings:
    """Settings of stage 1.

    Args:
        data_dir: folder of the tables; features/ and info/ are written there.
        size: of the models to come; gives the width of a lexicon's word vectors.
        tokenizer: a BERT name or folder, or 'lexicon', which needs no network.
        user_dict: a file of words that jieba keeps together when it cuts Chinese, one a line; it travels in
            info/ and in checkpoints.
        feature_dtype: of the regions on disk.
        workers: processes that convert the table; a compressed one is converted by one process.
        bad_rows: stop at the first row that is not as it should be, or skip such rows and list them in
            info/bad_rows.tsv.
        max_bad_rows: with --bad_rows skip, how many may be skipped; the default is one in 3,000 of the
            competition's rows.
        processes: that will train; the table's rows have to fill a batch of each. By default that is not
            checked here.
        seed: of the lexicon's vectors and the clusters.
        force: redo finished work; start unfinished work over.
        verify: check what is finished against its checksums; write nothing.
    """

    data_dir: str = "data"
    size: Literal["full", "small"] = "full"
    tokenizer: str = "bert-large-uncased"
    user_dict: str | None = None
    feature_dtype: Literal["float16", "float32"] = "float16"
    workers: PositiveInt = 1
    bad_rows: Literal["stop", "skip"] = "stop"
    max_bad_rows: NonNegativeInt = 1000
    processes: PositiveInt | None = None
    seed: Seed = 2020
    force: bool = False
    verify: bool = False


def is_finished(data: Path, choices: dict[str, object], dictionary: UserDictionary, table: Table) -> bool:
    """Whether this very work has been done.

    Args:
        data: folder of the tables.
        choices: the settings that decide what is written.
        dictionary: what is in the file that user_dict names.
        table: the training table.

    Raises:
        UserError: other work has been done, and would be overwritten.
    """
    try:
        store, info = (read_marker(data / folder, MADE_BY) for folder in ("features", "info"))
        stamp, digest = [int(number) for number in store["table_stamp"]], store["table_digest"]
        before = {name: info[name] for name in choices}
        is_of_one_run = info["table_digest"] == digest and len(stamp) == len(table.stamp)
    except (UserError, KeyError, TypeError, ValueError, OverflowError):
        return False
    if not is_of_one_run:
        return False
    marker = data / "info" / MARKER
    flags = {"data_dir": data, **choices}
    flags = " ".join(f"--{name} {value}" for name, value in flags.items() if value is not None)
    redo = f"redo it with '{MADE_BY} {flags} --force'"
    if before != choices:
        other = ", ".join(f"{name} {before[name]}" for name in choices if before[name] != choices[name])
        raise UserError(f"{marker}: finished before with {other}; {redo}")
    if read_extractor(data) != read_extractor(data / "info"):
        raise UserError(f"{marker}: {data / EXTRACTOR_FILE} has changed since; {redo}")
    if read_user_dictionary(data).entries != dictionary.entries:
        raise UserError(f"{marker}: {choices['user_dict']} has changed since; {redo}")
    if not table.matches(stamp, digest):
        raise UserError(
            f"{marker}: {table.path} has changed since ({stamp[0]:,} bytes then, {table.stamp[0]:,} now); "
            f"{redo}"
        )
    return True


def check_trainable(settings: PreprocessSettings) -> None:
    """Check that the stages to come can train on what was written.

    Raises:
        UserError: they cannot, which is better said now than after the hours of stage 2.
    """
    info = Path(settings.data_dir) / "info"
    corpus, vocabulary = Corpus.open(info), Vocabulary.read(info / "vocabulary")
    try:
        check_negatives(corpus)
        for stage in STAGES if settings.processes else ():
            tokens = corpus.tokens.drop(vocabulary.unknown) if stage.kind == "encoder" else corpus.tokens
            recipe = stage.recipes[settings.size]
            by_product = isinstance(recipe, PretrainRecipe) and recipe.labels == "product"
            rows = count_examples(corpus, tokens, by_product)
            batch_size = fit_batch_size(recipe.batch_size, rows, settings.processes, settings.size)
            check_batch_size(batch_size, rows, settings.processes, stage.name, by_product)
    except UserError as error:
        raise UserError(f"{settings.data_dir} cannot be trained on: {error}") from None


def print_summary(contents: Contents, bad_rows: BadRows, tokens: int) -> None:
    """Print what there was, and what was odd about it."""
    print(
        f"{contents.rows:,} rows, {contents.products:,} products, {contents.regions:,} regions, "
        f"{len(contents.texts):,} queries, {tokens:,} tokens"
    )
    print(
        f"kept all the same: {contents.outside:,} boxes outside their image, "
        f"{contents.differing:,} later rows of a product that differ from its first, "
        f"{contents.renamed:,} rows whose query text differs from the first of their query id"
    )
    if bad_rows:
        print(f"skipped {len(bad_rows):,} bad rows, listed in {bad_rows.path}: {bad_rows.count_kinds()}")


def preprocess(settings: PreprocessSettings, table: Table) -> None:
    """Do what is not finished.

    Raises:
        UserError: other work has been finished there; the table or the tokenizer is not as it should be; the
            disk is full.
    """
    data = Path(settings.data_dir)
    features, info = data / "features", data / "info"
    choices = {name: getattr(settings, name) for name in CHOICES}
    dictionary = UserDictionary.read(Path(settings.user_dict)) if settings.user_dict else JIEBA
    bad_rows = info / BAD_ROWS if settings.bad_rows == "skip" else None
    ingest = Ingest(
        table, features, settings.feature_dtype, settings.workers, bad_rows, settings.max_bad_rows
    )
    if not settings.force and is_finished(data, choices, dictionary, table):
        ingest.forget()
        check_trainable(settings)
        print(f"{features} and {info} are finished; '--force' redoes them")
        return
    extractor = read_extractor(data)
    # Before anything is removed: the tokenizer's name may be mistyped.
    bert = None if settings.tokenizer == LEXICON else read_bert(settings.tokenizer)
    for stale in (MARKER, BAD_ROWS, EXTRACTOR_FILE):
        (info / stale).unlink(missing_ok=True)
    if settings.force:
        ingest.forget()

    ingest.run()
    contents = ingest.contents
    texts = list(contents.texts.values())
    try:
        width = SIZES[settings.size].lexicon_width
        vocabulary, words = bert or build_lexicon(texts, width, settings.seed, dictionary)
    except UserError as error:
        raise UserError(f"{table.path}: {error}") from None
    vocabulary.dictionary = dictionary  # which no BERT has of its own
    save_vocabulary(info / "vocabulary", vocabulary, words)
    query_ids = np.fromiter(contents.texts, np.int64)
    write_info(info, contents.join_columns(), query_ids, texts, vocabulary, words, settings.seed)
    check_trainable(settings)
    names = [*INFO_FILES, *([BAD_ROWS] if bad_rows else [])]
    if extractor:
        write_extractor(info, extractor)
        names.append(EXTRACTOR_FILE)
    write_marker(info, names, {**choices, "table_digest": contents.digest.hexdigest()})
    ingest.forget()
    print_summary(contents, ingest.bad_rows, len(vocabulary))
    print(f"{features} and {info} are finished")


def main() -> None:
    """Run stage 1."""
    settings = parse_settings(PreprocessSettings, __doc__)
    data = Path(settings.data_dir)
    if settings.verify:
        folders = data / "features", data / "info"
        for folder in folders:
            verify_checksums(folder, f"{MADE_BY} --data_dir {data}")
        print(f"{folders[0]} and {folders[1]} are as they were written")
        return
    table = Table(data / "train" / "train.tsv")
    with lock_folder(data):
        preprocess(settings, table)


if __name__ == "__main__":
    run_script(main)
