"""Guidance and masks as parts: shipped ones, their classes in a file outside, and one's own."""

import json
import re

import numpy as np
import pytest
import torch
from torch import nn

import psld
from psld.config.kinds import SHIPPED
from psld.config.parts import importing_nothing
from psld.config.settings import parse
from psld.data.store import write_store
from psld.diffusion.guidance import Guidance, Mask
from psld.diffusion.score import Batching
from psld.grid.cache import load_grid
from psld.sampling.model import ImageSampler
from psld.sampling.named import Named, compose_named
from psld.sampling.sample import draw_masks
from psld.sampling.settings import CellSettings, sampler_content
from psld.sampling.shards import Shard
from psld.utils.errors import UserError
from tests.commands import call, refused, succeeded
from tests.diffusion.processes import phase_space
from tests.diffusion.sampling import sde
from tests.parts.own import GUIDANCE, edit, moved, write

TO_CLASSES = {"scale": 2.0, "label": [1, 0]}
INPAINTING = {"split": "test", "mask": {"kind": "halves", "missing": "left"}}
OPTIONS = {"none": {}, "classifier": TO_CLASSES, "classifier-free": TO_CLASSES}
OPTIONS |= {"inpainting": INPAINTING, "mine:Pull": {"strength": 2.0}}
MASKS = {"halves": {"missing": "cycle"}, "digits": {}, "mine:Border": {"width": 1}}
FILES = {"classifier": {"guide"}, "inpainting": {"data"}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write(tmp_path, mine=GUIDANCE)


def cell(guidance, **files) -> CellSettings:
    em = {"integrator": "em", "striding": "uniform", "steps": 4, "guidance": guidance}
    content = dict.fromkeys(("guide", "data", "mnist"))
    content |= {"model": "x", "shard_size": 4, "seed": 0, "device": "cpu", "sampler": em, **files}
    return parse(CellSettings, content, "test")


def kinds_of(folder, noun: str, kind: str) -> list[str]:
    """A kind and, of a shipped one, that of its class in a file outside."""
    if kind not in SHIPPED[noun]:
        return [kind]
    return [kind, moved(folder, noun)[[*SHIPPED[noun]].index(kind)]]


def check_settings(noun: type[Guidance | Mask], content: dict) -> Guidance | Mask:
    """Saved and loaded it is the same, and so in every order; a wrong key is named."""
    part = noun.model_validate(content)
    assert noun.model_validate(json.loads(json.dumps(part.model_dump(mode="json")))) == part
    assert noun.model_validate(dict(reversed(content.items()))).identity() == part.identity()
    assert part.identity()["kind"] == content["kind"]
    assert ("code" in part.identity()) == (":" in content["kind"])
    return part


@pytest.mark.parametrize("kind", OPTIONS)
def test_the_contract_of_guidance(folder, kind):
    images = []
    for each in kinds_of(folder, "guidance", kind):
        content = {"kind": each, **OPTIONS[kind]}
        guidance = check_settings(Guidance, content)
        needed = FILES.get(kind, set())
        assert set(guidance.files) == needed
        files = dict.fromkeys(needed, "file")
        settings = cell(content, **files).sampler
        assert sampler_content(settings)["guidance"] == guidance.identity()
        with pytest.raises(UserError, match=r"unknown key sampler\.guidance\.knd"):
            cell(content | {"knd": 1}, **files)
        for key in ("guide", "data", "mnist"):
            said = "needs it; it is null" if key in needed else "has no use for file"
            with pytest.raises(UserError, match=rf"^test: {key}: sampler\.guidance {said}"):
                cell(content, **(files | {key: None if key in needed else "file"}))
        classes = (1, 0) if guidance.asks_for_classes else ()
        found = [sampled(settings, classes, batch) for batch in (100, 2)]
        torch.testing.assert_close(*(images for images, _ in found), rtol=1e-4, atol=1e-5)
        assert {nfe for _, nfe in found} == {settings.evaluations}
        images.append(found[0][0])
    assert all(torch.equal(each, images[0]) for each in images)


def eps(z, t, label=None):
    return torch.tanh(z + (0 if label is None else 0.3 * (1 + label)[:, None, None, None]))


def sampled(settings, classes=(), batch=100):
    given = {"eps": eps, "network": nn.Linear(1, 1), "shape": (1, 4, 4)}
    given |= {"logits": lambda z, t: z.flatten(1)[:, :3], "classes": classes}
    sampler = ImageSampler(phase_space(0.02), settings, batching=Batching(batch), **given)
    images, _, nfe = sampler.sample(range(5), (0, 0), silent=True)
    return images, nfe


@pytest.mark.parametrize("kind", MASKS)
def test_the_contract_of_a_mask(folder, kind):
    digits = np.random.default_rng(0).integers(0, 2, (7, 1, 28, 28), dtype=np.uint8)
    write_store(
        folder / "mnist.h5", (1, 28, 28), {"train": 6, "test": 1}, np.zeros(7, int), 10, [digits]
    )
    masks = []
    for each in kinds_of(folder, "mask", kind):
        content = {"kind": each, **MASKS[kind]}
        mask = check_settings(Mask, content)
        inpainting = {"kind": "inpainting", "split": "test", "mask": content}
        files = dict.fromkeys(("data", *mask.datasets), "file")
        assert set(cell(inpainting, **files).sampler.guidance.files) == {*files}
        with pytest.raises(UserError, match=r"unknown key sampler\.guidance\.mask\.knd"):
            cell(inpainting | {"mask": content | {"knd": 1}}, **files)
        whole = draw_masks(mask, range(5), 16, "mnist.h5")
        assert (whole.shape, whole.dtype, set(np.unique(whole))) == ((5, 16, 16), np.uint8, {0, 1})
        parts = [draw_masks(mask, range(*part), 16, "mnist.h5") for part in ((0, 2), (2, 5))]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        masks.append(whole)
    assert all(np.array_equal(each, masks[0]) for each in masks)


@pytest.mark.parametrize(
    ("noun", "kind"), [(n, kind) for n in ("guidance", "mask") for kind in SHIPPED[n]]
)
def test_defaults_are_those_of_the_config(noun, kind):
    place = {"guidance": "", "mask": ".mask"}[noun]
    words = ["guidance@sampler.guidance=inpainting", f"{noun}@sampler.guidance{place}={kind}"]
    named = compose_named(words[noun == "guidance" :], "test").sampler.guidance
    part = named if noun == "guidance" else named.mask
    assert part == type(part).model_validate({})


# --- one's own ------------------------------------------------------------------------------------

EM = ("sampler=em", "sampler.steps=50", "sampler.striding=quadratic", "shard_size=8")
PULL = "guidance@sampler.guidance=mine:Pull"


def test_a_guidance_of_ones_own_by_the_command_and_in_the_library(folder, vp_sde_model):
    means, loaded = {}, psld.load(vp_sde_model)
    for brightness in (-0.9, 0.9):
        output = f"output=at{brightness}"
        words = (PULL, f"sampler.guidance.brightness={brightness}", f"model={vp_sde_model}", output)
        succeeded(call(folder, "sample", *EM, *words))
        shard = Shard.load(folder / f"at{brightness}" / "00000.safetensors")
        guidance = {"kind": "mine:Pull", "brightness": brightness}
        how = {"sampler": "em", "steps": 50, "striding": "quadratic", "guidance": guidance}
        np.testing.assert_array_equal(loaded.sample(8, **how), shard.images)
        means[brightness] = float(loaded.sample(8, raw=True, **how).mean())
        edited = (*EM, *words, "sampler.guidance.strength=1")
        refused(call(folder, "sample", *edited), 2, "made by another sampler_digest")
    assert means[-0.9] < -0.5 < 0.5 < means[0.9]


def test_in_a_grid_its_cells_change_with_its_code(folder):
    (folder / "configs/grid").mkdir(parents=True)
    (folder / "configs/grid/own.yaml").write_text(
        """
        metric: fd-pixels
        samples: 10
        shard_size: 10
        batch_size: 10
        gallery: pull-3
        models: {m: ["training.steps=6"]}
        samplers: {pull: {overrides: [sampler=em, guidance@sampler.guidance=mine:Pull,
          sampler.guidance.strength=3], budget: sampler.steps}}
        tables: {t: {title: t, headings: [m], cell: {sampler: pull, model: m},
          columns: [{label: "3", budget: "3"}], rows: [{label: [m]}]}}
        """
    )
    digests = []
    for edited in ((), ("\n\n\nclass", "\n\n\n# A comment.\nclass"), ("/ z[0, 0]", "* z[0, 0]")):
        if edited:
            edit(folder / "mine.py", *edited)
        [cell] = load_grid("own").cells.values()
        assert (cell.sampler.settings.guidance.strength, cell.datasets) == (3, {})
        digests.append(cell.digest)
    assert digests[0] == digests[1] != digests[2]


def test_a_mask_of_ones_own_by_the_command(folder, model, digits):
    words = ("guidance@sampler.guidance=inpainting", "mask@sampler.guidance.mask=mine:Border")
    files = f"data={digits}", f"model={model}", "output=x"
    succeeded(call(folder, "sample", *EM, *words, "sampler.guidance.mask.width=3", *files))
    masks = Shard.load(folder / "x" / "00000.safetensors").masks
    assert (masks.shape, masks.sum()) == ((8, 8, 8), 8 * 60)


def test_a_guidance_whose_code_is_not_here_is_compared_and_never_used(folder):
    content = json.loads(cell({"kind": "mine:Pull"}).model_dump_json())
    known = parse(CellSettings, content, "test")
    with importing_nothing():
        unknown = parse(CellSettings, content | {"guide": "a guide, for all we know"}, "test")
    assert sampler_content(unknown.sampler) == sampler_content(known.sampler)
    assert (unknown.sampler.evaluations, known.sampler.evaluations) == (None, 4)
    with pytest.raises(UserError, match="mine:Pull: its file is missing or has changed"):
        sampled(unknown.sampler)


def test_a_network_of_somebody_else_has_no_classes(folder):
    theirs = psld.from_denoiser(nn.Identity().eval(), (1, 4, 4), sigma_min=0, sigma_max=1e9)
    with pytest.raises(UserError, match="guidance: the network has no classes; bind one to it"):
        theirs.sample(2, sampler="em", guidance={"kind": "classifier-free", **TO_CLASSES})


MISTAKES = {
    "return GuidedScore": ("return GildedScore", "build: NameError: name 'GildedScore'"),
    "self.brightness - mean": ("1 / 0 * mean", "score: ZeroDivisionError: division by zero"),
    "return pull": ("return pull[:1, :1].repeat(9, 1, 1, 1)", "score: RuntimeError: "),
    "return GuidedScore(": ("return str(", "score: TypeError: 'str' object is not callable"),
}


@pytest.mark.parametrize("code", MISTAKES)
def test_a_mistake_in_ones_own_guidance_is_one_line(folder, code):
    wrong, message = MISTAKES[code]
    edit(folder / "mine.py", code, wrong)
    if "str(" in wrong:
        edit(folder / "mine.py", ", gradient, self.strength", "")
    settings = parse(Named, {"sampler": cell({"kind": "mine:Pull"}).sampler, "process": None}, "x")
    with pytest.raises(UserError, match=rf"^sampler\.guidance: mine:Pull: {re.escape(message)}"):
        sampled(settings.sampler)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("known[:, ::2]", "gives an array (5, 4, 8); (5, 8, 8) is needed"),
        ("known / 2", "gives other numbers than 0 and 1"),
        ("unknown", "name 'unknown' is not defined"),
    ],
)
def test_a_mistake_in_ones_own_mask_is_one_line(folder, code, said):
    edit(folder / "mine.py", "return known", f"return {code}")
    mask = Mask.model_validate("mine:Border")
    with pytest.raises(
        UserError, match=rf"^sampler\.guidance\.mask: mine:Border: draw: \w+: {re.escape(said)}"
    ):
        draw_masks(mask, range(5), 8, None)


def test_known_pixels_need_a_fixed_grid_and_the_prior():
    em = sde("em", striding="uniform", steps=4).model_dump() | {
        "guidance": {"kind": "inpainting", **INPAINTING}
    }
    with pytest.raises(UserError, match="draws images that know nothing of the known pixels"):
        parse(Named, {"sampler": em | {"start": "mixture"}, "process": None}, "test")
    rk45 = {"integrator": "rk45", "tolerance": 0.1, "guidance": em["guidance"]}
    with pytest.raises(UserError, match="rk45 has none; use another sampler"):
        parse(Named, {"sampler": rk45, "process": None}, "test")
