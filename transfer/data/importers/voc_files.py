"""Reads Pascal VOC's XMLs beside their images instead of in VOC's folders, as labelImg and Roboflow write them."""

from __future__ import annotations

import os
from pathlib import Path

from pretrain.runtime.folders import read_tree
from transfer.data.faults import Faults
from transfer.data.importers.importer import BOX, Importer, Options, Part, Shape, Sheet, gathered, image_by_stem
from transfer.data.spec import DatasetError
from transfer.data.voc_xml import read_annotation


class VOCFiles(Importer):
    """Reads such XMLs. An object's shape is called `difficult` if its XML says so, else `box`."""

    name = "voc"
    source = "a folder with Pascal VOC's XMLs beside the images, at any depth"
    options = ()

    def read(self, source: Path, options: Options, faults: Faults) -> list[Part]:
        if not source.is_dir():
            raise DatasetError(f"'{source}' is no folder; give the one that holds images and XMLs")
        images = image_by_stem(source, faults)
        names = read_tree(source, (".xml",)).files
        if not names:
            raise DatasetError(f"'{source}' holds no XML; give the folder that holds images and XMLs")

        def sheet(name: str) -> Sheet | None:
            if (file_name := images.pop(os.path.splitext(name)[0], None)) is not None:
                return _sheet(source / name, file_name)
            faults.error("XML without an image of its name beside it", str(source / name))
            return None

        sheets = gathered(names, "XMLs", sheet, faults)
        for file_name in images.values():
            faults.note("images without an XML, left out", str(source / file_name))
        return [Part(source, sheets)]


def _sheet(path: Path, file_name: str) -> Sheet:
    annotation = read_annotation(path)
    shapes = tuple(
        Shape("difficult" if o.difficult else "box", BOX, o.box, o.name, f"{path} object {i}")
        for i, o in enumerate(annotation.objects, 1)
    )
    return Sheet(file_name, os.fspath(path), shapes, (annotation.width, annotation.height))
