"""From a folder of pictures to the competition's tables. Example:

    python -m kddcup.extract --images photos --pairs pairs.csv --out data/shop

Each picture goes once through a network, whose map of features is pooled inside regions: by default
EfficientNet-Lite0, which needs no network connection, and the picture, its middle and its four corners.

Run again after a kill, it goes on where it was. On several GPUs:
torchrun --nproc_per_node=4 -m kddcup.extract …
"""

import contextlib
import datetime
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import xxhash
from jsonargparse.typing import NonNegativeInt, PositiveInt

from kddcup.cli import parse_settings
from kddcup.io.errors import UserError
from kddcup.io.folders import MARKER, lock_folder, read_marker, write_marker
from kddcup.pictures.backbones import Precision, load_backbone, load_default
from kddcup.pictures.detectors import load_detector
from kddcup.pictures.extractors import CropExtractor, RegionExtractor
from kddcup.pictures.journal import RegionJournal, Unseen
from kddcup.pictures.pairs import Shop, read_pairs
from kddcup.pictures.pipeline import CHUNK, Pipeline, count_cores
from kddcup.pictures.tables import BAD_PICTURES, TableWriter, write_bad_pictures
from kddcup.table.extractor import EXTRACTOR_FILE, write_extractor
from kddcup.train.processes import Process, pick_device
from kddcup.train.rendezvous import join

MADE_BY = "python -m kddcup.extract"
MAX_GRID = 16
TIMEOUT = datetime.timedelta(hours=2)
"""The longest time that processes wait for one another."""


@dataclass(kw_only=True)
class ExtractorSettings:
    """Regions and features.

    Args:
        detector: a network that finds regions, instead of crops: the name on the hub or the folder of an
            RT-DETR, RT-DETRv2, D-FINE, DETR (with use_timm_backbone false) or YOLOS.
        backbone: a network whose features are taken instead of the detector's own or EfficientNet-Lite0's:
            the name or folder of a convolutional network, or of a ViT, CLIP, SigLIP or DINOv2.
        max_regions: of a picture, with a detector: all of it, and the boxes that are surest.
        grid: takes N × N crops of a picture instead of the picture, its middle and its four corners.
        precision: of the network's layers.
        workers: processes that decode pictures, and without a GPU compute their features; 0 takes one for
            each core.
        max_bad_pictures: how many pictures may be missing or unreadable; they are listed in
            bad_pictures.csv.

    Raises:
        UserError: the grid is too fine, or named with a detector.
    """

    detector: str | None = None
    backbone: str | None = None
    max_regions: PositiveInt = 10
    grid: NonNegativeInt = 0
    precision: Precision = "float32"
    workers: NonNegativeInt = 0
    max_bad_pictures: NonNegativeInt = 1000

    def __post_init__(self) -> None:
        """Check that there are not many more crops than the map has cells."""
        if self.grid > MAX_GRID:
            raise UserError(f"--grid {self.grid} is too fine for a map of 8 cells a side: at most {MAX_GRID}")
        if self.grid and self.detector:
            raise UserError("--grid takes crops and --detector finds boxes: name one of them")


@dataclass(kw_only=True)
class ExtractSettings(ExtractorSettings):
    """Settings of the extraction.

    Args:
        images: folder of the pictures, with the folders in it.
        pairs: table of the columns query and product_id, and optionally split, relevance, image, title and
            url; as CSV, TSV or JSON lines.
        out: folder that the tables are written to.
        force: redo finished work, and start unfinished work over.
    """

    images: str
    pairs: str
    out: str
    force: bool = False


def load_extractor(settings: ExtractorSettings, device: torch.device) -> RegionExtractor:
    """The extractor that the settings name, with its networks on a device."""
    backbone = load_backbone(settings.backbone, settings.precision) if settings.backbone else None
    if not settings.detector and not backbone:
        backbone = load_default(settings.precision)
    if backbone:
        backbone.network.to(device, memory_format=torch.channels_last)
    if settings.detector:
        return load_detector(settings.detector, settings.precision, settings.max_regions, device, backbone)
    return CropExtractor(backbone, settings.grid)


class Extraction:
    """The pictures of a shop, and the folder that its tables are written to.

    Args:
        settings: of the run.
        shop: whose tables are to be written.
        extractor: of the regions.
        process: this process.
    """

    def __init__(
        self, settings: ExtractSettings, shop: Shop, extractor: RegionExtractor, process: Process
    ) -> None:
        self._settings, self._shop, self._extractor, self._process = settings, shop, extractor, process
        self._out = Path(settings.out)
        # A picture may show several products.
        pictures = dict.fromkeys(path for product in shop.products for path in product.pictures)
        self._places = {path: place for place, path in enumerate(pictures)}
        chunk = CHUNK[process.device.type]
        self._journal = RegionJournal(
            self._out / ".extraction", len(pictures), chunk, f"{self._hash_pictures()} by {chunk}"
        )
        self._facts = {"made_by": MADE_BY, "extraction": self._hash_shop()}

    def run(self) -> None:
        """See the pictures, and write the tables.

        Raises:
            UserError: the folder has other tables; too many pictures are bad; the disk is full.
        """
        process = self._process
        if process.broadcast(self._is_finished() if process.is_main else None):
            process.say(f"{self._out} is finished; '--force' redoes it")
            return
        if process.is_main:
            self._begin()
        process.any(False)  # nobody writes before the folder is ready
        self._see_pictures()
        process.any(False)  # everybody has written
        if process.is_main:
            self._write_tables()

    def _hash_pictures(self) -> str:
        """What the regions depend on."""
        found = xxhash.xxh3_128(repr(asdict(self._extractor.description)).encode())
        for path in self._places:
            stat = os.stat(path)
            found.update(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return found.hexdigest()

    def _hash_shop(self) -> str:
        """What the tables depend on."""
        found = xxhash.xxh3_128(self._hash_pictures().encode())
        for item in (*self._shop.products, *self._shop.queries, *self._shop.splits.items()):
            found.update(repr(item).encode(errors="surrogateescape"))
        return found.hexdigest()

    def _is_finished(self) -> bool:
        """Whether this very work has been done.

        Raises:
            UserError: other work has, and would be overwritten.
        """
        is_marked = (self._out / MARKER).is_file()
        if (self._out / "train").exists() and not is_marked and not self._journal.exists():
            raise UserError(
                f"{self._out} has tables that were not made by '{MADE_BY}': name another folder with --out"
            )
        if not is_marked or self._settings.force:
            return False
        facts = read_marker(self._out, MADE_BY)
        if any(facts.get(name) != fact for name, fact in self._facts.items()):
            raise UserError(
                f"{self._out} has tables of other pictures or of other settings: name another folder with "
                "--out, or redo it with --force"
            )
        self._journal.clear()
        return True

    def _begin(self) -> None:
        (self._out / MARKER).unlink(missing_ok=True)
        if self._settings.force:
            self._journal.clear()
        self._journal.begin()
        pictures = {product.number: len(product.pictures) for product in self._shop.products}
        rows = [pictures[number] for split in self._shop.splits.values() for number, _ in split.rows]
        # A region is a float32 feature, a box of four and an int64 label; base64 makes four bytes of three.
        picture = self._extractor.most * (4 * self._extractor.description.dim + 4 * 4 + 8)
        print(
            f"{len(self._shop.products):,} products, {len(self._places):,} pictures and {len(rows):,} rows: "
            f"up to {sum(rows) * picture * 4 / 3e6:,.0f} MB of tables "
            f"({sum(rows) / len(rows) * picture * 4 / 3e3:,.0f} kB a row) and, while they are made, "
            f"{len(self._places) * picture / 1e6:,.0f} MB of regions in {self._out}, "
            f"which has {shutil.disk_usage(self._out).free / 1e6:,.0f} MB free",
            flush=True,
        )

    def _list_bad_pictures(self) -> int:
        """List the pictures that are missing, and those seen so far that cannot be read; gives how many.

        Raises:
            UserError: they are too many.
        """
        bad = [(name, "there is no such file") for name, _ in self._shop.missing]
        for path, place in self._places.items():
            picture = self._journal.get(place)
            if isinstance(picture, Unseen):
                bad.append((str(path), picture.reason))
        write_bad_pictures(self._out, bad)
        if len(bad) > self._settings.max_bad_pictures:
            raise UserError(
                f"{self._settings.pairs}: {len(bad):,} pictures are missing or cannot be read, listed in "
                f"{self._out / BAD_PICTURES}: fix them or raise --max_bad_pictures"
            )
        return len(bad)

    def _see_pictures(self) -> None:
        """See this process' share of the pictures that nobody has seen yet."""
        settings, process = self._settings, self._process
        pipeline = Pipeline(
            list(self._places),
            self._extractor,
            process.device,
            settings.workers or count_cores(),
            is_silent=not process.is_main,
        )
        unseen = [chunk for chunk in range(len(self._journal)) if chunk not in self._journal]
        bad = 0
        for unreadable in pipeline.run(self._journal, unseen[process.rank :: process.ranks]):
            bad += unreadable
            if bad > settings.max_bad_pictures:
                break

    def _write_tables(self) -> None:
        bad = self._list_bad_pictures()
        lost = [
            product.number
            for product in self._shop.products
            if all(isinstance(self._journal[self._places[path]], Unseen) for path in product.pictures)
        ]
        shop = self._shop.without(lost)
        if "train" not in shop.splits:
            raise UserError(
                f"{self._settings.pairs}: no product of train has a picture that can be read; see "
                f"{self._out / BAD_PICTURES}"
            )
        names = TableWriter(self._out, shop, self._journal, self._places).write(self._extractor.labels)
        write_extractor(self._out, self._extractor.description)
        write_marker(self._out, [*names, BAD_PICTURES, EXTRACTOR_FILE], self._facts)
        self._journal.clear()
        for split, table in shop.splits.items():
            print(f"{split}: {len({query for _, query in table.rows}):,} queries, {len(table.rows):,} rows")
        if bad:
            print(
                f"skipped {bad:,} pictures, listed in {self._out / BAD_PICTURES}, and {len(lost):,} products "
                "that have no other"
            )
        print(f"{self._out} is finished")


@contextlib.contextmanager
def start_process(out: Path) -> Iterator[Process]:
    """This process, alone or among those that torchrun started; the main one holds the folder's lock.

    Raises:
        UserError: another run holds it, or the other processes are lost.
    """
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    process = Process(rank, ranks, pick_device([], int(os.environ.get("LOCAL_RANK", 0))))
    if ranks > 1 and process.device.type == "cpu":
        # torchrun sets one thread, however many cores there are.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"])))
    with contextlib.ExitStack() as stack:
        if process.is_main:
            stack.enter_context(lock_folder(out))
        stack.enter_context(join(process, TIMEOUT, "run the same command again: it continues where it was"))
        yield process


def main() -> None:
    """Extract the regions of a shop's pictures and write its tables."""
    settings = parse_settings(ExtractSettings, __doc__)
    shop = read_pairs(Path(settings.pairs), Path(settings.images))
    with start_process(Path(settings.out)) as process:
        Extraction(settings, shop, load_extractor(settings, process.device), process).run()
