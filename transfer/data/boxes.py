"""Checks boxes against their image: finds those that no training can use and those that no prediction can find."""

from __future__ import annotations

from collections.abc import Sequence

from transfer.data.faults import Faults

SMALLEST = 0.01  # pixels of a side; boxes in float32 cannot tell less apart


def check_box(box: Sequence[float], width: int, height: int, label: str, faults: Faults) -> None:
    """Reports to `faults` what is wrong with one XYXY box, in absolute pixels, of an image of this size.

    Args:
        label: image and class, for the message.
    """
    x0, y0, x1, y1 = box
    where = f"{label} ({x0:g}, {y0:g}, {x1:g}, {y1:g}) in {width}x{height}"
    if x1 < x0 or y1 < y0:
        faults.error("box with negative width or height", where)
    elif min(x1 - x0, y1 - y0) < SMALLEST:
        faults.unscorable("box without area, which training leaves out", where)
    elif x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
        faults.error("box wholly outside its image", where)
    elif max(-x0, -y0, x1 - width, y1 - height) > max(width, height):
        faults.error("box that reaches far over its image's border", where)
    elif _inside(box, width, height) < 0.5:
        faults.unscorable("box of which less than half lies in its image, so that none that does can find it", where)
    elif min(x0, y0, width - x1, height - y1) < -1:
        faults.warn("box reaching over the border by more than a pixel", where)


def size_fault(box: Sequence[float], area: float, width: int, height: int) -> tuple[str, object] | None:
    """Returns what no object of an image of this size has, and the value; None if nothing is wrong.

    Args:
        box: XYWH in absolute pixels.
        area: in pixels.
    """
    if max(map(abs, box)) <= 1 and any(v != int(v) for v in box):
        return "box within the first pixel: normalised coordinates? Give pixels", box
    if area > 2 * height * width:
        return "area that is larger than its image", area
    return None


def _inside(box: Sequence[float], width: int, height: int) -> float:
    """Returns the share of a box's area that lies in its image."""
    x0, y0, x1, y1 = box
    clipped = (min(x1, width) - max(x0, 0)) * (min(y1, height) - max(y0, 0))
    return clipped / ((x1 - x0) * (y1 - y0))
