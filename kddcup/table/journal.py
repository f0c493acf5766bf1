"""What an unfinished pass over a table has done, so that a later run goes on from there."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kddcup.io.files import read_pickle, write_pickle


class Journal:
    """A folder of entries, each a whole file; beside them lies what the entries are about.

    Args:
        folder: of the entries.
        made_by: the command that an unreadable entry names.
    """

    def __init__(self, folder: Path, made_by: str) -> None:
        self.folder, self._made_by = folder, made_by
        self._count = 0

    def __len__(self) -> int:
        """How many entries have been read or appended."""
        return self._count

    def entries(self) -> Iterator[dict[str, Any]]:
        """All entries in order.

        Raises:
            UserError: an entry cannot be read.
        """
        while self._path(self._count).is_file():
            self._count += 1
            yield read_pickle(self._path(self._count - 1), self._made_by)

    def append(self, entry: dict[str, Any]) -> None:
        """Write the next entry; what it is about has been flushed."""
        write_pickle(self._path(self._count), entry)
        self._count += 1

    def clear(self) -> None:
        """Remove the folder and forget all."""
        # First what makes the rest count, lest a kill in between leaves entries without what they are about.
        self._path(0).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._count = 0

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05}.pkl"
