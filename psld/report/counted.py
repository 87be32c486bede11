"""What the networks of a grid take, each counted once: FLOPs, and the memory of a GPU."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from psld.config.settings import Settings
from psld.grid.cache import code_digest
from psld.grid.cells import Grid
from psld.grid.plan import readable, table, work_by_network
from psld.grid.records import Features, Guide, Model
from psld.metrics.classifier import ImageShape
from psld.metrics.memory import evaluation_memory
from psld.sampling.memory import sampling_memory
from psld.training.memory import training_memory
from psld.training.micro_batch import USABLE, largest_that_fits
from psld.training.model import build, forward_flops, seconds_per_image
from psld.training.settings import TRAIN_FACTOR, TrainedSettings
from psld.utils.errors import UserError
from psld.utils.files import digest_of, write_text
from psld.utils.progress import about

KEPT = Path(".cache/counted")
CODE = (
    *("diffusion", "networks", "training", "sampling/memory.py", "utils/memory.py"),
    *("metrics/memory.py", "metrics/published.py", "metrics/classifier.py"),
)
"""The parts of the package that decide what is counted."""

MEMORY = (
    "Memory of tensors on one GPU, counted and not measured, in the precision of each training and "
    "in fp32 for samples. Leave a tenth of a card to CUDA and its libraries, and for training, up "
    "to 4 GiB to the images of the dataset; for a reference, up to 12 KB to each image's features."
)


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


def memory(grid: Grid, gpu_memory: float | None) -> str:
    """Return, as text, the memory that each network takes, and what does not fit `gpu_memory`."""
    rows, fewer, large, at_once = [], [], [], grid.file.batch_size
    for network, work in work_by_network(grid).items():
        first = work.trained[0]
        training = first.settings.training
        whole, given = training.batch_size, training.micro_batch
        images = given if isinstance(given, int) else whole
        train, sample = partial(bytes_to_train, first), partial(bytes_to_sample, first)
        sizes = f"{images} of {whole}", _gib(train(images)), str(at_once), _gib(sample(at_once))
        rows.append([network, *sizes])
        if not gpu_memory:
            continue
        usable = USABLE * gpu_memory * 2**30
        fits = largest_that_fits(images, train, usable) if given == "auto" else images
        halved = at_once
        while halved > 1 and sample(halved) > usable:  # as `Batching` does
            halved //= 2
        for job, most, size, taken in (
            (f"training of {network}", images, fits, train(fits)),
            (f"sampling of {network}", at_once, halved, sample(halved)),
        ):
            if taken > usable:
                large.append(f"{job} ({_gib(taken)})")
            elif size < most:
                fewer.append(f"{job} ({size} of {most})")
    evaluations = []
    for name, features in grid.features.items():
        taken = bytes_to_evaluate(features)
        evaluations.append([name, features.reference.metric.batch_size, _gib(taken)])
        if gpu_memory and taken and taken > USABLE * gpu_memory * 2**30:
            large.append(f"evaluation of {name} ({_gib(taken)})")
    images = "images at once"
    headers = ["network", images, "training (GiB)", images, "sampling (GiB)"]
    features = ["features", images, "evaluation (GiB)"]
    text = [table(rows, headers), table(evaluations, features), MEMORY]
    if gpu_memory:
        card = f"{gpu_memory:g} GiB"
        text.append(f"With {card}, fewer images at once: {', '.join(fewer) or 'nowhere'}.")
        text.append(f"Does not fit {card}: {', '.join(large) or 'nothing'}.")
    return "\n\n".join(text)


def _gib(count: int | None) -> str:
    return readable(count and count / 2**30)


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


def _flops(settings: TrainedSettings) -> int:
    process = settings.process.build()
    with torch.device("meta"):
        return forward_flops(build(settings, process).eval())


def bytes_to_train(trained: Model | Guide, images: int) -> int:
    """Return the bytes of `training_memory`, on one GPU."""
    return _kept(training_memory, trained.settings.model(), images)


def bytes_to_sample(trained: Model | Guide, images: int) -> int:
    """Return the bytes of `sampling_memory`."""
    return _kept(sampling_memory, trained.settings.model(), images)


def bytes_to_evaluate(features: Features) -> int | None:
    """Return the bytes of `evaluation_memory`; None if the network's packages are missing."""
    metric, data = features.reference.metric, features.reference.dataset
    size = data.model_dump(include=set(ImageShape.model_fields))
    with suppress(UserError):
        return _kept(evaluation_memory, metric.extractor, ImageShape(**size), metric.batch_size)
