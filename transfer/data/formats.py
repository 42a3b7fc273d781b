"""Lists how data sets lie on disk, in one table with a module per format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transfer.data.cityscapes import Cityscapes
from transfer.data.coco import COCO
from transfer.data.densepose import DensePoseCOCO
from transfer.data.format import Format
from transfer.data.lvis import LVIS
from transfer.data.semantic import SemanticMaps
from transfer.data.spec import DatasetError, DatasetSpec
from transfer.data.voc import VOC

FORMATS: Mapping[str, Format] = {
    f.name: f for f in (VOC(), COCO(), LVIS(), DensePoseCOCO(), Cityscapes(), SemanticMaps())
}
"""Every format by the name that spec files give it."""


def format_of(spec: DatasetSpec) -> Format:
    """Returns the format of a data set; see `named`."""
    return named(spec.format, f"dataset '{spec.name}'")


def named(name: Any, where: str) -> Format:
    """Returns the format of that name.

    Args:
        where: text with which an error message begins.

    Raises:
        DatasetError: the format is unknown.
    """
    if not isinstance(name, str) or name not in FORMATS:
        known = " or ".join(f"'{n}'" for n in FORMATS)
        raise DatasetError(f"{where}: format is {name!r}; give {known}")
    return FORMATS[name]
