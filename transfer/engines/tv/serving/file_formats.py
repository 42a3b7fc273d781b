"""Defines the formats of exported networks: what each needs, how it is written and how it is run."""

from __future__ import annotations

import importlib
import io
import json
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from pretrain.runtime.errors import ConfigError
from transfer.engines.tv.serving.networks import Served

Runner = Callable[[np.ndarray], list[np.ndarray]]  # (3, H, W) uint8 -> the outputs, in their order
INSTALL = "pip install 'moco-transfer[export]'"
OPSET = 17  # of ONNX: the first with every operation that is used is 16
TRACED = (3, 224, 288)  # the image that is traced; no size of it stays


class Format(ABC):
    """Describes one kind of file."""

    suffix: ClassVar[str]

    @abstractmethod
    def check(self, served: Served) -> None:
        """Raises ConfigError if this network cannot be written here."""

    @abstractmethod
    def write(self, served: Served, metadata: Mapping[str, str]) -> bytes:
        """Returns the file's bytes."""

    @abstractmethod
    def runner(self, file: bytes) -> Runner:
        """Loads a file's bytes, and returns what runs it on the CPU."""


class Onnx(Format):
    """Writes ONNX with torch's TorchScript exporter, the one of torch's two that takes loops over detections."""

    suffix = ".onnx"

    def check(self, served: Served) -> None:
        for name in ("onnx", "onnxruntime"):
            try:
                importlib.import_module(name)
            except ImportError as error:
                raise ConfigError(f"an ONNX file is written and checked with {name} ({error}): {INSTALL}") from error

    def write(self, served: Served, metadata: Mapping[str, str]) -> bytes:
        import onnx

        file, image = io.BytesIO(), {"image": {1: "height", 2: "width"}}
        outputs = {name: {i: axis for i, axis in enumerate(axes) if axis} for name, axes in served.outputs.items()}
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of tracing, by the dozen; the file is compared with the network
            torch.onnx.export(
                served,
                (_traced(),),
                file,  # type: ignore[arg-type]  # a buffer is taken, too
                input_names=["image"],
                output_names=list(outputs),
                dynamic_axes={**image, **outputs},
                opset_version=OPSET,
                dynamo=False,
            )
        model = onnx.load_from_string(file.getvalue())
        for key, value in metadata.items():
            model.metadata_props.add(key=key, value=value)
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())

    def runner(self, file: bytes) -> Runner:
        import onnxruntime

        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return lambda image: session.run(None, {"image": image})


class Exported(Format):
    """Writes the archive of torch.export, which torch runs with torchvision's operators."""

    suffix = ".pt2"

    def check(self, served: Served) -> None:
        if served.loops:
            raise ConfigError("keypoints are found by a loop, which torch.export does not take; use --format onnx")

    def write(self, served: Served, metadata: Mapping[str, str]) -> bytes:
        file, sides = io.BytesIO(), {1: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(served, (_traced(),), dynamic_shapes=(sides,), strict=False)
            torch.export.save(program, file, extra_files={"metadata.json": json.dumps(metadata)})
        return file.getvalue()

    def runner(self, file: bytes) -> Runner:
        noisy = logging.getLogger("torch._export.serde.serialize")  # of sizes that drop out of the graph
        level = noisy.level
        noisy.setLevel(logging.ERROR)
        try:
            program: Any = torch.export.load(io.BytesIO(file)).module()
        finally:
            noisy.setLevel(level)

        def run(image: np.ndarray) -> list[np.ndarray]:
            with torch.no_grad():
                return [output.numpy() for output in program(torch.from_numpy(image))]

        return run


FORMATS: dict[str, Format] = {"onnx": Onnx(), "torch": Exported()}


def _traced() -> torch.Tensor:
    return torch.randint(0, 256, TRACED, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
