"""What the networks of a grid take, each counted once: FLOPs, and the memory of a GPU."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from psld.grid.cache import code_digest
from psld.grid.records import Guide, Model
from psld.sampling.memory import sampling_memory
from psld.training.memory import training_memory
from psld.training.model import build, forward_flops
from psld.training.settings import TrainedSettings
from psld.utils.files import digest_of, write_text
from psld.utils.memory import CONTEXT as CONTEXT

KEPT = Path(".cache/counted")


def _kept(count: Callable[..., int], settings: TrainedSettings, *numbers: int) -> int:
    """Return count(settings, *numbers), from an earlier call of the same code if there was one."""
    content = settings.model().model_dump(mode="json")
    key = digest_of([count.__name__, content, numbers, code_digest(), torch.__version__])
    file = KEPT / key
    if file.exists():
        return int(file.read_text())
    value = count(settings, *numbers)
    with suppress(OSError):  # Who only reads keeps nothing.
        write_text(file, str(value))
    return value


def gigaflops(trained: Model | Guide) -> float:
    """Return the GFLOPs of one image through a network; a multiply-add counts as two."""
    return _kept(_flops, trained.settings) / 1e9


def _flops(settings: TrainedSettings) -> int:
    process = settings.process.build()
    with torch.device("meta"):
        return forward_flops(build(settings, process).eval())


def bytes_to_train(trained: Model | Guide, images: int) -> int:
    """Return the bytes of `training_memory`, on one GPU."""
    return _kept(training_memory, trained.settings, images)


def bytes_to_sample(trained: Model | Guide, images: int) -> int:
    """Return the bytes of `sampling_memory`."""
    return _kept(sampling_memory, trained.settings, images)
