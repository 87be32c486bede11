"""The noise-conditional guide: its loss, learning, accuracy by noise level, and its command."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from psld.data.store import ImageStore, write_store
from psld.data.units import from_uint8
from psld.diffusion.loss import NoisyStates
from psld.models import previews
from psld.models.objectives import Guide, Loss
from psld.models.previews import BINS, accuracy_by_time
from psld.models.settings import GuideModelSettings
from psld.networks.ncsnpp import NCSNppGuide
from psld.networks.settings import GuideSettings
from psld.training.batches import Batch, Batches, Labels
from psld.training.files import HISTORY, TrainingHistory, WandbRun
from psld.training.loop import StopRequest, hooks_of, train
from psld.training.state import Checkpoints, TrainingState
from tests.commands import TINY, call, run_directory, succeeded
from tests.diffusion.processes import phase_space, vp_sde
from tests.results import weights_digest
from tests.training.small import ONE_RANK, Recorder, recipe


def two_classes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return dark and bright images in random order, uint8 n×1×8×8, and their labels."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, count)
    images = random.integers(0, 64, (count, 1, 8, 8)) + 160 * labels[:, None, None, None]
    return images.astype(np.uint8), labels


class Oracle(nn.Module):
    """A classifier by the mean of the image channel, which is optimal for white noise."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.times: list[torch.Tensor] = []

    def forward(self, z, t):
        self.times.append(t)
        brightness = z[:, :1].mean(dim=(1, 2, 3))
        return torch.stack([-brightness, brightness], dim=1) + self.anchor


@pytest.mark.parametrize("matching", ["hsm", "dsm"])
def test_the_loss_is_the_mean_negative_log_probability(matching):
    process, (images, labels) = phase_space(0.02, matching=matching), two_classes(6)
    x0 = from_uint8(torch.from_numpy(images))
    t = torch.linspace(0.1, 1, 6, dtype=torch.float64)
    eps, auxiliary = torch.randn(2, 6, process.blocks, 8, 8)
    auxiliary = auxiliary[:, 1:] if process.needs_auxiliary_noise else None
    batch = Batch(x0, t, eps, auxiliary, torch.from_numpy(labels))
    probabilities = Oracle()(process.perturb(x0, t, eps, auxiliary), t).softmax(dim=1)
    expected = -torch.log(probabilities[torch.arange(6), torch.from_numpy(labels)]).mean()
    found = Loss(Guide(), None, NoisyStates(process))(Oracle(), batch)
    torch.testing.assert_close(found, expected)


def test_a_guide_learns_to_classify_noisy_images(tmp_path):
    process, (images, labels) = phase_space(0.02), two_classes(64)
    settings = recipe(steps=40, batch_size=32, learning_rate=3e-3, log_every=10)
    torch.manual_seed(0)
    small = GuideSettings(
        base_channels=8, channel_multipliers=(1, 2), blocks_per_level=1, block="ddpm", init_scale=1
    )
    state = TrainingState(NCSNppGuide(small, 8, process.blocks, num_classes=2), settings)
    batches = Batches(images, False, NoisyStates(process), settings, ONE_RANK, Labels(labels, 2))
    log, loss_of = Recorder(), Loss(Guide(), None, NoisyStates(process))
    checkpoints = Checkpoints(tmp_path)
    with hooks_of(checkpoints, log) as hooks:
        train(state, batches, loss_of, ONE_RANK, hooks, StopRequest())
    little = torch.full((64,), 0.05, dtype=torch.float64)
    eps, auxiliary = torch.randn(64, process.blocks, 8, 8), torch.randn(64, 1, 8, 8)
    z = process.perturb(from_uint8(torch.from_numpy(images)), little, eps, auxiliary)
    right = state.network.eval()(z, little.float()).argmax(dim=1) == torch.from_numpy(labels)
    losses = [values["loss"] for values in log.logged.values()]
    assert losses[0] > 0.5
    assert sum(losses[2:]) < sum(losses[:2]) - 0.1
    assert right.double().mean() > 0.95


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """300 dark training images with the label bright, and 300 correctly labeled test images."""
    images, labels = two_classes(300)
    path = tmp_path_factory.mktemp("classes") / "classes.h5"
    write_store(
        path,
        image=(1, 8, 8),
        splits={"train": 300, "test": 300},
        labels=np.concatenate([np.ones(300, np.int64), labels]),
        num_classes=2,
        blocks=[np.zeros_like(images), images],
    )
    return ImageStore.open(path)


def guide_settings(process: dict, **training) -> GuideModelSettings:
    dataset = {"name": "classes", "channels": 1, "image_size": 8, "num_classes": 2, "flip": False}
    return GuideModelSettings(
        dataset=dataset | {"filter": None, "source": {"kind": "digits"}},
        process=process,
        network={"base_channels": 8, "channel_multipliers": [1, 2], "blocks_per_level": 1},
        training={"steps": 1, "batch_size": 1} | training,
    )


def accuracy_of(settings: GuideModelSettings, store: ImageStore, network) -> list[float]:
    seed, time_eps = settings.training.seed, settings.training.time_eps
    return accuracy_by_time(vp_sde(), network, store, time_eps, seed, torch.device("cpu"))


def test_accuracy_falls_from_certainty_to_chance_as_the_noise_grows(store):
    settings = guide_settings({"kind": "vp-sde"})
    network = Oracle().eval()
    accuracies = accuracy_of(settings, store, network)
    assert len(accuracies) == BINS
    assert accuracies[0] == 1
    assert accuracies[-1] == pytest.approx(0.5, abs=0.12)
    assert max(after - before for before, after in pairwise(accuracies)) < 0.1
    assert accuracies == accuracy_of(settings, store, network), "always the same noise"


def test_the_accuracy_is_computed_in_smaller_batches_where_memory_runs_out(store):
    """An error after the last checkpoint would prevent every export of the guide."""

    class Small(Oracle):
        def forward(self, z, t):
            if len(z) > 100:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return super().forward(z, t)

    settings = guide_settings({"kind": "vp-sde"})
    assert accuracy_of(settings, store, Small()) == accuracy_of(settings, store, Oracle())


def test_each_accuracy_covers_its_range_of_times(store):
    network = Oracle()
    accuracy_of(guide_settings({"kind": "vp-sde"}, time_eps=0.02), store, network)
    times = torch.cat(network.times).reshape(BINS, 300)
    for index, own in enumerate(times):
        assert own.min() >= max(index / BINS, 0.02)
        assert own.max() <= (index + 1) / BINS
        assert own.std() == pytest.approx(0.1 / 12**0.5, rel=0.2)
    assert not torch.allclose(times[3] - 0.3, times[4] - 0.4, atol=1e-3), "and its own noise"


def test_the_accuracy_uses_images_from_the_whole_split(tmp_path, monkeypatch):
    """The split is sorted by class. The training split is used if there is no test split."""
    monkeypatch.setattr(previews, "TEST_IMAGES", 4)
    images = np.repeat(np.array([0, 224], np.uint8), 50)[:, None, None, None]
    images = np.broadcast_to(images, (100, 1, 8, 8))
    labels = np.repeat([0, 1], 50)
    write_store(tmp_path / "x.h5", (1, 8, 8), {"train": 100, "test": 0}, labels, 2, [images])
    store = ImageStore.open(tmp_path / "x.h5")
    assert previews.split_of_accuracy(store) == "train"

    class Bright(Oracle):
        def forward(self, z, t):
            return super().forward(z, t) * 0 + torch.tensor([0.0, 1.0])

    settings = guide_settings({"kind": "vp-sde"})
    assert accuracy_of(settings, store, Bright()) == [0.5] * BINS
    right = accuracy_of(settings, store, Oracle())
    assert right[0] == 1


def test_the_command_reports_the_guide_and_its_accuracy(digits, tmp_path):
    given = ("training.steps=4", "training.preview_every=2", "wandb.mode=offline")
    succeeded(call(tmp_path, "train_guide", *TINY, *given, f"data={digits}", "output=guide"))
    manifest = json.loads((tmp_path / "guide" / "manifest.json").read_text())
    assert (manifest["kind"], manifest["step"], manifest["images_seen"]) == ("guide", 4, 4 * 16)
    assert manifest["dataset_digest"] == ImageStore.open(digits).digest
    assert manifest["settings"]["process"]["gamma"] == 0.01
    assert len(manifest["accuracy_by_time"]) == 10
    assert all(0 <= accuracy <= 1 for accuracy in manifest["accuracy_by_time"])
    assert manifest["weights_sha256"] == weights_digest(tmp_path / "guide")
    history = TrainingHistory.read(run_directory(tmp_path) / HISTORY)
    logged = {entry.step: entry.model_dump() for entry in history.entries}
    assert [step for step, values in logged.items() if "accuracy" in values] == [2, 4]
    ranges = [name for name in logged[4] if name.startswith("accuracy/")]
    assert (len(ranges), ranges[0], ranges[-1]) == (10, "accuracy/t0-0.1", "accuracy/t0.9-1")
    by_time = [logged[4][name] for name in ranges]
    assert by_time == pytest.approx(manifest["accuracy_by_time"])
    assert logged[4]["accuracy"] == pytest.approx(sum(by_time) / 10)
    assert WandbRun.read(run_directory(tmp_path)).job_type == "train_guide"
