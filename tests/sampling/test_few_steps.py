"""Samplers for few evaluations on trained networks: other samplers, guidance, errors."""

import itertools

import pytest
import torch

import psld
from psld.data.store import ImageStore
from psld.utils.errors import UserError
from tests.commands import TINY, call, succeeded


def test_a_sampler_of_plain_denoisers_runs_on_a_trained_network(model):
    """Euler's method in σ is the multistep sampler of order 1 on the same noise levels."""
    loaded = psld.load(model)
    denoise = psld.denoiser(loaded, n=4, seed=3)
    assert torch.equal(denoise.frozen, psld.denoiser(loaded, n=4, seed=3).frozen)
    sigmas = torch.linspace(denoise.sigma_max ** (1 / 7), denoise.sigma_min ** (1 / 7), 8) ** 7
    y = denoise.sigma_max * torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for sigma, after in itertools.pairwise(sigmas):
            y = y + (after - sigma) * (y - denoise(y, sigma)) / sigma
        images = denoise(y, denoise.sigma_min)
    whole = loaded.sample(
        200, sampler="multistep", steps=8, raw=True,
        order=1, eta=0, corrector="false", striding="edm",
    )  # fmt: skip
    assert images.isfinite().all()
    assert float(images.std()) == pytest.approx(float(whole.std()), rel=0.15)


def test_zero_steps_return_draws_from_the_start(conditional_model, tmp_path):
    model, calls = psld.load(conditional_model), []
    model.network.register_forward_pre_hook(lambda *_: calls.append(1))
    few = {"sampler": "few", "label": [0, 1], "raw": True}
    images = model.sample(400, steps=0, **few).flatten(1)
    assert not calls
    law = model.start_for(classes=True).data
    for label in (0, 1):
        drawn, expected = images[label::2], law.means[1 + label]
        deviation = (law.basis @ law.covariances[1 + label] @ law.basis.T).diagonal().sqrt()
        assert ((drawn.mean(0) - expected).abs() < 5 * (deviation + 0.1) / 200**0.5).all()
    # The noise is the same as with steps, so each image resembles its start.
    later = model.sample(400, steps=2, start_level=0.05, **few).flatten(1)
    assert calls
    assert ((images - later).norm(dim=1) < 0.5 * (images - later.roll(2, 0)).norm(dim=1)).all()
    words = (f"model={conditional_model}", "sampler=few", "sampler.steps=0", "output=cell")
    said = succeeded(call(tmp_path, "sample", *words)).stdout
    assert "of the training images, without a network" in said
    assert "NFE 0" in said


def test_a_class_is_drawn_from_the_start_of_any_model(model, conditional_model):
    """The distribution of each class belongs to the dataset, and no network is evaluated."""
    drawn, expected = (
        psld.load(each).sample(8, sampler="few", steps=0, label=3)
        for each in (model, conditional_model)
    )
    assert torch.equal(drawn, expected)
    with pytest.raises(UserError, match="needs a class-conditional model"):
        psld.load(model).sample(8, sampler="few", steps=2, label=3)


@pytest.mark.slow
def test_a_process_of_third_order_is_trained_and_sampled(digits, tmp_path):
    """The network of this process predicts one of three blocks of ε, and ten evaluations are
    enough."""
    longer = ("training.steps=200", "training.batch_size=64", "training.ema_decay=0.95")
    given = (*TINY, *longer, "process=third-order", f"data={digits}", "output=model")
    succeeded(call(tmp_path, "train", *given))
    loaded = psld.load(tmp_path / "model")
    assert (loaded.process.blocks, loaded.process.predicted_blocks) == (3, 1)
    samples = loaded.sample(200, sampler="multistep", steps=10).float()
    data = torch.tensor(ImageStore.open(digits).images("train")).float()
    means = torch.stack([samples.mean(dim=0).flatten(), data.mean(dim=0).flatten()])
    assert float(torch.corrcoef(means)[0, 1]) > 0.9
    assert float(samples.std()) == pytest.approx(float(data.std()), rel=0.3)
