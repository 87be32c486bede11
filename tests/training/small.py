"""A tiny training for closed forms and comparisons: random images and a small network."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from psld.diffusion.loss import NoisyStates
from psld.diffusion.process import LinearProcess
from psld.models.objectives import TrainingSettings
from psld.networks.ncsnpp import NCSNpp
from psld.networks.settings import NetworkSettings
from psld.training.batches import Batches
from psld.training.ranks import Ranks
from psld.training.state import History, TrainingState
from tests.commands import call, succeeded

ONE_RANK = Ranks(rank=0, world=1, device=torch.device("cpu"))


def recipe(**changes) -> TrainingSettings:
    values = {"steps": 8, "batch_size": 12, "warmup_steps": 0, "learning_rate": 1e-3}
    return TrainingSettings(**values | changes)


def random_images(count: int = 50, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, channels, 8, 8), dtype=np.uint8)


def prepared(folder: Path, name: str, images: np.ndarray, counts: list[int], *more: str):
    """Prepare images, of which the first counts[0] have class 0, the next counts[1] have class 1,
    and so on. Return the overrides."""
    np.savez(
        folder / f"{name}.npz", arr_0=images[:, 0], labels=np.repeat(range(len(counts)), counts)
    )
    source = f"dataset.source={{kind: array, path: {name}.npz, test_fraction: 0}}"
    words = (source, f"dataset.name={name}", f"dataset.num_classes={len(counts)}", *more)
    succeeded(call(folder, "prepare", *words))
    return words


def tiny_network(process: LinearProcess, channels: int = 1, dropout: float = 0.0) -> NCSNpp:
    """A network whose last layers start at full scale, so that every weight has a gradient."""
    torch.manual_seed(0)
    settings = NetworkSettings(
        base_channels=8,
        channel_multipliers=(1, 2),
        blocks_per_level=1,
        dropout=dropout,
        block="ddpm",
        init_scale=1.0,
    )
    return NCSNpp(settings, 8, process.blocks * channels, process.predicted_blocks * channels)


def tiny_state(
    process: LinearProcess, settings: TrainingSettings, dropout: float = 0.0
) -> TrainingState:
    return TrainingState(tiny_network(process, dropout=dropout), settings)


def batches_of(
    process: LinearProcess,
    settings: TrainingSettings,
    ranks: Ranks = ONE_RANK,
    flip: bool = False,
    images: np.ndarray | None = None,
) -> Batches:
    images = random_images() if images is None else images
    noising = NoisyStates(process, settings.time_eps)
    return Batches(images, flip, noising, settings, ranks)


class Recorder:
    """A log that records its calls."""

    run = Path("run")

    def __init__(self) -> None:
        self.logged: dict[int, dict[str, float]] = {}
        self.previews: list[int] = []

    def write_step(self, step: int) -> None:
        self.step = step

    def save(self, history: History, _has_checkpoint: bool) -> None:
        steps = [int(entry["step"]) for entry in history]
        assert steps == sorted(set(steps))
        self.logged = dict(zip(steps, history, strict=True))

    def preview(self, network: nn.Module, picture: Path) -> dict[str, float]:
        assert not network.training
        self.previews.append(int(picture.stem))
        return {"accuracy": 0.5}


def tensors_in(content: object, path: str = "") -> dict[str, torch.Tensor | float]:
    """Return every tensor and number in nested dictionaries and lists, by path."""
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, list | tuple):
        items = enumerate(content)
    else:
        return {path: content}
    found = {}
    for key, value in items:
        found |= tensors_in(value, f"{path}/{key}")
    return found


def check_equal(actual: object, expected: object) -> None:
    """Assert that two checkpoints are bit-identical except for wall-clock times and logs."""
    actual, expected = tensors_in(actual), tensors_in(expected)
    timed = {name for name in {*actual, *expected} if name.startswith(("/seconds", "/history"))}
    assert actual.keys() - timed == expected.keys() - timed
    for name in expected.keys() - timed:
        value = expected[name]
        same = torch.equal(actual[name], value) if torch.is_tensor(value) else actual[name] == value
        assert same, f"{name} differs"
