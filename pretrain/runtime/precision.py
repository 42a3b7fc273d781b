"""Says in words in which precision products are computed, and warns where a processor only imitates it."""

from __future__ import annotations

import torch

_WITHOUT_BF16 = ("DEFAULT", "AVX2")  # torch's names of x86 processors before AVX-512, with which bf16 came


def in_words(precision: str, device: str) -> str:
    """Returns "float32", "bf16" or "fp16"; for bf16 on a processor that lacks it, adds that it is slow.

    Args:
        precision: off, bf16 or fp16.
        device: the type of a device, such as "cpu".
    """
    capability = torch.backends.cpu.get_cpu_capability()
    if precision == "bf16" and device == "cpu" and capability in _WITHOUT_BF16:
        return f"bf16, which this processor ({capability}) only imitates, many times slower than it computes in float32"
    return "float32" if precision == "off" else precision
