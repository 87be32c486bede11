"""Training and sampling on a GPU: resumption, out-of-memory errors, parallel jobs, and agreement
with the CPU."""

import json
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from psld.networks.ncsnpp import NCSNpp
from psld.networks.settings import NetworkSettings
from psld.sampling.shards import Shard
from psld.utils.batching import Batching
from tests.commands import TINY, call, command, run, started, succeeded
from tests.diffusion.processes import phase_space
from tests.gpu.conftest import DEVICE

SETTINGS = (*TINY, "training.steps=40", "training.checkpoint_every=20", "output=model")


@pytest.fixture(scope="module")
def training(digits, tmp_path_factory) -> Path:
    """The folder of a finished training."""
    folder = tmp_path_factory.mktemp("trained")
    settings = (*SETTINGS, "training.steps=200", f"data={digits}", f"device={DEVICE}")
    succeeded(call(folder, "train", *settings))
    return folder


def check_it_goes_on(training: Path, folder: Path, *command: str) -> None:
    """Train again from step 180, and compare the weights with the weights of the finished training.

    The difference must be less than a twentieth of the change of the weights since step 180.
    """
    shutil.copytree(training, folder)
    [last] = folder.glob("runs/*/checkpoints/checkpoint-00000200.pt")
    start = torch.load(last.with_name("checkpoint-00000180.pt"))["state"]["averages"]
    start = start["training.average"]["network"]
    last.unlink()
    shutil.rmtree(folder / "model")
    shutil.rmtree(last.parents[1] / "model")
    assert "resuming from step 180" in succeeded(run(folder, [*command])).stdout
    ends = [load_file(each / "model" / "weights.safetensors") for each in (training, folder)]
    way = sum((ends[0][name] - start[name].to(ends[0][name])).square().sum() for name in ends[0])
    difference = sum((ends[0][name] - ends[1][name]).square().sum() for name in ends[0])
    assert difference < 0.05**2 * way


def test_a_training_on_a_free_gpu_says_how_it_computed(digits, tmp_path):
    """The training runs in a separate process, which selects the GPU."""
    device = "auto" if DEVICE != "cpu" else "cpu"
    said = succeeded(
        run(tmp_path, command("train", *SETTINGS, f"data={digits}", f"device={device}"))
    )
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    if DEVICE == "cpu":
        return
    assert manifest["device"] == torch.cuda.get_device_name()
    assert manifest["precision"]["tf32_convolutions"]
    assert manifest["precision"]["tf32_matmul"]
    assert " GiB" in said.stdout


def test_a_resumed_training_is_the_uninterrupted_one(training, tmp_path, digits):
    """The weights agree up to the effect of rounding."""
    settings = (*SETTINGS, "training.steps=200", f"data={digits}", f"device={DEVICE}")
    check_it_goes_on(training, tmp_path / "resumed", *command("train", *settings))


@pytest.mark.parametrize("sampler", ["em", "sscs", "multistep"])
def test_images_are_those_of_the_cpu(training, sampler):
    settings = ("model=model", f"sampler={sampler}", "sampler.steps=20", "shard_size=64")
    images = {}
    for device in (DEVICE, "cpu"):
        folder = f"{sampler}-{device.replace(':', '')}"
        succeeded(call(training, "sample", *settings, f"output={folder}", f"device={device}"))
        images[device] = Shard.load(training / folder / "00000.safetensors").images.astype(int)
    gray_levels = np.abs(images[DEVICE] - images["cpu"])
    assert gray_levels.mean() < 0.5
    assert np.quantile(gray_levels, 0.99) <= 4


def test_jobs_without_a_number_share_the_gpus_out(gpu, digits, tmp_path):
    """There is one job more than there are GPUs: the last job waits, and all jobs succeed."""
    count = torch.cuda.device_count() + 1
    trainings = [command("train", *SETTINGS, f"data={digits}", f"name=n{i}") for i in range(count)]
    with ExitStack() as stack:
        processes = [stack.enter_context(started(tmp_path, each)) for each in trainings]
        said = [process.communicate(timeout=300) for process in processes]
        assert not any(process.returncode for process in processes), said
    assert sum("waiting for a free GPU" in out for out, _ in said) == 1


@torch.no_grad()
def test_without_memory_the_batch_is_halved_and_the_images_stay(gpu, capsys):
    torch.manual_seed(0)
    process = phase_space(0.02)
    settings = NetworkSettings(
        base_channels=64, channel_multipliers=(1, 2), blocks_per_level=1, init_scale=1.0
    )
    network = NCSNpp(settings, 32, 6, process.predicted_blocks * 3).eval().to(gpu)
    z, t = torch.randn(512, 6, 32, 32, device=gpu), torch.rand(512, device=gpu)
    expected = Batching(16)(network, z, t)
    torch.cuda.empty_cache()
    # Fill the GPU's memory: cuDNN reports out-of-memory errors with its own messages.
    full = torch.empty(torch.cuda.mem_get_info()[0] - 2**30, dtype=torch.uint8, device=gpu)
    batching = Batching(512)
    found = batching(network, z, t)
    del full
    assert batching.size < 512
    assert "out of memory with 512 images at once" in capsys.readouterr().err
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)


def test_two_ranks_go_on_as_one_does(gpu, digits, training, tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("two ranks through nccl need two cards")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    train = command("train", *SETTINGS, "training.steps=200", f"data={digits}")[1:]
    check_it_goes_on(training, tmp_path / "resumed", *torchrun, "--nproc-per-node=2", *train)
