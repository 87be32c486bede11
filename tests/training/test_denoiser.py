"""Training a denoiser, and sampling it as every process, with every kind of guidance."""

import json
import shutil

import numpy as np
import pytest
import torch

import psld
from psld.data.store import ImageStore
from psld.diffusion.process import LinearBeta
from psld.diffusion.settings import VPSDESettings
from psld.sampling.model import load_model
from psld.sampling.shards import Shard
from psld.utils.errors import UserError
from tests.commands import TINY, call, refused, succeeded
from tests.diffusion.processes import normal, phase_space
from tests.diffusion.sampling import KINDS
from tests.sampling.test_foreign import Noted

DENOISER = (*TINY, "training.objective=denoiser", "process=psld", "training.steps=30")


class NaN(torch.nn.Module):
    """A network that is broken."""

    def forward(self, y, sigma):
        return y * float("nan")


@pytest.fixture(scope="module")
def folder(digits, starts, tmp_path_factory):
    """A folder with a small class-conditional denoiser, and the starts of its dataset."""
    folder = tmp_path_factory.mktemp("denoiser")
    given = (f"data={digits}", "training.label_dropout=0.2", "output=model")
    succeeded(call(folder, "train", *DENOISER, *given))
    shutil.copytree(starts, folder / "model", dirs_exist_ok=True)
    return folder


# --- a trained denoiser -----------------------------------------------------------------------


def test_it_samples_as_every_process_with_every_sampler(folder):
    model = psld.load(folder / "model")
    third = {"third-order": {}}
    for process in (None, "vp-sde", third):  # and two more below
        options = {"sampler": "few", "steps": 3, "process": process, "raw": True}
        assert model.sample(3, **options).isfinite().all()
    gammas = (model.sample(3, process={"psld": {"gamma": g}}, raw=True) for g in (0.1, 0.2))
    assert not torch.equal(*gammas)
    for sampler in set(KINDS) - {"rk45"}:  # its steps are adaptive
        assert model.sample(3, sampler=sampler, process="cld", steps=4).shape == (3, 1, 8, 8)
    guided = model.sample(3, label="cycle", scale=2.0, process="vp-sde", sampler="few", steps=3)
    assert not guided.equal(model.sample(3, process="vp-sde", sampler="few", steps=3))


def test_it_is_loaded_as_a_network_of_another_process(folder, model):
    cpu, vp_sde = torch.device("cpu"), VPSDESettings(kind="vp-sde")
    own, other = (load_model(folder / "model", cpu, process) for process in (None, vp_sde))
    assert (own.process.blocks, other.process.blocks) == (2, 1)
    assert other.settings.process == vp_sde
    with pytest.raises(UserError, match="the model's network is of the process"):
        load_model(model, cpu, vp_sde)


def test_the_command_makes_the_same_images_and_records_the_process(folder, model):
    process = ("process=psld", "process.gamma=0.25")
    few = ("sampler=few", "sampler.steps=3", "shard_size=4", "output=few")
    succeeded(call(folder, "sample", "model=model", *process, *few))
    shard = Shard.load(folder / "few/00000.safetensors")
    images = psld.load(folder / "model").sample(
        4, process={"psld": {"gamma": 0.25}}, sampler="few", steps=3
    )
    assert np.abs(shard.images.astype(int) - images.numpy()).max() <= 1
    assert shard.origin.process_digest
    kept = call(folder, "sample", "model=model", *process, *few)
    assert "kept" in succeeded(kept).stdout
    other = call(folder, "sample", "model=model", "process=cld", *few)
    changed = "process.gamma=0.25 then, 0.0 now: made by another process_digest"
    refused(other, 2, changed)
    plain = call(folder, "sample", f"model={model}", "process=cld", *few)
    refused(plain, 2, "process: ", "training.objective=denoiser")


def test_its_weights_do_not_depend_on_the_process_that_it_was_trained_with(folder, digits):
    given = (f"data={digits}", "training.label_dropout=0.2", "output=again", "name=psld")
    printed = succeeded(call(folder, "train", *DENOISER, "process=vp-sde", *given)).stdout
    assert "step 30/30" not in printed, "the run directory is the same"
    assert psld.load(folder / "again").weights_sha256 == psld.load(folder / "model").weights_sha256
    assert psld.load(folder / "again").process.blocks == 1


def test_a_guide_of_images_guides_every_process(folder, digits, model):
    given = (*TINY, "training.objective=denoiser", "training.steps=20", f"data={digits}")
    law = "training.noise_law={high: 300}"
    succeeded(call(folder, "train_guide", *given, law, "output=guide"))
    loaded, few = psld.load(folder / "model"), {"sampler": "few", "steps": 3}
    for process in ("vp-sde", "cld"):
        guided = loaded.sample(4, process=process, guide=folder / "guide", label=3, scale=5, **few)
        assert not guided.equal(loaded.sample(4, process=process, **few))
    multistep = {"sampler": "multistep", "steps": 4}
    psld.load(model).sample(4, guide=folder / "guide", label=3, **multistep)
    gamma = {"psld": {"gamma": 0.25}}
    with pytest.raises(UserError, match=r"noise levels are .*, and the guide takes"):
        loaded.sample(4, process=gamma, guide=folder / "guide", label=3, **multistep)


def test_foreign_samplers_run_on_the_network_itself(folder):
    model = psld.load(folder / "model")
    denoise = psld.denoiser(model)
    assert denoise is model.network
    assert (denoise.sigma_min, denoise.sigma_max) == (2e-5, 1000)
    y = normal(2, 1, 8, 8).float()
    levels = denoise(y, torch.tensor([0.5, 2.0]))
    torch.testing.assert_close(levels[1], denoise(y, denoise.round_sigma(2.0))[1])
    exact = denoise(y.double(), 0.5)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), denoise(y, 0.5))


def test_somebody_elses_denoiser_is_sampled_as_every_process(folder):
    ours = psld.load(folder / "model")
    theirs = psld.from_denoiser(ours.network, (1, 8, 8), sigma_min=0, sigma_max=1e4)
    own = phase_space(0.25)
    assert ours.sample(4, process=own).equal(ours.sample(4, process={"psld": {"gamma": 0.25}}))
    for process in ("cld", {"psld": {"gamma": 0.02}}, own):
        options = {"sampler": "multistep", "steps": 4, "process": process}
        assert theirs.sample(4, **options).equal(ours.sample(4, **options))
    with pytest.raises(UserError, match=r"sample\(\): start: .* use start=prior"):
        theirs.sample(4, sampler="few", steps=4)
    for wrong in ({"psld": {}, "cld": {}}, {}, {"psld": None}, 3):
        with pytest.raises(UserError, match=r"sample\(\): process is a name or .*\{\"recipe\": \{"):
            theirs.sample(4, process=wrong)


@pytest.mark.parametrize("process", ["cld", "vp-sde"])
def test_the_default_asks_a_denoiser_for_levels_that_it_takes(folder, digits, process):
    """It begins at 80 in place of 150 to 258, where images are as good as noise."""
    network, asked = psld.load(folder / "model").network, []
    network.register_forward_hook(lambda _, given, out: asked.append(float(given[1][0])))
    edm = psld.from_denoiser(network, (1, 8, 8), sigma_min=0.002, sigma_max=80)
    images = edm.sample(8, process=process, raw=True)
    assert len(asked) == 10
    assert 0.002 <= min(asked) < 0.02
    assert max(asked) == pytest.approx(80)
    whole = psld.from_denoiser(network, (1, 8, 8), sigma_min=0, sigma_max=float("inf"))
    same, other = (whole.sample(8, process=process, raw=True, seed=seed) for seed in (0, 1))
    assert (images - same).abs().mean() < (images - other).abs().mean() / 2
    assert len(whole.sample(2, process=process, sampler="rk45", tolerance=0.1)) == 2
    said = r"takes 0\.002 to 80; change final_time, levels or the process, or give images="
    with pytest.raises(UserError, match=said) as refusal:
        edm.sample(4, process=process, sampler="em")
    assert "train" not in str(refusal.value)
    seen = torch.from_numpy(ImageStore.open(digits).images("train")[:100].copy())
    few = psld.from_denoiser(network, (1, 8, 8), sigma_min=0.002, sigma_max=80, images=seen)
    few.start.level()  # measures the start
    asked.clear()
    few.sample(4, process=process)
    assert len(asked) == 4


def test_the_noise_that_a_denoiser_of_somebody_else_predicts(folder):
    ours = psld.load(folder / "model")
    theirs = psld.from_denoiser(ours.network, (1, 8, 8), sigma_min=0, sigma_max=1e4)
    eps = theirs.eps({"psld": {"gamma": ours.settings.process.gamma}})
    z, t = normal(2, 2, 8, 8).float(), torch.tensor([0.2, 0.9])
    assert eps(z, t).equal(ours.eps()(z, t))
    times = t.double()
    assert eps.process.covariance(times).equal(ours.process.covariance(times))
    with pytest.raises(UserError, match=r"^eps\(\): process=none: no such process; there are: cld"):
        theirs.eps("none")
    assert repr(theirs).startswith("<ForeignDenoiser Denoiser: every process, 1×8×8, noise levels")


def test_four_evaluations_start_from_the_moments_of_given_images(folder, digits):
    ours, few = psld.load(folder / "model"), {"sampler": "few", "steps": 4, "process": "vp-sde"}
    seen = torch.from_numpy(ImageStore.open(digits).images("train").copy())
    edm = psld.from_denoiser(ours.network, (1, 8, 8), sigma_min=0.002, sigma_max=80, images=seen)
    with pytest.raises(UserError, match=r"noise levels are .* takes 0\.002 to 80"):
        edm.sample(4, process="cld", sampler="multistep")
    options = {**few, "start_level": 2.0}
    theirs, mine = (model.sample(4, **options).int() for model in (edm, ours))
    assert (theirs - mine).abs().max() <= 1
    level = edm.start.level()
    assert edm.sample(4, **few).equal(edm.sample(4, **few, start_level=level))
    low = psld.from_denoiser(ours.network, (1, 8, 8), 0.002, 0.4, images=seen[:100])
    assert low.sample(4, **few).shape == (4, 1, 8, 8), "no level above 0.4 is asked for"
    for wrong in (seen.float(), seen[:1], seen[:, :, :4]):
        with pytest.raises(UserError, match=r"images is .*, not uint8 \('N', 1, 8, 8\)"):
            psld.from_denoiser(ours.network, (1, 8, 8), 0.002, 80, images=wrong)


@pytest.mark.parametrize("options", [{"process": "cld", "sampler": "sscs"}, {"process": "vp-sde"}])
def test_known_pixels_are_kept_as_every_process(folder, options):
    ours = psld.load(folder / "model")
    theirs = psld.from_denoiser(ours.network, (1, 8, 8), sigma_min=0, sigma_max=1e4)
    images, mask = torch.rand(4, 1, 8, 8) * 2 - 1, torch.ones(4, 1, 8, 8)
    mask[..., 4:] = 0
    options = {"steps": 4, "raw": True, "inpainting": (images, mask), **options}
    for model in (ours, theirs):
        filled = model.sample(4, **options)
        torch.testing.assert_close(filled[..., :4], images[..., :4], rtol=0, atol=1e-3)
        assert (filled[..., 4:] - images[..., 4:]).abs().mean() > 0.1
    for wrong, said in (
        ((mask.byte(), mask), "bytes"),
        ((images, mask[:, 0]), "a mask of"),
        (images, "two tensors"),
    ):
        with pytest.raises(UserError, match=said):
            ours.sample(4, **options | {"inpainting": wrong})


def test_a_denoiser_is_a_network_of_states_for_functions_of_states(folder):
    model = psld.load(folder / "model")
    images = psld.sample(model.process, model.eps(), (4, 1, 8, 8), sampler="em", steps=4)
    theirs = model.sample(4, sampler="em", steps=4)
    assert (images.int() - theirs.int()).abs().max() <= 1


def test_it_is_sampled_as_a_process_of_a_subclass(folder):
    model = psld.load(folder / "model")
    process = Noted([[0.5]], [[0.0]], [1.0], LinearBeta(0.1, 20.0), initial_variance=[0.0])
    Noted.drawn.clear()
    images = model.sample(2, process=process, sampler="em", steps=3)
    assert Noted.drawn == [(2, 1, 8, 8)]
    assert torch.equal(images, model.sample(2, process="vp-sde", sampler="em", steps=3))


def test_the_likelihood_takes_it(folder, digits):
    given = (f"data={digits}", "images=4", "tolerance=1e-1", "output=bits.json")
    succeeded(call(folder, "likelihood", "model=model", *given))
    assert np.isfinite(json.loads((folder / "bits.json").read_text())["bits_per_dimension"])


def test_a_label_starts_from_the_gaussian_of_its_class(folder):
    model = psld.load(folder / "model")
    options = {"sampler": "few", "steps": 2, "start_level": 2.0, "raw": True, "scale": 1.0}
    zeros, ones = (model.sample(400, label=label, **options).mean(0) for label in (0, 1))
    means = model.start_for(classes=True).data.means
    difference = (means[1] - means[2]).view(1, 8, 8)
    ours = (zeros - ones).flatten()
    assert float(torch.corrcoef(torch.stack([ours, difference.flatten()]))[0, 1]) > 0.9
