"""The state of a training, and the checkpoints that hold it."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile

import torch
from torch import Tensor, nn

from psld.models.objectives import LoopSettings
from psld.models.recipe import Average, Averaging, Optimizer
from psld.utils.errors import UserError, reraise_fault
from psld.utils.files import atomic_path, digest_of

KEPT = 2
"""The number of checkpoints that are kept. Older checkpoints are removed."""
History = list[dict[str, float]]
"""The logged values, one dictionary per logged step: step, time (Unix time in seconds), loss,
grad_norm, images_per_second, learning_rate. On GPUs, also peak_memory_gib and mfu (model FLOPs
utilization). At previews of a guide, also the accuracies of the guide."""

OPTIMIZER, AVERAGE = "training.optimizer", "training.average"


class TrainingState:
    """The state from which a training resumes.

    The state contains no random generators, because the random numbers of each step depend only on
    (seed, step).
    """

    def __init__(
        self,
        network: nn.Module,
        settings: LoopSettings,
        further: Mapping[str, Average] | None = None,
    ) -> None:
        """`further`: averages in addition to `settings.averaging`, by name."""
        self.network, self.settings = network, settings
        self.has_unused_weights = False
        """True if some weights get no gradient."""
        averages = {f"averages.{name}": part for name, part in (further or {}).items()}
        averages = {AVERAGE: settings.averaging} | averages
        self.parts: dict[str, Any] = {OPTIMIZER: settings.optimizer} | averages
        """The settings of the optimizer and of each average, by key."""
        self.averages = {key: build_average(part, network) for key, part in averages.items()}
        self.average = self.averages[AVERAGE]
        self.optimizer = build_optimizer(settings.optimizer, network)
        self.micro_batch = settings.micro_batch if settings.micro_batch != "auto" else None
        """Images per forward pass on one rank; None: all images of the rank at once."""
        self.step = 0
        self.seconds = 0.0
        """Wall-clock time in the training loop, summed over all restarts."""
        self.history: History = []

    def _suffix(self, key: str) -> str:
        """Return the suffix of an additional average's name in checkpoints.

        The suffix is a digest of the settings, so that a restart with other settings does not load
        an average of the same name.
        """
        return "" if key == AVERAGE else f"-{digest_of(self.parts[key].identity())[:12]}"

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the network, the optimizer and the averages."""
        averages = {
            f"{key}{self._suffix(key)}": {
                "network": each.network.state_dict(),
                "state": getattr(each, "state_dict", lambda: None)(),
            }
            for key, each in self.averages.items()
        }
        network, optimizer = self.network.state_dict(), self.optimizer.state_dict()
        return {"network": network, "optimizer": optimizer, "averages": averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state from `state_dict`. Additional averages that the state lacks are removed."""
        self.network.load_state_dict(state["network"])
        load_optimizer(self.optimizer, state["optimizer"])
        for key, average in [*self.averages.items()]:
            stored = state["averages"].get(f"{key}{self._suffix(key)}")
            if stored is None:
                del self.averages[key], self.parts[key]
                continue
            average.network.load_state_dict(stored["network"])
            load_average(average, stored["state"])

    def check(self) -> None:
        """Save and load the states of custom parts, as a resumed training does.

        The states are loaded into new instances of the optimizer and the averages.

        Raises UnpicklingError if a checkpoint cannot hold a state, and TypeError if an exported
        model cannot hold an average.
        """
        for average in self.averages.values():
            for tensor in average.network.state_dict().values():
                torch.empty(0, dtype=tensor.dtype).numpy()  # The export also calls numpy().
        if not any(part.code for part in self.parts.values()):
            return
        stored = from_bytes(io.BytesIO(as_bytes(copied_to_cpu(self.state_dict()))))
        for key, part in self.parts.items():
            if part.code and key == OPTIMIZER:
                load_optimizer(build_optimizer(part, self.network), stored["optimizer"])
            elif part.code:
                own = stored["averages"][f"{key}{self._suffix(key)}"]["state"]
                load_average(build_average(part, self.network), own)


def build_optimizer(part: Optimizer, network: nn.Module) -> torch.optim.Optimizer:
    return part.build(list(network.parameters()))


def build_average(part: Average, network: nn.Module) -> Averaging:
    """Build an average of a network. The averaged network is in eval mode, without gradients."""
    average = part.build(network)
    average.network.eval().requires_grad_(False)
    return average


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the state of an optimizer bit-exactly.

    `optimizer.load_state_dict` alone casts the tensors of a state to the dtype of their parameter,
    such as 8-bit moments to float32, and corrupts strings.
    """
    optimizer.load_state_dict(state)
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    for index, stored in state.get("state", {}).items():
        if isinstance(index, int):
            parameter = parameters[index]
            optimizer.state[parameter] = uncast(optimizer.state[parameter], stored)


def uncast(loaded: Any, stored: Any) -> Any:
    """Return a stored state with its original dtypes, on the device of the loaded state."""
    if isinstance(stored, Tensor):
        return loaded if loaded.dtype == stored.dtype else stored.to(loaded.device)
    if isinstance(stored, dict):
        return {key: uncast(loaded[key], value) for key, value in stored.items()}
    if isinstance(stored, list | tuple):
        return type(stored)(map(uncast, loaded, stored))
    return stored


def load_average(average: Any, state: Any) -> None:
    if state is not None:
        average.load_state_dict(state)


# -- files -----------------------------------------------------------------------------------------


def as_bytes(content: dict[str, Any]) -> bytes:
    """Serialize a dictionary with torch.save. All tensors must be on the CPU."""
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def copied_to_cpu(state: Any) -> Any:
    """Return a copy of a state, on the CPU. Training does not change the copy."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: copied_to_cpu(value) for key, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(map(copied_to_cpu, state))
    return state


def from_bytes(stream: IO[bytes]) -> dict[str, Any]:
    """Load bytes of torch.save without running code, or raise UnpicklingError."""
    return torch.load(stream, map_location="cpu", weights_only=True)


def is_whole(path: Path) -> bool:
    """Verify the checksums in a file of torch.save, because torch.load ignores the checksums."""
    try:
        with ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception as error:  # Damaged headers raise various errors.
        reraise_fault(error, path)
        return False


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in a folder, with names such as checkpoint-00005000.pt."""

    folder: Path

    def path(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step:08d}.pt"

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, ascending."""
        pattern = r"checkpoint-(\d+)\.pt"
        names = (re.fullmatch(pattern, path.name) for path in self.folder.glob("checkpoint-*"))
        return sorted(int(name[1]) for name in names if name)

    def newest(self) -> int:
        """Return the step of the newest checkpoint; 0 without checkpoints."""
        return max(self.steps(), default=0)

    def newest_whole(self) -> int:
        """Return the step of the newest undamaged checkpoint; 0 without checkpoints.

        Newer, damaged checkpoints are renamed. Raises UserError if all checkpoints are
        damaged.
        """
        damaged = []
        for step in reversed(self.steps()):
            if is_whole(self.path(step)):
                break
            damaged.append(self.path(step))
        else:
            if damaged:
                wrong = f"{damaged[0]}: damaged, and so are all other checkpoints"
                raise UserError(f"{wrong}; delete {self.folder} to start again")
            return 0
        for path in damaged:
            aside = path.rename(path.with_suffix(".damaged"))
            print(f"{path}: damaged and renamed to {aside.name}; step {step} is used", flush=True)
        return step

    @staticmethod
    def copy(state: TrainingState) -> dict[str, Any]:
        """Return the values that a checkpoint stores, as copies on the CPU."""
        kept = {"step": state.step, "seconds": state.seconds, "micro_batch": state.micro_batch}
        return copied_to_cpu({"state": state.state_dict(), "history": state.history, **kept})

    def write(self, content: dict[str, Any]) -> None:
        """Write a checkpoint, and then remove all but the newest `KEPT` checkpoints."""
        for leftover in self.folder.glob(".checkpoint-*.partial"):  # of killed runs
            leftover.unlink(missing_ok=True)
        with atomic_path(self.path(content["step"])) as partial:
            partial.write_bytes(as_bytes(content))
        for step in self.steps()[:-KEPT]:
            self.path(step).unlink(missing_ok=True)

    def restore(self, state: TrainingState, step: int) -> None:
        """Load the checkpoint of a step; do nothing for step 0.

        The checksums must have been verified. Raises UserError if the checkpoint is missing or
        belongs to another training.
        """
        if step == 0:
            return
        path = self.path(step)
        if not path.exists():
            raise UserError(f"{path}: no such checkpoint; run the same command again")
        older = [s for s in self.steps() if s < step]
        remedy = f"delete it to {f'resume from step {older[-1]}' if older else 'start again'}"
        try:
            with path.open("rb") as stream:
                kept = from_bytes(stream)
            state.load_state_dict(kept["state"])
            if kept["step"] != step:
                raise ValueError(f"it holds step {kept['step']}")
        except Exception as error:  # Loading another program's file can raise nearly any error.
            reraise_fault(error, path)
            raise UserError(
                f"{path}: not a checkpoint of this training ({type(error).__name__}); {remedy}"
            ) from None
        state.step, state.seconds, state.history = step, kept["seconds"], kept["history"]
        state.micro_batch = kept["micro_batch"]
