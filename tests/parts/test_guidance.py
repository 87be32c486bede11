"""Guidance and masks as parts: shipped parts, their classes in a file outside of psld, and custom
parts."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import psld
from psld.config.kinds import SHIPPED
from psld.config.settings import parse, reading_a_file
from psld.data.store import write_store
from psld.diffusion.guidance import Guidance, Mask
from psld.report.certificate import _fits_classes
from psld.sampling.model import ImageSampler
from psld.sampling.named import SamplerChoice, compose_named
from psld.sampling.sample import draw_masks
from psld.sampling.settings import CellSettings, sampler_content
from psld.sampling.shards import Shard
from psld.utils.batching import Batching
from psld.utils.errors import UserError
from tests.commands import call, refused, succeeded
from tests.diffusion.processes import phase_space
from tests.diffusion.sampling import sde
from tests.parts.contract import here_and_outside

TO_CLASSES = {"scale": 2.0, "label": [1, 0]}
INPAINTING = {"split": "test", "mask": {"kind": "halves", "missing": "left"}}
OPTIONS = {"none": {}, "classifier": TO_CLASSES, "classifier-free": TO_CLASSES}
OPTIONS |= {"inpainting": INPAINTING, "pull:Pull": {"strength": 2.0}}
MASKS = {"halves": {"missing": "cycle"}, "digits": {}, "pull:Border": {"width": 1}}
FILES = {"classifier": {"guide"}, "inpainting": {"data"}}


def cell(guidance, **files) -> CellSettings:
    em = {"integrator": "em", "striding": "uniform", "steps": 4, "guidance": guidance}
    content = dict.fromkeys(("guide", "data", "mnist"))
    content |= {"model": "x", "shard_size": 4, "seed": 0, "device": "cpu", "sampler": em, **files}
    return parse(CellSettings, content, "test")


@pytest.mark.parametrize("kind", OPTIONS)
def test_guidance_fulfills_its_contract(outside, kind):
    images, needed = [], FILES.get(kind, set())
    files = dict.fromkeys(needed, "file")
    for guidance in here_and_outside(outside, Guidance, kind, **OPTIONS[kind]):
        assert set(guidance.files) == needed
        content = guidance.model_dump()
        settings = cell(content, **files).sampler
        assert sampler_content(settings)["guidance"] == guidance.identity()
        classes = (1, 0) if guidance.asks_for_classes else ()
        found = [sampled(settings, classes, batch) for batch in (100, 2)]
        torch.testing.assert_close(*(images for images, _ in found), rtol=1e-4, atol=1e-5)
        assert {nfe for _, nfe in found} == {settings.evaluations}
        images.append(found[0][0])
    assert all(torch.equal(each, images[0]) for each in images)
    for key in ("guide", "data", "mnist"):
        said = "needs a path, but" if key in needed else "does not use file"
        with pytest.raises(UserError, match=rf"^test: {key}: sampler\.guidance {said}"):
            cell(content, **(files | {key: None if key in needed else "file"}))


def eps(z, t, label=None):
    return torch.tanh(z + (0 if label is None else 0.3 * (1 + label)[:, None, None, None]))


def sampled(settings, classes=(), batch=100):
    given = {"eps": eps, "network": nn.Linear(1, 1), "shape": (1, 4, 4)}
    given |= {"logits": lambda z, t: z.flatten(1)[:, :3], "classes": classes}
    sampler = ImageSampler(phase_space(0.02), settings, batching=Batching(batch), **given)
    images, _, nfe = sampler.sample(range(5), (0, 0), silent=True)
    return images, nfe


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_fulfills_its_contract(outside, kind):
    digits = np.random.default_rng(0).integers(0, 2, (7, 1, 28, 28), dtype=np.uint8)
    write_store(
        outside / "mnist.h5", (1, 28, 28), {"train": 6, "test": 1}, np.zeros(7, int), 10, [digits]
    )
    masks = []
    for mask in here_and_outside(outside, Mask, kind, **MASKS[kind]):
        inpainting = {"kind": "inpainting", "split": "test", "mask": mask.model_dump()}
        files = dict.fromkeys(("data", *mask.datasets), "file")
        assert set(cell(inpainting, **files).sampler.guidance.files) == {*files}
        whole = draw_masks(mask, range(5), 16, "mnist.h5")
        assert (whole.shape, whole.dtype, set(np.unique(whole))) == ((5, 16, 16), np.uint8, {0, 1})
        parts = [draw_masks(mask, range(*part), 16, "mnist.h5") for part in ((0, 2), (2, 5))]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        masks.append(whole)
    assert all(np.array_equal(each, masks[0]) for each in masks)


@pytest.mark.parametrize(
    ("noun", "kind"), [(n, kind) for n in ("guidance", "mask") for kind in SHIPPED[n]]
)
def test_defaults_equal_the_values_in_the_config(noun, kind):
    place = {"guidance": "", "mask": ".mask"}[noun]
    words = ["guidance@sampler.guidance=inpainting", f"{noun}@sampler.guidance{place}={kind}"]
    named = compose_named(words[noun == "guidance" :], "test").sampler.guidance
    part = named if noun == "guidance" else named.mask
    assert part == type(part).model_validate({})


# --- custom parts ---------------------------------------------------------------------------------

EM = ("sampler=em", "sampler.steps=20", "sampler.striding=quadratic", "shard_size=4")
PULL = "guidance@sampler.guidance=pull:Pull"


def test_a_custom_guidance_runs_from_the_command_line_and_the_library(outside, vp_sde_model):
    means, loaded = {}, psld.load(vp_sde_model)
    for brightness in (-0.9, 0.9):
        output = f"output=at{brightness}"
        words = (PULL, f"sampler.guidance.brightness={brightness}", f"model={vp_sde_model}", output)
        succeeded(call(outside, "sample", *EM, *words))
        shard = Shard.load(outside / f"at{brightness}" / "00000.safetensors")
        guidance = {"kind": "pull:Pull", "brightness": brightness}
        how = {"sampler": "em", "steps": 20, "striding": "quadratic", "guidance": guidance}
        np.testing.assert_array_equal(loaded.sample(4, **how), shard.images)
        means[brightness] = float(loaded.sample(4, raw=True, **how).mean())
    edited = (*EM, *words, "sampler.guidance.strength=1")
    refused(call(outside, "sample", *edited), 2, "sampled with a different sampler_digest")
    assert means[-0.9] < -0.5 < 0.5 < means[0.9]


def test_a_custom_mask_runs_from_the_command_line(outside, model, digits):
    words = ("guidance@sampler.guidance=inpainting", "mask@sampler.guidance.mask=pull:Border")
    files = "sampler.steps=2", f"data={digits}", f"model={model}", "output=x"
    succeeded(call(outside, "sample", *EM, *words, "sampler.guidance.mask.width=3", *files))
    masks = Shard.load(outside / "x" / "00000.safetensors").masks
    assert (masks.shape, masks.sum()) == ((4, 8, 8), 4 * 60)


def test_a_guidance_without_its_code_is_compared_but_not_used(outside):
    content = json.loads(cell({"kind": "pull:Pull"}).model_dump_json())
    known = parse(CellSettings, content, "test")
    with reading_a_file():
        unknown = parse(CellSettings, content, "test")
    assert sampler_content(unknown.sampler) == sampler_content(known.sampler)
    assert (unknown.sampler.evaluations, known.sampler.evaluations) == (4, 4)
    for each, passes in ((unknown, True), (known, False)):
        labelled = SimpleNamespace(
            sampler=SimpleNamespace(settings=each.sampler),
            model=SimpleNamespace(settings=SimpleNamespace(dataset=None)),
        )
        assert _fits_classes(labelled, torch.tensor([3, 7])) is passes, "only its code knows them"
    with pytest.raises(UserError, match="read from a file is used without its class"):
        sampled(unknown.sampler)


def test_an_external_network_has_no_classes(outside):
    theirs = psld.from_denoiser(nn.Identity().eval(), (1, 4, 4), sigma_min=0, sigma_max=1e9)
    with pytest.raises(UserError, match="guidance: the network accepts no class; bind a class"):
        theirs.sample(2, sampler="em", guidance={"kind": "classifier-free", **TO_CLASSES})


def test_inpainting_needs_a_fixed_time_grid_and_the_prior():
    em = sde("em", striding="uniform", steps=4).model_dump() | {
        "guidance": {"kind": "inpainting", **INPAINTING}
    }
    with pytest.raises(UserError, match="does not support known pixels; inpaint with start=prior"):
        parse(SamplerChoice, {"sampler": em | {"start": "mixture"}, "process": None}, "test")
    rk45 = {"integrator": "rk45", "tolerance": 0.1, "guidance": em["guidance"]}
    with pytest.raises(UserError, match="rk45 has none; use another sampler"):
        parse(SamplerChoice, {"sampler": rk45, "process": None}, "test")
