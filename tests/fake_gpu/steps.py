"""Steps of trainings and samplers on the fake GPU, and the conditions that every step must meet."""

from typing import NamedTuple

import numpy as np
import torch

from psld.diffusion import loop
from psld.diffusion.integrators import Inpainting
from psld.diffusion.samplers import SamplerSettings
from psld.diffusion.score import GuidedScore, NetworkScore, Score, class_gradient
from psld.models.build import build, build_process, loss_of
from psld.models.settings import ModelSettings, TrainedSettings
from psld.networks.forward import forward_pass
from psld.networks.ncsnpp import NCSNpp, NCSNppGuide
from psld.networks.settings import GuideSettings, NetworkSettings
from psld.training.batches import Batches, Labels
from psld.training.loop import Meter, optimize
from psld.training.ranks import Ranks
from psld.training.state import TrainingState
from psld.utils.batching import Batching
from psld.utils.randomness import ShardNoise
from tests.fake_gpu.fake import CUDA, FakeGPU
from tests.gpu.test_steps import PROCESS

SHAPE = (48, 6, 16, 16)
"""The shape of a draw of noise, which has 295 kB."""
ENCODER = {"base_channels": 32, "channel_multipliers": (1, 2), "blocks_per_level": 1}


class Guided(NamedTuple):
    """A score on the fake GPU, and its inpainting."""

    score: Score
    inpainting: Inpainting | None = None


def guided(guidance: str) -> Guided:
    """Return the score of a small network: `none`, `inpainting`, or one of SCORES."""
    classes = torch.arange(SHAPE[0]).remainder(10).to(CUDA)
    settings = NetworkSettings(**ENCODER, attention_resolutions=(8,))
    network = NCSNpp(settings, 16, 6, 6, 10).to(CUDA).eval()
    batching, plain = Batching(24), NetworkScore(network, Batching(24))
    match guidance:
        case "bf16":
            return Guided(NetworkScore(forward_pass(network, "bf16"), batching))
        case "classifier-free":
            return Guided(NetworkScore(network, batching, classes, 2.0))
        case "classifier":
            guide = NCSNppGuide(GuideSettings(**ENCODER), 16, 6, 10)
            guide = guide.to(CUDA).eval()
            return Guided(GuidedScore(plain, class_gradient(guide, classes, batching), 2.0))
        case "inpainting":
            images, mask = torch.zeros(48, 3, 16, 16), torch.ones(48, 1, 16, 16)
            return Guided(plain, Inpainting(PROCESS, images.to(CUDA), mask.to(CUDA)))
    return Guided(plain)


SCORES = ("classifier-free", "classifier", "bf16")
"""Options that change only the score and do not depend on the sampler."""


def check_sampler(gpu: FakeGPU, settings: SamplerSettings, guidance: str) -> None:
    """Sample, count operations from the third step on, and check the counts."""
    score, inpainting = guided(guidance)
    with ShardNoise(0, 0, SHAPE, CUDA) as noise:
        z = PROCESS.prior(noise())
        states = loop.path(PROCESS, settings, score, z, noise, inpainting, silent=True)
        for step, _ in enumerate(states):
            if step == 2:
                gpu.reset()
                before, draws = gpu.live, noise.draws
        drawn = (noise.draws - draws) * z.nbytes
        kept = gpu.live - before
    check_quiet(gpu, "utils/randomness.py", drawn)
    assert kept <= 2 * z.nbytes, f"memory kept: {kept} bytes"


def classes_of(settings: TrainedSettings) -> Labels | None:
    """Return the labels of 50 images if the network receives or predicts a class."""
    if isinstance(settings, ModelSettings) and not settings.num_classes:
        return None
    return Labels(torch.arange(50).remainder(10).numpy(), 10, 0.1)


def third_step(gpu: FakeGPU, settings: TrainedSettings) -> int:
    """Take three steps of a training, and count the operations of the third step. Return the bytes
    of memory that this step keeps."""
    process, training = build_process(settings), settings.training
    minimized, images = loss_of(settings, process), images_of(settings)
    labels = classes_of(settings)
    ranks = Ranks(0, 1, CUDA)
    batches = Batches(images, True, minimized.noising, training, ranks, labels)
    state = TrainingState(build(settings, process).to(CUDA), training)
    called, meter = forward_pass(state.network.train(), training.precision), Meter(ranks)

    def step() -> None:
        loss, norm = optimize(state, called, minimized, batches.draw(state.step), training)
        meter.add(state.step, loss, norm)

    for _ in range(2):
        step()
    gpu.reset()
    before = gpu.live
    step()
    return gpu.live - before


def images_of(settings: TrainedSettings) -> np.ndarray:
    data = settings.dataset
    return np.zeros((50, data.channels, data.image_size, data.image_size), np.uint8)


def check_training(
    gpu: FakeGPU, settings: TrainedSettings, bytes_of_image: int = 8, kernels: int | None = None
) -> None:
    """Take three steps of a training, and check the counts of the third step.

    Args:
        bytes_of_image: the bytes that are copied for an image, or for its index.
        kernels: the number of kernels in the third step, within 5 %.
    """
    kept, labels = third_step(gpu, settings), classes_of(settings)
    noising, training = loss_of(settings, build_process(settings)).noising, settings.training
    noise = (noising.blocks + noising.auxiliary) * images_of(settings)[0].nbytes * 4
    each = noise + bytes_of_image + 1 + 8 * bool(labels)  # with the flip and the label of the image
    check_quiet(gpu, "training/batches.py", training.batch_size * each)
    pageable = [place for place in gpu.pageable if "matrices.py" not in place]  # coefficients
    assert not pageable, f"pageable memory: {pageable}"
    assert not kept, f"memory kept: {kept} bytes"
    launched = gpu.kernels.total()
    assert not kernels or abs(launched - kernels) < 0.05 * kernels, f"{launched} kernels"


def check_quiet(gpu: FakeGPU, source: str, expected: int) -> None:
    """Assert that nothing waited or blocked, and that `source` made nearly all copies."""
    assert not gpu.waits, f"waits: {gpu.waits}"
    assert not gpu.blocking, f"blocking copies: {gpu.blocking}"
    copied = sum(size for place, size in gpu.copies.items() if source in place)
    assert copied == expected, f"copied: {gpu.copies}"
    assert gpu.copies.total() - copied < 0.1 * expected + 8192, f"copied: {gpu.copies}"
