"""Turns other tools' annotations into sets in the COCO layout: one table lists a module per tool."""

from __future__ import annotations

from collections.abc import Mapping

from transfer.data.importers.importer import Importer
from transfer.data.importers.labelme import Labelme
from transfer.data.importers.via import VIA
from transfer.data.importers.voc_files import VOCFiles
from transfer.data.importers.yolo import YOLO

IMPORTERS: Mapping[str, Importer] = {importer.name: importer for importer in (Labelme(), VIA(), YOLO(), VOCFiles())}
"""Every tool by the name that the command gives it."""
