"""The archives of a release: packed to the same bytes each time, and unpacked safely.

An archive may come from anybody, and may be damaged. So it may hold only files that a release has, and it is
read to its end before anything is written.
"""

import gzip
import hashlib
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from kddcup.data.corpus import BAD_ROWS, INFO_FILES
from kddcup.io.atomic import atomic_folder, atomic_write
from kddcup.io.errors import UserError, explain_error
from kddcup.io.folders import MARKER
from kddcup.rank.logistic import LOGISTIC
from kddcup.search.index import INDEX
from kddcup.table.extractor import EXTRACTOR_FILE

MANIFEST = "MANIFEST.json"
INFO, CHECKPOINTS = "info", "ckpt"
"""The folder in the archive of stage 1, and in that of anything blended."""
SEARCH, SEARCH_CARD = "search", "README.md"
"""The folder in the archive of a search index, and the page about its models."""
MAX_MEMBERS = 1000
"""The most members of an archive; a release has about ten."""
MAX_BYTES = 1 << 36
"""The most bytes that an archive unpacks to; a full-size checkpoint with its optimizer has less than 2 GB."""
MAX_RATIO = 100
"""The largest ratio of an archive's contents to its size; that of pickles is about 5, gzip's limit 1,032."""
MAX_HEADER = 1 << 20
"""The most bytes of a header, which tarfile reads at once, and of the zeros after the last member."""
_END_MARK = 2 * tarfile.BLOCKSIZE
_BLOCK = 1 << 20
_INFO_NAMES = {f"{INFO}/{name}" for name in (*INFO_FILES, MARKER, BAD_ROWS, EXTRACTOR_FILE, MANIFEST)}
_CHECKPOINT_NAME = re.compile(
    rf"{CHECKPOINTS}/([A-Za-z0-9][\w.-]{{0,199}}\.(pth|safetensors)|{re.escape(LOGISTIC)}|{MANIFEST})",
    re.ASCII,
)
_SEARCH_NAME = re.compile(
    rf"{SEARCH}/({INDEX}|{SEARCH_CARD}|{MANIFEST}|removed-[0-9]{{1,9}}\.npy"
    r"|(models|segment)-[0-9]{1,9}/[A-Za-z0-9][\w.-]{0,199}\.(bin|json|npz|safetensors))",
    re.ASCII,
)
_SEARCH_FOLDER = re.compile(rf"{SEARCH}(/(models|segment)-[0-9]{{1,9}})?", re.ASCII)
_FOLDERS = {CHECKPOINTS, *(str(parent) for name in _INFO_NAMES for parent in PurePosixPath(name).parents)}


def is_release_file(name: str) -> bool:
    """Whether a release has a file of this name, for example ``ckpt/model-epoch5.pth``."""
    return name in _INFO_NAMES or any(
        pattern.fullmatch(name) is not None for pattern in (_CHECKPOINT_NAME, _SEARCH_NAME)
    )


def _is_release_folder(name: str) -> bool:
    return name in _FOLDERS or _SEARCH_FOLDER.fullmatch(name) is not None


def pack(path: Path, contents: Mapping[str, Path]) -> None:
    """Write files as a ``.tar.gz`` whose bytes follow from their names and contents alone.

    Args:
        path: of the archive.
        contents: file by its name in the archive.
    """
    with (
        atomic_write(path, sum(source.stat().st_size for source in contents.values())) as part,
        open(part, "wb") as raw,
        gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, source in sorted(contents.items()):
            entry = tarfile.TarInfo(name)  # of no owner and of 1970
            entry.size = source.stat().st_size
            with (
                open(source, "rb") as file,
                tqdm.wrapattr(
                    file, "read", entry.size, desc=f"pack {name}", disable=None, leave=False
                ) as shown,
            ):
                tar.addfile(entry, shown)


def summarize(path: Path, unpack_into: Path | None = None) -> dict[str, Any]:
    """Read an archive to its end: size and sha256 of the archive and of each of its files.

    Args:
        path: of the archive.
        unpack_into: a folder that gets the contents of the archive's own folder; by default none does.

    Raises:
        UserError: as :func:`read_archive`.
    """
    digests: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    for name, block in read_archive(path):
        digests.setdefault(name, hashlib.sha256()).update(block)
        sizes[name] = sizes.get(name, 0) + len(block)
        if unpack_into is not None:
            target = unpack_into.joinpath(*PurePosixPath(name).parts[1:])
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "ab") as file:
                file.write(block)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return {
        "bytes": path.stat().st_size,
        "sha256": digest.hexdigest(),
        "members": {name: {"bytes": sizes[name], "sha256": digests[name].hexdigest()} for name in sizes},
    }


def read_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    """Read an archive to its end, block by block.

    An archive is one tar of plain files that a release has, all below one folder. It is packed by gzip, in
    one gzip member or several; nothing but zeros follows the last file.

    Args:
        path: of the archive.

    Yields:
        the name of a file and a block of its content, in order; of an empty file one empty block.

    Raises:
        UserError: the archive is absent, damaged or not safe. This may show as late as at its end.
    """
    check_present(path)
    packed = path.stat().st_size
    try:
        with (
            open(path, "rb") as raw,
            tqdm.wrapattr(raw, "read", packed, desc=f"read {path.name}", disable=None, leave=False) as shown,
            _Unpacked(fileobj=shown) as unpacked,
            tarfile.open(fileobj=unpacked, mode="r:") as tar,
        ):
            for name, entry in _iterate_files(tar, packed):
                file = tar.extractfile(entry)
                block = file.read(_BLOCK)
                yield name, block
                while block := file.read(_BLOCK):
                    yield name, block
            _check_end(unpacked, tar.offset)
    except Exception as error:  # tarfile and gzip raise many kinds
        raise UserError(
            f"{path} is not a sound archive of a release ({explain_error(error)}): get it again"
        ) from None


def check_present(path: Path) -> None:
    """See that an archive is there.

    Raises:
        UserError: it is not.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: name an archive")


class _Unpacked(gzip.GzipFile):
    """The unpacked bytes, for tarfile, which would take a header of any length into memory."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"it has a header of {size} bytes")
        return super().read(size)


def _iterate_files(tar: tarfile.TarFile, packed: int) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Yield the files of an archive of ``packed`` bytes by their names.

    Raises:
        tarfile.TarError: a member is of another kind or name; there are too many or too large ones, or none.
    """
    names: set[str] = set()
    total = 0
    for entry in tar:
        name = str(PurePosixPath(entry.name))
        shown = repr(entry.name[:100])  # control characters escaped
        # A plain file can be sparse too, by its attributes: its size is then not what it unpacks to.
        if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or entry.issparse():
            raise tarfile.TarError(f"{shown} is a link, a device or a sparse file")
        if not (_is_release_folder(name) if entry.isdir() else is_release_file(name)):
            raise tarfile.TarError(f"{shown} is nothing that a release has")
        if name in names:
            raise tarfile.TarError(f"{shown} is there twice")
        names.add(name)
        total += entry.size
        if len(names) > MAX_MEMBERS:
            raise tarfile.TarError(f"it has more than {MAX_MEMBERS:,} members")
        if entry.size < 0 or total > min(MAX_BYTES, MAX_RATIO * packed):
            raise tarfile.TarError(f"{packed:,} bytes would unpack to {total:,} and more")
        if entry.isfile():
            yield name, entry
    tops = {name.partition("/")[0] for name in names} - {"."}
    if len(tops) != 1 or all(map(_is_release_folder, names)):
        raise tarfile.TarError("it does not hold one folder with files")


def _check_end(unpacked: gzip.GzipFile, place: int) -> None:
    """See that an archive ends at ``place``, where tarfile stopped, and that gzip's checksum is right.

    Raises:
        tarfile.TarError: the tar is cut off, or something follows it.
        EOFError, gzip.BadGzipFile, zlib.error: the archive is damaged.
    """
    # tarfile takes a damaged header, and the end of the file, for the end of the tar. gzip compares its
    # checksum only when all has been read.
    unpacked.seek(place)
    rest = unpacked.read(MAX_HEADER)
    if len(rest) < _END_MARK:
        raise tarfile.ReadError("it is cut off")
    if len(rest) == MAX_HEADER or rest.strip(b"\0"):
        raise tarfile.ReadError("something follows its last file")


def extract(path: Path, folder: Path, expected: dict[str, Any] | None = None) -> None:
    """Unpack an archive, whoever it is from: all of it, or nothing.

    Args:
        path: of the archive.
        folder: where the archive's own folder will be.
        expected: its :func:`summarize`, where that is known.

    Raises:
        UserError: the archive is absent, damaged or not safe, or is not the expected one; its folder exists
            already, or cannot be written.
    """
    summary = summarize(path)
    if expected is not None and summary != expected:
        raise UserError(f"{path} differs from what {MANIFEST} says of it: get both again")
    files = summary["members"]
    place = folder / next(iter(files)).partition("/")[0]
    if os.path.lexists(place):
        raise UserError(f"{place} exists already: move it away, or name another folder with '--to'")
    with atomic_folder(place, sum(file["bytes"] for file in files.values())) as part:
        if summarize(path, part) != summary:
            raise UserError(f"{path} changed while it was read: wait until it is written")
    print(f"{len(files)} files of {path}: {place}")
