"""What a run or a whole experiment needs and this machine lacks, as a value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Missing:
    """One such thing, and how to come by it."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"  - {self.what}" + (f": {self.remedy}" if self.remedy else "")
