"""What a machine with a GPU is asked: the device, arithmetic that can be compared, and a table of what was measured."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic algorithms; read when CUDA starts

import pytest
import torch
import torchvision

from tests.pretrain.conftest import images as images
from tests.pretrain.conftest import make_cfg as make_cfg

DEVICE = "cuda"


@dataclass
class Measured:
    """The rows of the table: what was compared, how far apart the two were, and how far apart they may be."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def at_most(self, what: str, value: float, tolerance: float) -> None:
        """Adds a row, and fails the test if `value` is above the tolerance or no number."""
        within = value <= tolerance
        self.rows.append((what, f"{tolerance:.0e}", f"{value:.1e}" if within else f"{value:.1e} (above)"))
        assert within, f"{what}: {value:.3g}, which may be {tolerance:.3g} at most"

    def note(self, what: str, value: str) -> None:
        """Adds a row for which there is no right value."""
        self.rows.append((what, "", value))


_MEASURED = pytest.StashKey[Measured]()


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    """Where a test puts what it has measured."""
    return request.config.stash.setdefault(_MEASURED, Measured())


@pytest.fixture
def gpu() -> torch.device:
    """The device that is compared with the CPU."""
    return torch.device(DEVICE)


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Products of float32 in float32, without TF32, and torch's settings as they were afterwards."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    yield
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Algorithms that give the same bits again, where torch has one."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Writes the table, in Markdown, with the machine above it."""
    found = config.stash.get(_MEASURED, Measured())
    if not found.rows:
        return
    out = terminalreporter
    out.section("measured, to paste")
    out.write_line(f"{_machine()}\n")
    for row in [("what", "tolerance", "measured"), ("---", "---", "---"), *found.rows]:
        out.write_line(f"| {' | '.join(row)} |")


def _machine() -> str:
    found = torch.cuda.get_device_properties(0)
    gpus = f"{torch.cuda.device_count()} x {found.name}, {found.total_memory / 2**30:.0f} GiB"
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, CUDA {torch.version.cuda}"
    return f"{gpus}; {versions}, cuDNN {torch.backends.cudnn.version()}"
