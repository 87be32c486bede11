"""Batches of scores shrink after out-of-memory errors, without other changes."""

import re

import pytest
import torch

from psld.diffusion.score import GuidedScore, NetworkScore, class_gradient
from psld.utils.batching import Batching

Z = torch.randn(20, 2, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(20) % 3
EYE = torch.eye(2)


class Memory:
    """A network and a guide on a device whose memory is enough for `fits` images."""

    def __init__(self, fits: int) -> None:
        self.fits = fits
        self.sizes: list[int] = []

    def network(self, z, t, label=None):
        self.sizes.append(len(z))
        if len(z) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return torch.tanh(z) + t[:, None, None, None] + (0 if label is None else label.sum())

    def guide(self, z, t):
        return self.network(z, t).flatten(1)[:, :3]


def scores(memory: Memory, batch_size):
    batching = Batching(batch_size)
    plain = NetworkScore(memory.network, batching)
    return {
        "plain": plain,
        "classifier-free": NetworkScore(
            lambda z, t, label: memory.network(z, t), batching, LABELS, 2.0
        ),
        "classifier": GuidedScore(plain, class_gradient(memory.guide, LABELS, batching), 1.5),
    }


@pytest.mark.parametrize("kind", ["plain", "classifier-free", "classifier"])
def test_out_of_memory_halves_the_batch_and_goes_on(kind, capsys):
    expected = scores(Memory(fits=1000), batch_size=1000)[kind](Z, 0.5).mix(EYE)
    memory = Memory(fits=6)
    score = scores(memory, batch_size=16)[kind]
    assert torch.equal(score(Z, 0.5).mix(EYE), expected)
    assert torch.equal(score(Z, 0.5).mix(EYE), expected)
    assert [size for size in memory.sizes if size > 6] == [16, 8], "it fails twice and no more"
    assert max(memory.sizes[2:]) == 4
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "out of memory with 16 images at once; continuing with 8",
        "out of memory with 8 images at once; continuing with 4",
    ]
    assert score.evaluations == 2 * (2 if kind == "classifier-free" else 1)


@pytest.mark.parametrize(("free", "goes_on"), [(1, True), (70, False)])
@pytest.mark.parametrize(
    "words",
    [
        "GET was unable to find an engine to execute this computation",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_out_of_memory_errors_of_cuda_libraries_are_recognized(monkeypatch, free, goes_on, words):
    """CUDA libraries use other messages, and also use these messages for other errors."""

    def network(z, t):
        if len(z) > 6:
            raise RuntimeError(words)
        return z

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free * 2**30, 80 * 2**30))
    if goes_on:
        assert len(NetworkScore(network, 16)(Z, 0.5).mix(EYE)) == len(Z)
        return
    with pytest.raises(RuntimeError, match=re.escape(words)):
        NetworkScore(network, 16)(Z, 0.5).mix(EYE)


@pytest.mark.parametrize("kind", ["plain", "classifier-free", "classifier"])
def test_the_score_of_a_network_in_half_precision_is_in_the_state_s_type(kind):
    memory = Memory(fits=100)
    whole = memory.network
    expected = scores(memory, 100)[kind](Z, 0.5).mix(EYE)
    memory.network = lambda *given: whole(*given).bfloat16()
    found = scores(memory, 100)[kind](Z, 0.5).mix(EYE)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.05)


def test_a_network_gets_its_time_in_single_precision():
    times = []
    network = lambda z, t: times.append(t) or z  # noqa: E731
    NetworkScore(network, 16)(Z.double(), 0.1)
    assert {t.dtype for t in times} == {torch.float32}


def test_the_next_score_uses_the_batch_size_that_fitted():
    """The shards of a cell are sampled in this way. The new size is half of the failed batch, not
    of the batch size."""
    memory, batching = Memory(fits=5), Batching(1000)
    for _ in range(2):
        NetworkScore(memory.network, batching)(Z, 0.5).mix(EYE)
    assert memory.sizes == [20, 10, 5, 5, 5, 5, 5, 5, 5, 5]


def test_a_single_image_that_does_not_fit_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        NetworkScore(Memory(fits=0).network, 16)(Z, 0.5).mix(EYE)


def test_the_failed_evaluation_is_freed_before_the_next_one():
    """Otherwise the memory of the larger batch would still be in use by then."""
    alive = []

    class Activation:
        def __init__(self):
            alive.append(self)

        def __del__(self):
            freed.append(self)

    freed = []

    def network(z, t):
        held = Activation()
        alive.clear()
        if len(z) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        assert freed, "the failed evaluation still holds its activations"
        return held and z

    NetworkScore(network, 20)(Z, 0.5).mix(EYE)
