"""The state of a training, and the checkpoints that hold it."""

import json

import numpy as np
import torch
from torch import Tensor, nn

from psld.networks.forward import EMA
from psld.training.manifest import CheckpointFiles
from psld.training.settings import LoopSettings
from psld.utils.errors import UserError, reraise_fault
from psld.utils.files import retried_in_slurm
from psld.utils.tensors import grouped, load_tensors, save_tensors

KEPT = 2
"""The number of newest checkpoints that are kept."""
History = list[dict[str, float]]
"""What was logged, step by step: step, time (Unix, in seconds), loss, grad_norm, images_per_second,
learning_rate; on GPUs also peak_memory_gib and mfu (model FLOPs utilization); of a guide's preview
also its accuracies."""


class TrainingState:
    """Everything that a training resumes from. Random generators are no part of it."""

    def __init__(self, network: nn.Module, settings: LoopSettings) -> None:
        self.network = network
        self.ema = EMA(network, settings.ema_decay)
        self.optimizer = torch.optim.Adam(
            network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.999), fused=True
        )
        self.micro_batch = settings.micro_batch if settings.micro_batch != "auto" else None
        """Images per forward pass on one rank; None: its whole part of the batch."""
        self.step = 0
        self.seconds = 0.0
        """Wall-clock time in the training loop, over all processes that trained."""
        self.history: History = []

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors of the network, its average and the optimizer, by dotted names."""
        parts = {"network": self.network.state_dict(), "ema": self.ema.network.state_dict()}
        moments = self.optimizer.state_dict()["state"]
        parts |= {f"optimizer.{index}": tensors for index, tensors in moments.items()}
        return {
            f"{part}.{name}": tensors[name] for part, tensors in parts.items() for name in tensors
        }

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Load what `state_dict` returned. The settings of the optimizer stay as they are."""
        parts = grouped(tensors)
        self.network.load_state_dict(parts["network"])
        self.ema.network.load_state_dict(parts["ema"])
        moments = {int(index): each for index, each in grouped(parts["optimizer"]).items()}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})


class Checkpoints(CheckpointFiles):
    """The checkpoints of a training, written and read."""

    def save(self, state: TrainingState) -> None:
        """Write a checkpoint, then remove those that are not among the newest."""
        # The history is an array, because a header of safetensors has at most 100 MB.
        history = np.frombuffer(json.dumps(state.history).encode(), np.uint8)
        tensors = {**state.state_dict(), "history": history}
        origin = {"step": state.step, "seconds": state.seconds, "micro_batch": state.micro_batch}
        save_tensors(self.path(state.step), "checkpoint", tensors, origin)
        for step in self.steps()[:-KEPT]:
            self.path(step).unlink(missing_ok=True)

    @retried_in_slurm
    def restore(self, state: TrainingState, step: int) -> None:
        """Load the checkpoint of this step; do nothing for step 0.

        Raises UserError if it is missing or damaged: the user decides whether to go back.
        """
        if step == 0:
            return
        path = self.path(step)
        if not path.exists():
            raise UserError(f"{path}: no such checkpoint; run the same command again")
        older = [s for s in self.steps() if s < step]
        remedy = f"delete it to {f'go on from step {older[-1]}' if older else 'start again'}"
        stored = load_tensors(path, "checkpoint", remedy)
        try:
            tensors = stored.tensors()
            history = json.loads(tensors.pop("history").numpy().tobytes())
            state.load_state_dict(tensors)
            if stored.origin["step"] != step:
                raise ValueError(f"it is of step {stored.origin['step']}")
            state.step, state.seconds, state.history = step, stored.origin["seconds"], history
            state.micro_batch = stored.origin.get("micro_batch", state.micro_batch)
        except Exception as error:  # Another program can write nearly anything.
            reraise_fault(error, path)
            raise UserError(
                f"{path}: not a checkpoint of this training ({type(error).__name__}); {remedy}"
            ) from None
