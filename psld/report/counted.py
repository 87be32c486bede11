"""The FLOPs of the networks of a grid, each counted once."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from psld.config.settings import Settings
from psld.grid.cache import code_digest
from psld.grid.cells import Grid
from psld.grid.plan import work_by_network
from psld.grid.records import Guide, Model
from psld.training.model import build, forward_flops, seconds_per_image
from psld.training.settings import TRAIN_FACTOR, GuideModelSettings, ModelSettings
from psld.utils.files import digest_of, write_text
from psld.utils.progress import about

KEPT = Path(".cache/counted")
CODE = "diffusion", "networks", "training"
"""The parts of the package that decide what is counted."""


def time_on_a_core(grid: Grid) -> str:
    """Return, as a sentence, the time of a grid's networks on one core of this machine.

    Their speed is that of the smallest one, which is measured.
    """
    works = work_by_network(grid)
    counted = {network: gigaflops(work.trained[0]) for network, work in works.items()}
    least = min(grid.models.values(), key=gigaflops)
    seconds = seconds_per_image(least.settings)
    steps = sum(work.flops(counted[network]) for network, work in works.items()) / TRAIN_FACTOR
    return (
        f"On one core of this machine: {about(steps / gigaflops(least) * seconds)} for trainings "
        f"and samples, by a training step of {least.name} that was measured now. The features of "
        "metrics come on top (FID: 0.2 seconds an image)."
    )


def _kept(count: Callable[..., int], *given: Settings | int) -> int:
    """Return count(*given), from an earlier call of the same code if there was one."""
    content = [x.model_dump(mode="json") if isinstance(x, Settings) else x for x in given]
    key = digest_of([count.__name__, content, code_digest(*CODE), torch.__version__])
    file = KEPT / key
    if file.exists():
        return int(file.read_text())
    value = count(*given)
    with suppress(OSError):  # Who only reads keeps nothing.
        write_text(file, str(value))
    return value


def gigaflops(trained: Model | Guide) -> float:
    """Return the GFLOPs of one image through a network; a multiply-add counts as two."""
    return _kept(_flops, trained.settings.model()) / 1e9


def _flops(settings: ModelSettings | GuideModelSettings) -> int:
    process = settings.process.build()
    with torch.device("meta"):
        return forward_flops(build(settings, process).eval())
