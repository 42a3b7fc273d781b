#!/usr/bin/env python
"""Extracts the official Pascal VOC archives into the tree that configs expect, and checks the result.

    python datasets/prepare_voc.py --archives ~/Downloads --root datasets

Download them first from the VOC pages; any of the three may be left out:

    VOCtrainval_06-Nov-2007.tar, VOCtest_06-Nov-2007.tar -> ROOT/VOC2007    (one folder: trainval and test merged)
    VOCtrainval_11-May-2012.tar                          -> ROOT/VOC2012
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

from pretrain.runtime.commands import Parser, run
from pretrain.runtime.log import progress
from transfer.data import catalog, doctor
from transfer.data.catalog import DatasetError

ARCHIVES = {
    "VOCtrainval_06-Nov-2007.tar": "voc_2007_trainval",
    "VOCtest_06-Nov-2007.tar": "voc_2007_test",
    "VOCtrainval_11-May-2012.tar": "voc_2012_trainval",
}
_PREFIX = ("VOCdevkit",)  # of every member; left off


def extract(archive: Path, root: Path) -> None:
    """Extracts the members of VOCdevkit/ into `root`. Refuses members that would land outside of it.

    Raises:
        DatasetError: a damaged archive, a member that is unsafe, or a folder that cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            with progress(len(members), archive.name, "files") as bar:
                for member in members:
                    parts = Path(member.name).parts
                    if parts[:1] == _PREFIX and len(parts) > 1:
                        tar.extract(member.replace(name=str(Path(*parts[1:])), deep=False), root, filter="data")
                    bar.update()
    except tarfile.TarError as error:
        raise DatasetError(f"cannot extract '{archive}': {error}; download it again") from error
    except OSError as error:
        raise DatasetError(f"cannot extract '{archive}' to '{root}': {error}") from error


def main(argv: list[str] | None = None) -> int:
    p = Parser(description=__doc__)
    default = os.environ.get(catalog.ROOT_VARIABLE, "datasets")
    p.add_argument("--archives", type=Path, default=Path("."), help="folder with the tar files (%(default)s)")
    p.add_argument("--root", type=Path, default=Path(default), help="where VOC2007 and VOC2012 go (%(default)s)")
    args = p.parse_args(argv)
    found = {name: args.archives / name for name in ARCHIVES if (args.archives / name).is_file()}
    if not found:
        p.error(f"none of {', '.join(ARCHIVES)} is in '{args.archives}'; download them and name their folder")
    for path in found.values():
        extract(path, args.root)
    specs = catalog.builtin_specs(args.root)
    reports = [doctor.check(specs[ARCHIVES[name]]) for name in found]
    print("\n\n".join(map(str, reports)))
    return 0 if all(report.ok for report in reports) else 1


if __name__ == "__main__":
    run(main)
