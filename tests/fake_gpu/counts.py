"""Print the kernels, waits and copies of a step on the fake GPU.

    python -m tests.fake_gpu.counts

A training step has 64 images, or 32 images for the network with 39 million parameters. A sampling
step has 48 images in two batches. "The end of a shard" is the final denoising step.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tabulate import tabulate

from benchmarks.settings import compose_model
from psld.diffusion import loop
from psld.diffusion.denoiser import StraightDenoiser
from psld.models.settings import TrainedSettings
from psld.utils.randomness import ShardNoise
from tests.fake_gpu.conftest import reason_to_skip
from tests.fake_gpu.fake import CUDA, FakeGPU
from tests.fake_gpu.steps import SHAPE, guided, third_step
from tests.fake_gpu.trainings import TRAININGS
from tests.gpu.test_steps import PROCESS, SAMPLERS

STEPS = 4
COLUMNS = ["step", "kernels", "waits", "bytes of blocking copies", "bytes copied", "from pageable"]
LARGE = ["dataset=cifar10", "process=psld", "network=cifar10-ablation", "training=cifar10-ablation"]
LARGE += ["training.batch_size=32", "training.micro_batch=32"]


def row(name: str, gpu: FakeGPU) -> list[object]:
    counted = gpu.kernels, gpu.waits, gpu.blocking, gpu.copies, gpu.pageable
    return [name, *(f"{each.total():,}" for each in counted)]


def training(name: str, settings: TrainedSettings) -> list[object]:
    with FakeGPU() as gpu:
        third_step(gpu, settings)
    return row(f"training: {name}", gpu)


def sampling(name: str) -> list[list[object]]:
    """Return the row of a step with noise, and the row of the final denoising step."""
    settings, rows = SAMPLERS[name].model_copy(update={"steps": STEPS}), []
    with FakeGPU() as gpu, ShardNoise(0, 0, SHAPE, CUDA) as noise:
        score, z = guided("none").score, PROCESS.prior(noise())
        for _ in loop.path(PROCESS, settings, score, z, noise, silent=True):
            rows.append(row(name, gpu)[1:])
            gpu.reset()
    return [[f"sampling: {name}", *rows[2]], [f"the end of a shard: {name}", *rows[-1]]]


def denoiser() -> list[object]:
    with FakeGPU() as gpu:
        network, x = guided("none").score.network, torch.zeros(SHAPE[0], 3, *SHAPE[2:], device=CUDA)
        denoise = StraightDenoiser(PROCESS, network, torch.zeros_like(x))
        gpu.reset()
        denoise(x, 3.0)
    return row("one call of psld.denoiser", gpu)


def main() -> None:
    with TemporaryDirectory() as folder:
        if reason := reason_to_skip(Path(folder) / "guard.so"):
            sys.exit(reason)
        torch.set_num_threads(1)
        rows = [training(*each) for each in TRAININGS.items()]
        for precision in ("fp32", "bf16"):
            settings = compose_model([*LARGE, f"training.precision={precision}"], "counts")
            rows.append(training(f"39 million parameters, {precision}", settings))
        rows += [row for name in ("em", "sscs", "multistep") for row in sampling(name)]
        print(tabulate([*rows, denoiser()], COLUMNS, tablefmt="pipe", disable_numparse=True))


if __name__ == "__main__":
    main()
