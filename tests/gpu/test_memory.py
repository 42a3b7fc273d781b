"""What a GPU's share of the papers' batch needs: memory and time of a step. Rows for the table, not limits."""

from __future__ import annotations

import time
from functools import partial

import pytest
import torch

from pretrain.encoders import base_encoder
from pretrain.loop import train_step
from pretrain.mechanisms.base import AMP
from pretrain.mechanisms.end_to_end import EndToEnd
from pretrain.moco import MoCo
from pretrain.optimizers import SGD
from tests.gpu.conftest import Measured

pytestmark = pytest.mark.gpu

ARCH, IMAGES, SIDE, K, ITERATIONS = "resnet50", 32, 224, 65536, 20


@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("name", ["moco", "end_to_end"])
def test_a_step_at_the_papers_share(name: str, amp: str, gpu: torch.device, measured: Measured) -> None:
    """32 images of 224 pixels, the queue of 65536 keys, the MLP head; end to end, the 32 images are the dictionary.

    With torch's own settings, as in a run: float32 convolutions in TF32, the fastest algorithms searched for.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    kinds = {"moco": partial(MoCo, K=K), "end_to_end": EndToEnd}
    torch.cuda.reset_peak_memory_stats()
    model = kinds[name](base_encoder(ARCH), mlp=True, T=0.2, amp=AMP[amp]).to(gpu).train()
    optimizer = SGD(model.parameters(), 0.03, weight_decay=1e-4)
    views = torch.randn(2, IMAGES, 3, SIDE, SIDE, device=gpu)
    for _ in range(5):
        train_step(model, optimizer, *views)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(ITERATIONS):
        loss, _ = train_step(model, optimizer, *views)
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / ITERATIONS
    peak = torch.cuda.max_memory_allocated()
    assert peak > 0 and loss.isfinite()
    precision = amp.replace("off", "float32 (TF32 convolutions)")
    what = f"{name}, ResNet-50, {IMAGES} images of {SIDE} pixels, {precision}"
    measured.note(what, f"{peak / 2**30:.2f} GiB at most, {seconds:.4f} s per iteration")
