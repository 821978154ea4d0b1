"""TensorBoard event files, where asked for; metrics.csv stays what counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import distributed
from .config import Config
from .train import Row, TrainState


class Board:
    """Writes the metrics of iterations beyond the state that a run goes on from; nothing where nobody asked for it."""

    def __init__(self, folder: Path, config: Config, state: TrainState) -> None:
        self._writer: Any = None
        self._written = state.iteration
        if config.tensorboard and distributed.first():
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=self._written + 1)

    def write(self, rows: list[Row]) -> None:
        if self._writer is None:
            return
        for row in rows:
            step = int(row["iteration"])
            if step > self._written:
                for name, value in row.items():
                    if name != "iteration":
                        self._writer.add_scalar(name, value, step)
                self._written = step
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
