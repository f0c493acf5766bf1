"""The lines of a large file, plain or packed by gzip, and whether it is still the same file."""

import contextlib
import gzip
import io
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
"""Bytes of the longest line that is read: of a table, some 6,000 regions of 2,048 features."""


class Line(NamedTuple):
    """A line with its end; it begins at byte ``place``, and ``digest`` is a 64-bit hash of it."""

    content: bytes
    place: int
    digest: int


class LineFile:
    """A file with a header, read line by line.

    Places are bytes of what the lines say, also where the file is compressed. A compressed file can only be
    read from its beginning, and its length shows at its end.

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
        self.stamp = self._stamp()
        with self._open() as file:
            self.header = self._line(file, 0)

    def lines(self, start: int | None = None, stop: int | None = None) -> Iterator[Line]:
        """The lines after the header that begin at bytes ``start`` to ``stop``; all by default.

        Args:
            start: where to begin; in a compressed file, what is before has to be unpacked.
            stop: where no line begins any more.

        Raises:
            UserError: a line is longer than :data:`MAX_LINE`; the file cannot be read, or is a torn ``.gz``.
        """
        place = (start or len(self.header)) - 1
        with self._open() as file:
            file.seek(place)
            place += len(self._line(file, place))  # the rest of a line that begins before
            while stop is None or place < stop:
                content = self._line(file, place)
                if not content:
                    return
                if not content.endswith(b"\n"):
                    tqdm.write(f"{self.path}: the last line has no end; see that it is whole", sys.stderr)
                yield Line(content, place, xxhash.xxh3_64_intdigest(content))
                place += len(content)

    def ranges(self, size: int, start: int | None = None) -> Iterator[tuple[int, int]]:
        """Starts and stops for :meth:`lines`, cut at multiples of ``size`` bytes.

        ``start`` is a place that lines are left from; a compressed file has no ranges.
        """
        end = self.stamp[0]
        start = start or len(self.header)
        while start < end:
            stop = min((start // size + 1) * size, end)
            yield start, stop
            start = stop

    def digest(self, stop: int | None = None) -> str:
        """The :class:`LinesDigest` of the lines that begin before byte ``stop``; of all by default."""
        found = LinesDigest(self.header)
        with self.progress(f"compare {self.path.name}") as advance:
            for line in self.lines(stop=stop):
                found.update(np.array([line.digest], np.uint64))
                advance(len(line.content), 1)
        return found.hexdigest()

    def matches(self, stamp: list[int], digest: str, stop: int | None = None) -> bool:
        """Whether the file, up to byte ``stop``, is the one of which ``stamp`` and ``digest`` were taken.

        The stamp decides as far as it can: an equal one says yes, another number of bytes says no. Only a
        file of the same length and of other times (it was copied, or edited in place) is read through.
        """
        return self.stamp == stamp or (self.stamp[0] == stamp[0] and self.digest(stop) == digest)

    def check_unchanged(self) -> None:
        """See that the file is still the one that was opened.

        Raises:
            UserError: it has been written to, replaced or removed.
        """
        if not self.path.is_file() or self._stamp() != self.stamp:
            raise UserError(f"{self.path} changed while it was read: leave it alone and run again")

    @contextlib.contextmanager
    def progress(self, description: str, start: int | None = None) -> Iterator[Callable[[int, int], None]]:
        """A bar over the file's bytes from ``start`` on; gives a function that takes bytes and rows done."""
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

    def _stamp(self) -> list[int]:
        status = self.path.stat()
        return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]

    @contextlib.contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        """What the lines say.

        Raises:
            UserError: in the block, which reads from it, the file cannot be read.
        """
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(open(self.path, "rb", buffering=1 << 20))
                if self.compressed:
                    file = stack.enter_context(io.BufferedReader(gzip.GzipFile(fileobj=file), 1 << 20))
                yield file
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise UserError(f"{self.path} is no whole gzip file ({error}): get it again") from None
            except OSError as error:
                raise UserError(f"{self.path} cannot be read ({error.strerror}): mend that") from None

    def _line(self, file: BinaryIO, place: int) -> bytes:
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
