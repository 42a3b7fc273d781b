"""What products are computed in, in words, with a warning where a processor only imitates it."""

from __future__ import annotations

import torch

_WITHOUT_BF16 = ("DEFAULT", "AVX2")  # torch's names of x86 processors before AVX-512, with which bf16 came


def in_words(precision: str, device: str) -> str:
    """Returns "float32", "bf16" or "fp16", and for bf16 on a processor without it that it is slow.

    Args:
        precision: off, bf16 or fp16.
        device: a type of device, such as "cpu".
    """
    capability = torch.backends.cpu.get_cpu_capability()
    if precision == "bf16" and device == "cpu" and capability in _WITHOUT_BF16:
        return f"bf16, which this processor ({capability}) only imitates, many times slower than it computes in float32"
    return "float32" if precision == "off" else precision
