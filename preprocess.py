"""Stage 1: tables in, regions and vocabulary out.

Reads DATA/train/train.tsv once and writes DATA/features (all regions of all products, memory-mapped) and
DATA/info (queries, products, classes, clusters, vocabulary). Example:

    python preprocess.py --data_dir data/sample --size small --tokenizer lexicon
"""

import contextlib
from array import array
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from kddcup.config import SIZES, parse_settings
from kddcup.corpus import MARKER, write_info
from kddcup.errors import UserError, run_script
from kddcup.files import read_json, whole, write_json
from kddcup.regions import BOX_COLUMNS, GrowingArray, scale_boxes, write_array
from kddcup.text import LEXICON, build_lexicon, read_bert, save_vocabulary
from kddcup.tsv import Table


@dataclass
class PreprocessSettings:
    """Settings of stage 1.

    Args:
        data_dir: folder of the tables; features/ and info/ are written there.
        size: of the models to come; gives the width of a lexicon's word vectors.
        tokenizer: a BERT name or folder, or 'lexicon', which needs no network.
        feature_dtype: of the regions on disk.
        seed: of the lexicon's vectors and the clusters.
        force: redo finished work.
    """

    data_dir: str = "data"
    size: Literal["full", "small"] = "full"
    tokenizer: str = "bert-large-uncased"
    feature_dtype: Literal["float16", "float32"] = "float16"
    seed: int = 2020
    force: bool = False


class Ingest:
    """What one pass over the table keeps in memory: numbers per row and product, and the queries' texts."""

    def __init__(self) -> None:
        self.columns = {name: array("q") for name in ("product_id", "image_h", "image_w", "query_id")}
        self.class_labels, self.class_label_offsets = array("q"), array("q", [0])
        self.region_offsets = array("q", [0])
        self.checksums: dict[int, int] = {}
        self.texts: dict[int, str] = {}
        self.outside = self.differing = self.renamed = 0

    def run(self, table: Table, folder: Path, dtype: np.dtype) -> None:
        """Read the table and write the four arrays of the store into ``folder``."""
        with contextlib.ExitStack() as stack:
            paths = [stack.enter_context(whole(folder / name)) for name in ("features.npy", "boxes.npy")]
            features_file, boxes_file = (stack.enter_context(open(path, "wb", 1 << 20)) for path in paths)
            features = None
            boxes = GrowingArray(boxes_file, BOX_COLUMNS, np.float32)
            for row in table.rows("preprocess"):
                for name, column in self.columns.items():
                    column.append(getattr(row, name))
                self.class_labels.extend(row.class_labels.tolist())
                self.class_label_offsets.append(len(self.class_labels))
                self.renamed += self.texts.setdefault(row.query_id, row.query) != row.query
                known = self.checksums.get(row.product_id)
                if known is not None:
                    self.differing += known != row.checksum
                    continue
                self.checksums[row.product_id] = row.checksum
                scaled = scale_boxes(row.boxes, row.image_h, row.image_w)
                self.outside += int(((scaled[:, :4] < 0) | (scaled[:, :4] > 1)).any(axis=1).sum())
                with np.errstate(over="ignore"):
                    stored = row.features.astype(dtype)
                if not np.isfinite(stored).all():
                    raise UserError(
                        f"{table.path}: a feature of product {row.product_id} is too large for {dtype}; "
                        "use '--feature_dtype float32'"
                    )
                features = features or GrowingArray(features_file, stored.shape[1], dtype)
                features.append(stored)
                boxes.append(scaled)
                self.region_offsets.append(boxes.rows)
            features.close()
            boxes.close()
        write_array(folder / "offsets.npy", np.array(self.region_offsets))
        write_array(folder / "product_ids.npy", np.fromiter(self.checksums, np.int64))

    def table(self) -> dict[str, np.ndarray]:
        """The table without its base64 columns."""
        return {
            **{name: np.array(column) for name, column in self.columns.items()},
            "class_label": np.array(self.class_labels),
            "class_label_offsets": np.array(self.class_label_offsets),
        }


def finished(settings: PreprocessSettings, source: dict[str, object], marker: Path) -> bool:
    """Whether this very work has been done.

    Raises:
        UserError: other work has, and would be overwritten.
    """
    if settings.force or not marker.is_file():
        return False
    done = read_json(marker, "run 'python preprocess.py --force'")
    if done != source:
        other = ", ".join(f"{key} {done.get(key)}" for key in source if done.get(key) != source[key])
        raise UserError(f"{marker}: finished before with {other}; use '--force' to redo it")
    return True


def main() -> None:
    """Run stage 1."""
    settings = parse_settings(PreprocessSettings, __doc__)
    data = Path(settings.data_dir)
    table = Table(data / "train" / "train.tsv")
    marker = data / "info" / MARKER
    source = {key: value for key, value in asdict(settings).items() if key not in ("data_dir", "force")}
    source["table_bytes"] = table.path.stat().st_size
    if finished(settings, source, marker):
        print(f"{data / 'features'} and {data / 'info'} are finished; '--force' redoes them")
        return
    marker.unlink(missing_ok=True)
    (data / "features").mkdir(exist_ok=True)
    bert = None if settings.tokenizer == LEXICON else read_bert(settings.tokenizer)

    ingest = Ingest()
    ingest.run(table, data / "features", np.dtype(settings.feature_dtype))
    texts = list(ingest.texts.values())
    vocabulary, words = bert or build_lexicon(texts, SIZES[settings.size].lexicon_width, settings.seed)
    save_vocabulary(data / "info" / "vocabulary", vocabulary, words)
    query_ids = np.fromiter(ingest.texts, np.int64)
    write_info(data / "info", ingest.table(), query_ids, texts, vocabulary, words, settings.seed)
    write_json(marker, source)

    rows, products = len(ingest.class_label_offsets) - 1, len(ingest.checksums)
    print(
        f"{rows:,} rows, {products:,} products, {ingest.region_offsets[-1]:,} regions, "
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
