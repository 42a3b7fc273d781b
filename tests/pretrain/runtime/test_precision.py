"""What a run says of the numbers that it computes in."""

from __future__ import annotations

import pytest
import torch

from pretrain.runtime.precision import in_words


@pytest.mark.parametrize("capability", ["AVX2", "AVX512", "NEON"])
def test_bf16_is_called_slow_where_it_is_imitated(capability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert (
        in_words("off", "cpu") == "float32" and in_words("fp16", "cpu") == "fp16" and in_words("bf16", "cuda") == "bf16"
    )
    assert ("AVX2) only imitates" in in_words("bf16", "cpu")) == (capability == "AVX2")
