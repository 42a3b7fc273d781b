"""Describes what a run or a whole experiment needs and this machine lacks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Missing:
    """Names one missing thing and says how to get it."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"  - {self.what}" + (f": {self.remedy}" if self.remedy else "")
