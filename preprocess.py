"""Stage 1: tables in, regions and vocabulary out.

Reads DATA/train/train.tsv once and writes DATA/features (all regions of all products, memory-mapped) and
DATA/info (queries, products, classes, clusters, vocabulary). Example:

    python preprocess.py --data_dir data/sample --size small --tokenizer lexicon
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jsonargparse.typing import NonNegativeInt, PositiveInt

from kddcup.config import SIZES, parse_settings
from kddcup.corpus import MARKER, write_info
from kddcup.errors import UserError, run_script
from kddcup.files import read_json, write_json
from kddcup.ingest import Ingest
from kddcup.text import LEXICON, build_lexicon, read_bert, save_vocabulary
from kddcup.tsv import Table

OUTPUTS = (
    *(f"features/{name}.npy" for name in ("features", "boxes", "offsets", "product_ids")),
    *(f"info/{name}.pkl" for name in ("data", "query2product2", "data_info2")),
    *(f"info/vocabulary/{name}" for name in ("vocab.txt", "vocabulary.json", "vectors.npz")),
    f"info/{MARKER}",
)


@dataclass
class PreprocessSettings:
    """Settings of stage 1.

    Args:
        data_dir: folder of the tables; features/ and info/ are written there.
        size: of the models to come; gives the width of a lexicon's word vectors.
        tokenizer: a BERT name or folder, or 'lexicon', which needs no network.
        feature_dtype: of the regions on disk.
        workers: processes that convert the table.
        seed: of the lexicon's vectors and the clusters.
        force: redo finished work.
    """

    data_dir: str = "data"
    size: Literal["full", "small"] = "full"
    tokenizer: str = "bert-large-uncased"
    feature_dtype: Literal["float16", "float32"] = "float16"
    workers: PositiveInt = 1
    seed: NonNegativeInt = 2020
    force: bool = False


def finished(settings: PreprocessSettings, source: dict[str, object]) -> bool:
    """Whether this very work has been done.

    Raises:
        UserError: other work has, and would be overwritten.
    """
    data = Path(settings.data_dir)
    if settings.force or not all((data / output).is_file() for output in OUTPUTS):
        return False
    marker = data / "info" / MARKER
    done = read_json(marker, "run 'python preprocess.py --force'")
    if not isinstance(done, dict):
        raise UserError(f"{marker} is not what stage 1 writes: run 'python preprocess.py --force'")
    if done != source:
        other = ", ".join(f"{key} {done.get(key)}" for key in source if done.get(key) != source[key])
        flags = f"--data_dir {data} --size {settings.size} --tokenizer {settings.tokenizer}"
        raise UserError(
            f"{marker}: finished before with {other}; redo it with 'python preprocess.py {flags} --force'"
        )
    return True


def main() -> None:
    """Run stage 1."""
    settings = parse_settings(PreprocessSettings, __doc__)
    data = Path(settings.data_dir)
    table = Table(data / "train" / "train.tsv")
    marker = data / "info" / MARKER
    source = {
        key: value for key, value in asdict(settings).items() if key not in ("data_dir", "workers", "force")
    }
    source["table_bytes"] = table.path.stat().st_size
    if finished(settings, source):
        print(f"{data / 'features'} and {data / 'info'} are finished; '--force' redoes them")
        return
    bert = None if settings.tokenizer == LEXICON else read_bert(settings.tokenizer)
    marker.unlink(missing_ok=True)

    ingest = Ingest(table, data / "features", settings.feature_dtype, settings.workers)
    ingest.run()
    texts = list(ingest.texts.values())
    try:
        vocabulary, words = bert or build_lexicon(texts, SIZES[settings.size].lexicon_width, settings.seed)
    except UserError as error:
        raise UserError(f"{table.path}: {error}") from None
    save_vocabulary(data / "info" / "vocabulary", vocabulary, words)
    query_ids = np.fromiter(ingest.texts, np.int64)
    write_info(data / "info", ingest.columns(), query_ids, texts, vocabulary, words, settings.seed)
    write_json(marker, source)

    print(
        f"{ingest.rows:,} rows, {ingest.products:,} products, {ingest.regions:,} regions, "
        f"{len(texts):,} queries, {len(vocabulary):,} tokens"
    )
    print(
        f"kept all the same: {ingest.outside:,} boxes outside their image, "
        f"{ingest.differing:,} later rows of a product that differ from its first, "
        f"{ingest.renamed:,} rows whose query text differs from the first of their query id"
    )
    print(f"{data / 'features'} and {data / 'info'} are finished")


if __name__ == "__main__":
    run_script(main)
