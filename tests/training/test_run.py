"""Build batches, network and loss from the settings of a training, without training."""

from pathlib import Path

import pytest
import torch

import psld.training.run as training_run
from psld.data.store import ImageStore
from psld.data.units import from_uint8
from psld.training.loop import optimize
from psld.training.state import Checkpoints
from psld.utils.errors import RunError
from tests.commands import TINY, call, refused, run_directory
from tests.training.small import recipe


@pytest.fixture
def begun(digits, tmp_path, monkeypatch):
    """A function that returns the initial state, a batch and the loss of a training."""

    def begin(*words: str, command: str = "train"):
        handed = []

        def stop_here(state, batches, loss_of, *_):
            handed.extend((state, batches.draw(3), loss_of))
            batches.close()
            raise RunError("it begins")

        monkeypatch.setattr(training_run, "train", stop_here)
        given = (*TINY, "training.steps=4", "training.batch_size=200", f"data={digits}", *words)
        refused(call(tmp_path, command, *given, "output=model"), 1, "it begins")
        return handed

    return begin


def test_label_dropout_replaces_some_labels(begun, digits):
    """A class-conditional network also learns without a class."""
    _, batch, _ = begun("training.label_dropout=0.3")
    dropped = batch.labels == 10
    assert float(dropped.double().mean()) == pytest.approx(0.3, abs=0.12)
    check_labels(digits, batch.x0[~dropped], batch.labels[~dropped])


def test_a_guide_learns_the_labels_of_all_images(begun, digits):
    _, batch, _ = begun(command="train_guide")
    check_labels(digits, batch.x0, batch.labels)


def check_labels(digits: Path, x0: torch.Tensor, labels: torch.Tensor) -> None:
    store = ImageStore.open(digits)
    images = from_uint8(torch.from_numpy(store.images("train").copy()))
    known = dict(zip(map(bytes, images.numpy()), store.labels("train").tolist(), strict=True))
    assert [known[bytes(image)] for image in x0.numpy()] == labels.tolist()


def test_images_are_mirrored_if_the_dataset_says_so_and_the_seed_decides_the_first_weights(begun):
    (first, plain, _), (again, mirrored, _), (other, _, _) = (
        begun(*words) for words in ((), ("dataset.flip=true",), ("training.seed=1",))
    )
    assert plain.labels is None
    same = (plain.x0 == mirrored.x0).flatten(1).all(dim=1)
    assert torch.equal(plain.x0[~same], mirrored.x0[~same].flip(-1))
    assert 70 < int(same.sum()) < 130
    first, again, other = (
        torch.cat([p.flatten() for p in state.network.parameters()])
        for state in (first, again, other)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_noise_levels_follow_the_settings(begun):
    _, batch, loss_of = begun("training.noise_law={low: 0.5, high: 2}")
    levels = loss_of.facts.process.noise_level(batch.t)
    assert float(levels.min()) == pytest.approx(0.5, rel=1e-6)
    assert float(levels.max()) == pytest.approx(2, rel=1e-6)


def test_times_and_loss_weights_follow_the_settings(begun):
    """An untrained network predicts 0, so the loss is 1 for `fid` and the mean weight for `nll`."""
    costs = {}
    for weighting in ("fid", "nll"):
        state, batch, loss_of = begun(f"training.weighting={weighting}", "training.time_eps=0.1")
        with torch.no_grad():
            costs[weighting] = float(loss_of(state.network, batch))
    process, t = loss_of.facts.process, batch.t
    assert 0.1 <= float(t.min()) < 0.12
    assert 0.98 < float(t.max()) <= 1
    assert costs["fid"] == pytest.approx(1, rel=0.05)
    weight = process.diffusion(t) @ process.score_matrix(t)
    expected = float(weight.square().sum(dim=(1, 2)).mean())
    assert costs["nll"] == pytest.approx(expected, rel=0.05)


def test_the_loss_of_an_untrained_denoiser_is_one_at_each_noise_level(begun, digits):
    """The mean of the images, which the preconditioning ignores, adds to the loss."""
    state, batch, loss_of = begun("training.objective=denoiser", "dataset.flip=true")
    x = from_uint8(torch.from_numpy(ImageStore.open(digits).images("train").copy())).double()
    x = torch.cat([x, x.flip(-1)])
    s = float(x.var(0, correction=0).mean().sqrt())
    assert float(state.network.deviation) == pytest.approx(s)
    sigma = batch.t.float()[:, None, None, None]
    total = sigma**2 + s**2
    error = s**2 / total * (batch.x0 + sigma * batch.eps) - batch.x0
    expected = (total / (sigma * s) ** 2 * error**2).mean()
    assert batch.eps.shape == batch.x0.shape
    assert batch.auxiliary_eps is None
    torch.testing.assert_close(loss_of(state.network, batch), expected, rtol=1e-4, atol=0)


def test_micro_batches_follow_the_settings(begun, tmp_path):
    """A resumed training also uses the micro-batch of its own settings."""
    state, batch, loss_of = begun("training.micro_batch=50")
    assert state.micro_batch == 50
    optimize(state, state.network, loss_of, batch, recipe())
    state.step = 2
    Checkpoints(run_directory(tmp_path) / "checkpoints").write(Checkpoints.copy(state))
    for words, parts in (("training.micro_batch=20",), 20), ((), None):
        state, *_ = begun(*words)
        assert (state.step, state.micro_batch) == (2, parts)
