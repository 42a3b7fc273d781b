"""Says where the stages of an experiment work, and which of their files later stages read.

The output folder of an experiment holds `data`, `stages`, `pretrain/<pre-training>`, `converted/<trunk>` and
`rows/<column>/<runner>/<row>`, where the runner is an engine or the protocol of a probe.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pretrain.runtime.slug import folder as folder_name
from transfer.engines.base import Engine
from transfer.trials.rows import Column, Experiment, Row
from transfer.trials.run import trial_folder

PRETRAINED = "checkpoint_last.pth.tar"
TRUNK = "trunk.pkl"


@dataclass(frozen=True)
class OutputFolders:
    """Names the folders of an experiment whose fine-tunings one engine runs.

    Attributes:
        experiment: the experiment, whose `output` holds all of the folders.
        engine: the engine of the fine-tunings.
    """

    experiment: Experiment
    engine: Engine

    def source(self, column: Column, row: Row, seed: int) -> Path:
        """Returns the checkpoint of the pre-training behind one trial of a row."""
        assert row.pretrain is not None
        return self.checkpoint(row.pretrain, seed if column.anew else None)

    def row_folder(self, column: Column, row: Row, engine: str = "") -> Path:
        """Returns the folder of a cell's trials. Trials of different engines (default: `engine`) share no folder."""
        runner = column.probe or engine or self.engine.name
        return self.experiment.output / "rows" / column.slug / runner / row.slug

    def converted(self, name: str) -> Path:
        """Returns the folder of a conversion, named by the folder of a pre-training or the slug of a row."""
        return self.experiment.output / "converted" / name

    def pretrain_folder(self, name: str, seed: int | None = None) -> Path:
        """Returns the folder of a pre-training, or with a seed that of the one made anew for this seed's trial."""
        folder = self.experiment.output / "pretrain" / folder_name(name)
        return folder if seed is None else trial_folder(folder, seed)

    def checkpoint(self, name: str, seed: int | None = None) -> Path:
        """Returns the file that a pre-training ends with; see `pretrain_folder`."""
        return self.pretrain_folder(name, seed) / PRETRAINED

    def trunk_name(self, row: Row) -> str:
        """Returns the name of the row's folder of conversion; see `converted`."""
        return row.slug if row.pretrain is None else folder_name(row.pretrain)

    def weights(self, row: Row) -> Path | None:
        """Returns the file that the row's fine-tunings start from, or None if they start from random weights."""
        if row.pretrain is not None or (row.file is not None and needs_conversion(row.file)):
            return self.converted(self.trunk_name(row)) / TRUNK
        return row.file

    def data_ready(self) -> bool:
        """Returns whether the generated data set is there, or the experiment has none."""
        e = self.experiment
        return e.generated is None or (e.output / "data" / "manifest.json").is_file()


def needs_conversion(file: Path) -> bool:
    """Returns whether a file must be converted before fine-tuning; a `.pkl` is taken to be written for Detectron2."""
    return file.suffix != ".pkl"
