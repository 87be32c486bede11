"""Train a denoiser, and sample every process from it, with every kind of guidance."""

import contextlib
import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import psld
from psld.data.store import ImageStore
from psld.diffusion.settings import VPSDESettings
from psld.sampling.model import load_model
from psld.sampling.shards import Shard
from psld.utils.errors import UserError
from tests.commands import TINY, call, refused, succeeded
from tests.diffusion.processes import normal, phase_space
from tests.training.small import prepared

DENOISER = (
    *TINY,
    "training.objective=denoiser",
    "training.steps=10",
    "training.label_dropout=0.2",
    "process=psld",
    "data=data/x.h5",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a dataset of zeros and ones, `data/x.h5`, and two small models of this dataset:
    a class-conditional denoiser, `model`, and a network of a single process, `plain`."""
    folder = tmp_path_factory.mktemp("denoiser")
    digits = load_digits()
    images = np.concatenate([digits.images[digits.target == k][:100] for k in (0, 1)])
    prepared(folder, "x", np.uint8(images * 15.9)[:, None], [100, 100])
    succeeded(call(folder, "train", *DENOISER, "output=model"))
    plain = ("training.steps=1", "process=psld", "data=data/x.h5", "output=plain")
    succeeded(call(folder, "train", *TINY, *plain))
    with contextlib.chdir(folder):
        for classes in (False, True):
            psld.load("model").start_for(classes=classes)
    (folder / "starts").rename(folder / "model/starts")
    return folder


# --- a trained denoiser -----------------------------------------------------------------------


def test_a_denoiser_samples_every_process_with_guidance(folder):
    model = psld.load(folder / "model")
    few = {"sampler": "few", "steps": 2, "raw": True}
    assert model.sample(3, process={"third-order": {}}, **few).isfinite().all()
    gammas = (model.sample(3, process={"psld": {"gamma": g}}, **few) for g in (0.1, 0.2))
    assert not torch.equal(*gammas)
    for sampler in ("em", "sscs", "gddim"):
        assert model.sample(3, sampler=sampler, process="cld", steps=2).shape == (3, 1, 8, 8)
    guided, plain = (
        model.sample(3, process="vp-sde", **few, **guidance)
        for guidance in ({"label": "cycle", "scale": 2.0}, {})
    )
    assert not guided.equal(plain)


def test_a_denoiser_is_loaded_as_a_network_of_another_process(folder):
    cpu, vp_sde = torch.device("cpu"), VPSDESettings(kind="vp-sde")
    own, other = (load_model(folder / "model", cpu, process) for process in (None, vp_sde))
    assert (own.process.blocks, other.process.blocks) == (2, 1)
    assert other.settings.process == vp_sde
    with pytest.raises(UserError, match="the network serves only the process"):
        load_model(folder / "plain", cpu, vp_sde)


def test_the_command_makes_the_same_images_and_records_the_process(folder):
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
    changed = "process.gamma=0.25 then, 0.0 now: sampled with a different process_digest"
    refused(other, 2, changed)
    plain = call(folder, "sample", "model=plain", "process=cld", *few)
    refused(plain, 2, "process: ", "training.objective=denoiser")


def test_the_weights_of_a_denoiser_do_not_depend_on_the_process(folder):
    given = ("process=vp-sde", "output=again", "name=psld")
    printed = succeeded(call(folder, "train", *DENOISER, *given)).stdout
    assert "step 10/10" not in printed, "the run directory is the same"
    assert psld.load(folder / "again").weights_sha256 == psld.load(folder / "model").weights_sha256
    assert psld.load(folder / "again").process.blocks == 1


def test_a_guide_of_images_guides_every_process(folder):
    given = (*TINY, "training.objective=denoiser", "training.steps=5", "data=data/x.h5")
    law = "training.noise_law={high: 300}"
    succeeded(call(folder, "train_guide", *given, law, "output=guide"))
    loaded, options = psld.load(folder / "model"), {"sampler": "few", "steps": 2, "process": "cld"}
    guided = loaded.sample(4, guide=folder / "guide", label=1, scale=5, **options)
    assert not guided.equal(loaded.sample(4, **options))
    multistep = {"sampler": "multistep", "steps": 2}
    psld.load(folder / "plain").sample(4, guide=folder / "guide", label=1, **multistep)
    gamma = {"psld": {"gamma": 0.25}}
    with pytest.raises(UserError, match=r"noise levels are .*, but the guide accepts"):
        loaded.sample(4, process=gamma, guide=folder / "guide", label=1, **multistep)


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


def test_an_external_denoiser_samples_every_process(folder):
    ours = psld.load(folder / "model")
    theirs = psld.from_denoiser(ours.network, (1, 8, 8), sigma_min=0, sigma_max=1e4)
    own = phase_space(0.25)
    two = {"process": {"psld": {"gamma": 0.25}}, "sampler": "few", "steps": 2}
    assert ours.sample(4, **two).equal(ours.sample(4, **two | {"process": own}))
    for process in ("cld", own):
        options = {"sampler": "multistep", "steps": 2, "process": process}
        assert theirs.sample(4, **options).equal(ours.sample(4, **options))
    with pytest.raises(UserError, match=r"sample\(\): start: .* use start=prior"):
        theirs.sample(4, sampler="few", steps=4)


def test_the_default_sampler_stays_in_the_noise_levels_of_a_denoiser(folder):
    """The sampler starts at σ = 80, where images are practically noise, instead of 150 to 258."""
    network, asked = psld.load(folder / "model").network, []
    network.register_forward_hook(lambda _, given, out: asked.append(float(given[1][0])))
    edm = psld.from_denoiser(network, (1, 8, 8), sigma_min=0.002, sigma_max=80)
    edm.sample(2, process="cld")
    assert (len(asked), max(asked)) == (10, pytest.approx(80))
    assert 0.002 <= min(asked) < 0.02
    said = r"accepts 0\.002 to 80; change final_time, levels or the process, or give images="
    with pytest.raises(UserError, match=said) as refusal:
        edm.sample(4, process="cld", sampler="em")
    assert "train" not in str(refusal.value)


def images_of(folder) -> torch.Tensor:
    return torch.from_numpy(ImageStore.open(folder / "data/x.h5").images("train").copy())


def test_the_noise_predicted_by_an_external_denoiser(folder):
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


def test_a_start_fitted_to_given_images_equals_the_start_of_the_dataset(folder):
    ours, seen = psld.load(folder / "model"), images_of(folder)
    edm = psld.from_denoiser(ours.network, (1, 8, 8), sigma_min=0.002, sigma_max=80, images=seen)
    with pytest.raises(UserError, match=r"noise levels are .* accepts 0\.002 to 80"):
        edm.sample(4, process="cld", sampler="multistep")
    options = {"sampler": "few", "steps": 3, "process": "vp-sde"}
    theirs, mine = (model.sample(4, **options).int() for model in (edm, ours))
    assert (theirs - mine).abs().max() <= 1
    level = edm.start.level()
    assert edm.sample(4, **options).equal(edm.sample(4, **options, start_level=level))
    low = psld.from_denoiser(ours.network, (1, 8, 8), 0.002, 0.4, images=seen[:100])
    assert low.sample(4, **options).shape == (4, 1, 8, 8), "no level above 0.4 is asked for"
    for wrong in (seen.float(), seen[:, :, :4]):
        with pytest.raises(UserError, match=r"images: got .*; expected uint8 \('N', 1, 8, 8\)"):
            psld.from_denoiser(ours.network, (1, 8, 8), 0.002, 80, images=wrong)


def test_known_pixels_are_kept_as_every_process(folder):
    ours = psld.load(folder / "model")
    theirs = psld.from_denoiser(ours.network, (1, 8, 8), sigma_min=0, sigma_max=1e4)
    images, mask = torch.rand(4, 1, 8, 8) * 2 - 1, torch.ones(4, 1, 8, 8)
    mask[..., 4:] = 0
    options = {"steps": 2, "raw": True, "inpainting": (images, mask), "process": "cld"}
    for model in (ours, theirs):
        filled = model.sample(4, **options)
        torch.testing.assert_close(filled[..., :4], images[..., :4], rtol=0, atol=1e-3)
        assert (filled[..., 4:] - images[..., 4:]).abs().mean() > 0.1
    for wrong, said in (
        ((mask.byte(), mask), "integers; give floats"),
        ((images, mask[:, 0]), "a mask of"),
        (images, "inpainting: Tuple should have"),
    ):
        with pytest.raises(UserError, match=said):
            ours.sample(4, **options | {"inpainting": wrong})


def test_a_denoiser_is_a_network_of_states_for_functions_of_states(folder):
    model = psld.load(folder / "model")
    images = psld.sample(model.process, model.eps(), (4, 1, 8, 8), sampler="em", steps=4)
    theirs = model.sample(4, sampler="em", steps=4)
    assert (images.int() - theirs.int()).abs().max() <= 1


def test_the_likelihood_accepts_a_denoiser(folder):
    given = ("process=vp-sde", "data=data/x.h5", "split=train", "images=2", "output=bits.json")
    given += ("tolerance=0.5", "start_time=0.01")
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
