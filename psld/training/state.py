"""The state of a training, and the checkpoints that hold it."""

import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from psld.training.objectives import LoopSettings
from psld.training.recipe import Average, Averaging, Optimizer
from psld.utils.errors import UserError, reraise_fault
from psld.utils.files import digest_of
from psld.utils.tensors import check_type, grouped, load_tensors, save_tensors

KEPT = 2
"""The number of newest checkpoints that are kept."""
History = list[dict[str, float]]
"""What was logged, step by step: step, time (Unix, in seconds), loss, grad_norm, images_per_second,
learning_rate; on GPUs also peak_memory_gib and mfu (model FLOPs utilization); of a guide's preview
also its accuracies."""

OPTIMIZER, AVERAGE = "training.optimizer", "training.average"


class TrainingState:
    """Everything that a training resumes from. Random generators are no part of it."""

    def __init__(
        self,
        network: nn.Module,
        settings: LoopSettings,
        further: Mapping[str, Average] | None = None,
    ) -> None:
        """`further`: averages besides that of the settings, by name.

        Raises UserError if a part does not build what it should.
        """
        self.network = network
        averages = {f"averages.{name}": part for name, part in (further or {}).items()}
        averages = {AVERAGE: settings.averaging} | averages
        self.parts: dict[str, Any] = {OPTIMIZER: settings.optimizer} | averages
        """The settings of what has a state, by their keys."""
        self.averages = {key: build_average(part, network, key) for key, part in averages.items()}
        self.average = self.averages[AVERAGE]
        self.optimizer = build_optimizer(settings.optimizer, network)
        self.micro_batch = settings.micro_batch if settings.micro_batch != "auto" else None
        """Images per forward pass on one rank; None: its whole part of the batch."""
        self.step = 0
        self.seconds = 0.0
        """Wall-clock time in the training loop, over all processes that trained."""
        self.history: History = []

    def _suffix(self, key: str) -> str:
        """Return what checkpoints add to the names of a further average, for its settings.

        One with other settings, of an earlier life, is not this one.
        """
        return "" if key == AVERAGE else f"-{digest_of(self.parts[key].identity())[:12]}"

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors of the network, its averages and the optimizer, by dotted names.

        `structure` is JSON: what the states of optimizer and averages hold besides tensors, and
        their nesting. Raises UserError if they hold what cannot be saved.
        """
        networks = {"network": self.network}
        states: dict[str, Any] = {"optimizer": self.optimizer}
        for key, average in self.averages.items():
            networks[f"ema{self._suffix(key)}"] = average.network
            states[f"average{self._suffix(key)}"] = average
        tensors = {
            f"{part}.{name}": tensor
            for part, network in networks.items()
            for name, tensor in network.state_dict().items()
        }
        packed = {}
        for name, each in states.items():
            state = getattr(each, "state_dict", lambda: None)()
            packed[name] = pack(state, name, tensors)
        text = bytearray(json.dumps(packed).encode())
        return tensors | {"structure": torch.frombuffer(text, dtype=torch.uint8)}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Load what `state_dict` returned; further averages that it lacks are given up."""
        parts = grouped(tensors)
        self.network.load_state_dict(parts["network"])
        states = states_in(tensors)
        for key, average in [*self.averages.items()]:
            suffix = self._suffix(key)
            if key != AVERAGE and f"ema{suffix}" not in parts:
                del self.averages[key], self.parts[key]
                continue
            average.network.load_state_dict(parts[f"ema{suffix}"])
            load_average(average, states[f"average{suffix}"])
        load_optimizer(self.optimizer, states["optimizer"])

    def check(self) -> None:
        """Raise UserError if no checkpoint can hold the state, or give that of a part back."""
        tensors = self.state_dict()
        for name, tensor in tensors.items():
            check_type(tensor, f"training: {name}")
        states = states_in(tensors)
        for key, part in self.parts.items():
            if part.code and key == OPTIMIZER:
                load_optimizer(build_optimizer(part, self.network), states["optimizer"])
            elif part.code:
                again = build_average(part, self.network, key)
                load_average(again, states[f"average{self._suffix(key)}"])


def build_optimizer(part: Optimizer, network: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of a network."""
    return part.build(list(network.parameters()))


def build_average(part: Average, network: nn.Module, key: str = AVERAGE) -> Averaging:
    """Build the average of a network. Raises UserError if it shares the network's weights."""
    average: Any = part.build(network)
    own = average.network
    if {id(each) for each in own.parameters()} & {id(each) for each in network.parameters()}:
        wrong = "build returns the weights that are trained, not a copy of them"
        raise UserError(f"{key}: {part.kind}: {wrong}")
    own.eval().requires_grad_(False)
    return average


def load_optimizer(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Load a state as it is."""
    optimizer.load_state_dict(state)
    if "state" not in state:  # of a class with a form of its own
        return
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    for key, stored in state["state"].items():
        key = parameters[key] if isinstance(key, int) else key
        optimizer.state[key] = as_stored(optimizer.state[key], stored)


def load_average(average: Any, state: Any) -> None:
    if state is not None:
        average.load_state_dict(state)


# -- the states of optimizers and averages, as tensors and JSON

AS_INTEGERS = {1: torch.int8, 2: torch.int16}
"""What numpy takes in place of floats of so many bytes that it lacks, such as bfloat16."""


def pack(state: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """Return a state for JSON; its tensors go to `tensors`, by names that begin with `where`.

    Raises TypeError for what is no tensor, number, text, None, or dict, list or tuple of them.
    """
    kind = type(state)
    if state is None or isinstance(state, bool | int | float | str):
        return state
    if isinstance(state, Tensor):
        name, tensor = f"{where.partition('.')[0]}.{len(tensors)}", state.detach()
        is_known = tensor.dtype in (torch.float16, torch.float32, torch.float64)
        if tensor.is_floating_point() and not is_known:
            tensor = tensor.view(AS_INTEGERS[tensor.itemsize])
        tensors[name] = tensor
        return {"tensor": name, "dtype": str(state.dtype).removeprefix("torch.")}
    if kind in (dict, OrderedDict):
        items = [[pack(k, where, {}), pack(v, f"{where}.{k}", tensors)] for k, v in state.items()]
        return {"dict": items}
    if kind in (list, tuple):
        return {kind.__name__: [pack(v, f"{where}.{i}", tensors) for i, v in enumerate(state)]}
    raise TypeError(f"{where} is a {kind.__name__}; checkpoints hold tensors, numbers and texts")


def unpack(packed: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the state of which `pack` made this."""
    match packed:
        case {"tensor": name, "dtype": dtype}:
            return tensors[name].view(getattr(torch, dtype))
        case {"dict": items}:
            return {unpack(k, tensors): unpack(v, tensors) for k, v in items}
        case {"list": items}:
            return [unpack(each, tensors) for each in items]
        case {"tuple": items}:
            return tuple(unpack(each, tensors) for each in items)
    return packed


def states_in(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return the states of optimizer and average in what `TrainingState.state_dict` returned."""
    packed = json.loads(tensors["structure"].numpy().tobytes())
    return {name: unpack(each, tensors) for name, each in packed.items()}


def as_stored(loaded: Any, stored: Any) -> Any:
    """Return a stored state on the device to which an optimizer has loaded it.

    torch loads integers, and floats of other sizes, as floats of the parameter's type.
    """
    if isinstance(stored, Tensor):
        return loaded if loaded.dtype == stored.dtype else stored.to(loaded.device)
    if isinstance(stored, dict):
        return {key: as_stored(loaded[key], value) for key, value in stored.items()}
    if isinstance(stored, list | tuple):
        return type(stored)(map(as_stored, loaded, stored))
    return stored


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a training, in one folder: checkpoint-00005000.safetensors and so on."""

    folder: Path

    def path(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step:08d}.safetensors"

    def steps(self) -> list[int]:
        """The steps of all checkpoints, ascending."""
        pattern = r"checkpoint-(\d+)\.safetensors"
        names = (re.fullmatch(pattern, path.name) for path in self.folder.glob("checkpoint-*"))
        return sorted(int(name[1]) for name in names if name)

    def newest(self) -> int:
        """The step of the newest checkpoint; 0 if there is none."""
        return max(self.steps(), default=0)

    def save(self, state: TrainingState) -> None:
        """Write a checkpoint, then remove those that are not among the newest."""
        # The history is an array, because a header of safetensors has at most 100 MB.
        history = np.frombuffer(json.dumps(state.history).encode(), np.uint8)
        tensors = {**state.state_dict(), "history": history}
        origin = {"step": state.step, "seconds": state.seconds, "micro_batch": state.micro_batch}
        for leftover in self.folder.glob(".checkpoint-*.partial"):  # of lives that were killed
            leftover.unlink(missing_ok=True)
        save_tensors(self.path(state.step), "checkpoint", tensors, origin)
        for step in self.steps()[:-KEPT]:
            self.path(step).unlink(missing_ok=True)

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
