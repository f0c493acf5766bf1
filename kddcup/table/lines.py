"""The lines of a large file, plain or packed by gzip, and whether it is still the same file."""

import contextlib
import gzip
import io
import math
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import xxhash
from tqdm import tqdm

from kddcup.io.errors import UserError

MAX_LINE = 1 << 26
"""The bytes of the longest line that is read: of a table, some 6,000 regions of 2,048 features."""
MAX_BLANK_LINES = 1000
"""How many blank lines a file may end in, which are left out."""


class Line(NamedTuple):
    """A line with its end; ``place`` is the byte it begins at, ``digest`` a 64-bit hash of it."""

    content: bytes
    place: int
    digest: int


class LineFile:
    """A file with a header, read line by line.

    Places count the bytes of the lines, also where the file is compressed. A compressed file can only be read
    from its beginning, and its length shows at its end.

    Args:
        path: of the file; where there is none, ``path`` with ``.gz`` is taken.

    Attributes:
        compressed: whether it is a ``.gz``.
        header: the first line.
        stamp: the file's bytes, its times of modification and of change (ns), and its inode. As long as it
            stays the same, so do the contents.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        packed = self.path.with_name(f"{self.path.name}.gz")
        if not self.path.is_file() and packed.is_file():
            self.path = packed
        if not self.path.is_file():
            raise UserError(
                f"{path} does not exist: put the competition's tables there, "
                "or make a small data set with 'python -m kddcup.sample --out FOLDER'"
            )
        self.compressed = self.path.suffix == ".gz"
        self.stamp = self._read_stamp()
        with self._open() as file:
            self.header = self._read_line(file, 0)

    def lines(self, start: int | None = None, stop: int | None = None) -> Iterator[Line]:
        """Read the lines after the header that begin at bytes ``start`` to ``stop``; all by default.

        Blank lines at the end of the file are left out.

        Args:
            start: where to begin; in a compressed file, what is before has to be unpacked.
            stop: where no line begins any more.

        Raises:
            UserError: a line is longer than :data:`MAX_LINE`; more than :data:`MAX_BLANK_LINES` follow one
                another that are blank; the file cannot be read, or is a torn ``.gz``.
        """
        place = (start or len(self.header)) - 1
        stop = math.inf if stop is None else stop
        blank: list[Line] = []  # held back, since the file may end in them
        with self._open() as file:
            file.seek(place)
            place += len(self._read_line(file, place))  # the rest of a line that begins before
            while place < stop or blank:
                content = self._read_line(file, place)
                if not content:
                    return
                line = Line(content, place, xxhash.xxh3_64_intdigest(content))
                place += len(content)
                if not content.isspace():
                    yield from blank
                    blank.clear()
                    if line.place < stop:
                        self._warn_of_torn_end(content)
                        yield line
                elif line.place < stop:
                    blank.append(line)
                    self._check_blank(blank)

    def ranges(self, size: int, start: int | None = None) -> Iterator[tuple[int, int]]:
        """Give starts and stops for :meth:`lines`, cut at multiples of ``size`` bytes.

        ``start`` is where the first line begins; a compressed file has no ranges.
        """
        end = self.stamp[0]
        start = start or len(self.header)
        while start < end:
            stop = min((start // size + 1) * size, end)
            yield start, stop
            start = stop

    def hash_lines(self, stop: int | None = None) -> str:
        """Compute the :class:`LinesDigest` of the lines that begin before byte ``stop``; by default of all"""
        digest = LinesDigest(self.header)
        with self.show_progress(f"compare {self.path.name}") as advance:
            for line in self.lines(stop=stop):
                digest.update(np.array([line.digest], np.uint64))
                advance(len(line.content), 1)
        return digest.hexdigest()

    def matches(self, stamp: list[int], digest: str, stop: int | None = None) -> bool:
        """Whether the file, up to byte ``stop``, is the one that ``stamp`` and ``digest`` were taken of.

        The stamp decides as far as it can: the same one means yes, another number of bytes no. Only a file of
        the same length and other times, which was copied or edited in place, is read through.
        """
        return self.stamp == stamp or (self.stamp[0] == stamp[0] and self.hash_lines(stop) == digest)

    def check_unchanged(self) -> None:
        """Check that the file is still as it was when reading began.

        Raises:
            UserError: it has been written to, replaced or removed.
        """
        if not self.path.is_file() or self._read_stamp() != self.stamp:
            raise UserError(f"{self.path} changed while it was read: leave it alone and run again")

    @contextlib.contextmanager
    def show_progress(
        self, description: str, start: int | None = None
    ) -> Iterator[Callable[[int, int], None]]:
        """Show a bar over the file's bytes from ``start`` on; gives a function of the bytes and rows done."""
        rows = 0
        total = None if self.compressed else self.stamp[0]
        done = start or len(self.header)
        with tqdm(
            desc=description, total=total, initial=done, unit="B", unit_scale=True, disable=None
        ) as bar:

            def advance(more_bytes: int, more_rows: int) -> None:
                nonlocal rows
                rows += more_rows
                if not bar.disable:
                    rate = rows / max(bar.format_dict["elapsed"], 1e-3)
                    bar.set_postfix_str(f"{rate:,.0f} rows/s", refresh=False)
                bar.update(more_bytes)

            yield advance

    def _read_stamp(self) -> list[int]:
        status = self.path.stat()
        return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]

    @contextlib.contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        """Open the file, unpacked where it is compressed.

        Raises:
            UserError: the block, which reads from it, cannot.
        """
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(open(self.path, "rb", buffering=1 << 20))
                if self.compressed:
                    file = stack.enter_context(io.BufferedReader(gzip.GzipFile(fileobj=file), 1 << 20))
                yield file
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise UserError(f"{self.path} is not a complete gzip file ({error}): get it again") from None
            except OSError as error:
                raise UserError(
                    f"{self.path} cannot be read ({error.strerror}): check its permissions and its disk"
                ) from None

    def _warn_of_torn_end(self, content: bytes) -> None:
        if not content.endswith(b"\n"):
            tqdm.write(
                f"{self.path}: the last line does not end in a newline; check that the file is complete",
                sys.stderr,
            )

    def _check_blank(self, blank: list[Line]) -> None:
        if len(blank) > MAX_BLANK_LINES:
            raise UserError(
                f"{self.path}: more than {MAX_BLANK_LINES:,} blank lines from byte {blank[0].place:,} on: "
                "take them out"
            )

    def _read_line(self, file: BinaryIO, place: int) -> bytes:
        line = file.readline(MAX_LINE)
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            raise UserError(
                f"{self.path}: the line at byte {place:,} is longer than {MAX_LINE >> 20} MiB, as no row is: "
                "get the table again"
            )
        return line


class LinesDigest:
    """A 128-bit hash of a file, from its header and the ``digest`` of each line, in their order."""

    def __init__(self, header: bytes) -> None:
        self._state = xxhash.xxh3_128(header)

    def update(self, digests: np.ndarray) -> None:
        """Take in the next lines, [n] of 64 bits."""
        self._state.update(digests.tobytes())

    def hexdigest(self) -> str:
        """The hash so far, in hexadecimal."""
        return self._state.hexdigest()
