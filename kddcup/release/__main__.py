"""The archives of a finished run, from which anyone gets its submission. Examples:

    python -m kddcup.release --out release
    python -m kddcup.release --out release --verify
    python -m kddcup.release --extract info.tar.gz --to data
    python -m kddcup.release --search shop.index --out shop-release

Writes info.tar.gz, a ckpt.tar.gz for each model of blend.json in a folder of its name, and MANIFEST.json into
the folder ``out``. The same run gives the same bytes. ``--extract`` unpacks an archive from anybody: all of
it, or nothing, where it is damaged or holds anything that a release does not have. ``--search`` packs a
search index instead, and writes beside it what there is to say of its models.
"""

from dataclasses import dataclass
from pathlib import Path

from kddcup.cli import parse_settings
from kddcup.io.errors import run_script
from kddcup.release.archive import extract
from kddcup.release.manifest import find_summary, verify, write_release
from kddcup.release.sharing import write_search_release


@dataclass
class ReleaseSettings:
    """Settings of a release.

    Args:
        out: folder of the archives.
        data_dir: folder of the tables and of what stage 1 wrote.
        resources_dir: folder of blend.json, which ensemble.py wrote.
        checkpoints_dir: of a stage, within its folder.
        verify: compare the archives in the folder out with its manifest, and write nothing.
        extract: an archive to unpack. It is compared with the MANIFEST.json beside it or in the folder above,
            if there is one.
        search: pack this search index, with its models, instead of a run.
        to: folder to unpack it into; the archive's own folder must not exist there yet.
    """

    out: str = "release"
    data_dir: str = "data"
    resources_dir: str = "external_resources"
    checkpoints_dir: str = "checkpoints"
    verify: bool = False
    extract: str | None = None
    search: str | None = None
    to: str = "."


def main() -> None:
    """Write or verify a release, or unpack an archive of one."""
    settings = parse_settings(ReleaseSettings, __doc__)
    if settings.extract is not None:
        archive = Path(settings.extract)
        extract(archive, Path(settings.to), find_summary(archive))
    elif settings.verify:
        verify(Path(settings.out))
    elif settings.search is not None:
        write_search_release(Path(settings.search), Path(settings.out))
    else:
        write_release(
            Path(settings.out),
            Path(settings.data_dir),
            Path(settings.resources_dir),
            settings.checkpoints_dir,
        )


if __name__ == "__main__":
    run_script(main)
