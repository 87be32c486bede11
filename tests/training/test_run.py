"""From the settings of a training to its batches, network and loss; nothing is trained here."""

from pathlib import Path

import pytest
import torch

import psld.training.run as training_run
from psld.data.store import ImageStore, from_uint8
from psld.training.loop import optimize
from psld.training.state import Checkpoints
from psld.utils.errors import RunError
from tests.commands import TINY, call, refused, run_directory
from tests.training.small import recipe


@pytest.fixture
def begun(digits, tmp_path, monkeypatch):
    """A function that returns the state, a batch and the loss of a training as it begins."""

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


def test_a_part_of_the_labels_is_dropped(begun, digits):
    """A class-conditional network learns images without a class, too."""
    _, plain, _ = begun()
    assert plain.labels is None
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


def test_images_are_mirrored_if_the_dataset_says_so(begun):
    plain, mirrored = (begun(f"dataset.flip={flip}")[1].x0 for flip in ("false", "true"))
    same = (plain == mirrored).flatten(1).all(dim=1)
    assert torch.equal(plain[~same], mirrored[~same].flip(-1))
    assert 70 < int(same.sum()) < 130


@pytest.mark.parametrize(
    ("words", "low", "high"),
    [
        ((), 1e-5, 1),
        (("training.time_eps=0.25",), 0.25, 1),
        (("training.noise_law={low: 0.5, high: 2}",), None, None),
    ],
)
def test_times_are_those_of_the_settings(begun, words, low, high):
    _, batch, loss_of = begun(*words)
    t = batch.t
    if low is None:
        levels = loss_of.facts.process.noise_level(t)
        assert float(levels.min()) == pytest.approx(0.5, rel=1e-6)
        assert float(levels.max()) == pytest.approx(2, rel=1e-6)
    else:
        assert float(t.min()) == pytest.approx(low, abs=0.02)
        assert float(t.max()) == pytest.approx(high, abs=0.02)
        assert float(t.min()) >= low


def test_the_loss_is_weighted_as_the_settings_say(begun):
    """A new network predicts nothing: then `fid` costs 1, and `nll` the weight of the noise."""
    costs = {}
    for weighting in ("fid", "nll"):
        state, batch, loss_of = begun(f"training.weighting={weighting}", "training.time_eps=0.1")
        costs[weighting] = float(loss_of(state.network, batch))
    assert costs["fid"] == pytest.approx(1, rel=0.05)
    process, t = loss_of.facts.process, batch.t
    weight = process.diffusion(t) @ process.score_matrix(t)
    expected = float(weight.square().sum(dim=(1, 2)).mean())
    assert costs["nll"] == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("flip", [False, True])
def test_a_new_denoiser_costs_one_at_each_level(begun, digits, flip):
    """But for the mean of the images, which its preconditioning does not know."""
    words = ("training.objective=denoiser", f"dataset.flip={flip}")
    state, batch, loss_of = begun(*words)
    x = from_uint8(torch.from_numpy(ImageStore.open(digits).images("train").copy())).double()
    x = torch.cat([x, x.flip(-1)]) if flip else x
    s = float(x.var(0, correction=0).mean().sqrt())
    assert float(state.network.deviation) == pytest.approx(s)
    sigma = batch.t.float()[:, None, None, None]
    total = sigma**2 + s**2
    error = s**2 / total * (batch.x0 + sigma * batch.eps) - batch.x0
    expected = (total / (sigma * s) ** 2 * error**2).mean()
    torch.testing.assert_close(loss_of(state.network, batch), expected, rtol=1e-4, atol=0)


def test_the_parts_of_a_batch_are_those_of_the_settings(begun, tmp_path):
    """In a training that goes on, too."""
    state, batch, loss_of = begun("training.micro_batch=50")
    assert state.micro_batch == 50
    optimize(state, state.network, loss_of, batch, recipe())
    state.step = 2
    Checkpoints(run_directory(tmp_path) / "checkpoints").save(state)
    for words, parts in (("training.micro_batch=20",), 20), ((), None):
        state, *_ = begun(*words)
        assert (state.step, state.micro_batch) == (2, parts)


def test_the_seed_decides_the_first_weights(begun):
    first, again, other = (
        torch.cat([p.flatten() for p in begun(f"training.seed={seed}")[0].network.parameters()])
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
