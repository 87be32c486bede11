"""The state of a training, and the checkpoints that hold it."""

import re
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from psld.networks.forward import EMA
from psld.training.settings import LoopSettings
from psld.utils.errors import UserError, reraise_fault
from psld.utils.files import atomic_path, retried_in_slurm
from psld.utils.tensors import check_archive

KEPT = 2
"""The number of newest checkpoints that are kept, besides milestones."""
History = list[dict[str, float]]
"""What was logged, step by step: step, loss, grad_norm, images_per_second, learning_rate; on GPUs
also peak_memory_gib and mfu (model FLOPs utilization)."""


class TrainingState:
    """Everything that a training resumes from. Random generators are no part of it."""

    def __init__(self, network: nn.Module, settings: LoopSettings) -> None:
        self.network = network
        self.ema = EMA(network, settings.ema_decay)
        self.optimizer = torch.optim.Adam(
            network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.999), fused=True
        )
        self.step = 0
        self.seconds = 0.0
        """Wall-clock time in the training loop, over all processes that trained."""
        self.history: History = []

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "network": self.network.state_dict(),
            "ema": self.ema.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, content: dict[str, Any]) -> None:
        self.network.load_state_dict(content["network"])
        self.ema.network.load_state_dict(content["ema"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.seconds = content["step"], content["seconds"]
        self.history = content["history"]


class Checkpoints:
    """The checkpoints of one run directory: checkpoint-00005000.pt and so on."""

    def __init__(self, folder: Path, milestone_every: int | None = None) -> None:
        self.folder = folder
        self.milestone_every = milestone_every

    def path(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step:08d}.pt"

    def steps(self) -> list[int]:
        """The steps of all checkpoints, ascending."""
        names = (re.fullmatch(r"checkpoint-(\d+)\.pt", p.name) for p in self.folder.glob("*.pt"))
        return sorted(int(name[1]) for name in names if name)

    def newest(self) -> int:
        """The step of the newest checkpoint; 0 if there is none."""
        return max(self.steps(), default=0)

    def save(self, state: TrainingState) -> None:
        """Write a checkpoint, then remove those that are neither recent nor milestones."""
        with atomic_path(self.path(state.step)) as partial, partial.open("wb") as stream:
            _save(state.state_dict(), stream)
        for step in self.steps()[:-KEPT]:
            if not (self.milestone_every and step % self.milestone_every == 0):
                self.path(step).unlink(missing_ok=True)

    @retried_in_slurm
    def restore(self, state: TrainingState, device: torch.device, step: int) -> None:
        """Load the checkpoint of this step; do nothing for step 0.

        Raises UserError if it is missing or damaged: the user decides whether to go back.
        """
        if step == 0:
            return
        path = self.path(step)
        if not path.exists():
            raise UserError(f"{path}: no such checkpoint; run the same command again")
        try:
            state.load_state_dict(_load(path, device))
            if state.step != step:
                raise ValueError(f"step {state.step}")
        except Exception as error:  # A damaged file can raise nearly any.
            reraise_fault(error)
            older = [s for s in self.steps() if s < step]
            remedy = f"go on from step {older[-1]}" if older else "start again"
            raise UserError(
                f"{path}: damaged checkpoint ({type(error).__name__}); delete it to {remedy}"
            ) from None


def _save(content: dict[str, Any], stream: IO[bytes]) -> None:
    """torch.save, but a failed write raises its OSError, not a RuntimeError that hides it."""
    try:
        torch.save(content, stream)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _load(path: Path, device: torch.device) -> dict[str, Any]:
    with path.open("rb") as stream:
        check_archive(stream)
        return torch.load(stream, map_location=device, weights_only=True)
