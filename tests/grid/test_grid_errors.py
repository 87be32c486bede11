"""Grid files that are refused, with the file and the key, in one line."""

import pytest
import yaml

from psld.config.locations import config_names
from psld.config.settings import parse
from psld.grid.cache import load_grid
from psld.grid.schema import GridFile
from psld.utils.errors import UserError
from tests.grid.mine import CONTENT, changed, refusal


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("smaples", 3, "unknown key smaples"),
        ("samples", 2, "samples: Input should be greater than or equal to 3"),
        ("metric", "fd", r"no such metric \(is fid meant\?\); there are: .*fd-classifier,"),
        ("gallery", "em-11", "gallery: no cell has the sampler 'em-11'; there are: em-10"),
        ("models/psld", {"gallery": "few-1"}, r"models\.psld\.gallery: no cell has .* 'few-1'"),
        ("labels", {"pdls": "PSLD"}, "unknown model, sampler or figure 'pdls'; there are: vp-"),
        (
            "tables/steps/compare",
            [{"entries": {"one": {"model": "psld"}, "two": {"model": "psld"}}}],
            "table 'Steps', compare 'one': fits 4 entries, not 1",
        ),
        (
            "tables/tolerance/compare",
            [{"entries": {"one": {"model": "psld", "samples": 50}, "two": {"samples": 100}}}],
            "table 'Tolerance', compare 'two': fits 2 entries, not 1",
        ),
        (
            "tables/tolerance/compare",
            [{"entries": {n: {"model": "psld", "samples": n} for n in ("50", "100")}}],
            "table 'Tolerance', compare 50, 100: give one metric of equal numbers of samples",
        ),
        ("labels", {"psld": "vp-sde"}, "labels: two names have the label 'vp-sde'"),
        ("models/psld", ["process=psld", "process.gama=1"], "psld: .*is process.gamma meant"),
        ("models/psld", ["process=psld", "process.gamma=-1"], "models.psld: process.gamma"),
        (
            "models/psld",
            ["wandb.project=${oc.env:HOME}"],
            r"models.psld: \$.* into a record; write the value \(wandb.project\)$",
        ),
        ("models/psld", {"of": "demo", "overrides": ["process=cld"]}, "models.psld: .* no `of`"),
        ("models/none", {"of": "paper"}, "models.none: .*paper.yaml trains no model of this name"),
        ("models/denoiser-cld", {"of": "demo"}, "demo.yaml, this model shares .* denoiser-psld;"),
        ("guides", {"psld": {"of": "demo"}}, "guides.psld.of: only for models; give"),
        ("models/psld", ["dataset.num_classes=0"], "differ from configs/dataset/digits.yaml"),
        ("models/psld", ["dataset.name='10'"], "models.psld: dataset '10': a name begins with"),
        ("models/psld", ["dataset=celeba64"], "psld/em-10: fd-classifier needs labels"),
        ("samplers/em/budget", "sampler.stepps", "sampler em-10: unknown key sampler.stepps"),
        ("samplers/em/overrides", ["sampler=sscs"], "vp-sde/em-10: sscs needs a process with mom"),
        ("tables/tolerance/columns/2/show", "class_accuracy", "needs class-conditional samples"),
        ("tables/steps/cell", {"sampler": "em"}, r"row .*'PSLD'\), column 10: budget is missing"),
        ("tables/steps/rows/0/model", "pdls", "unknown model 'pdls'; there are: vp-sde, psld"),
        ("tables/steps/cell/sampler", "ems", "unknown sampler 'ems'; there are: em, em-quadratic"),
        ("tables/steps/rows/0/paper", [1.0], "tables.steps: row .* needs 2 paper values"),
        ("tables/steps/columns/1/label", "10", "have different names, not sampler, model, 10, 10"),
        ("tables/steps/headings", ["metric", "model"], "headings: metric: the CSV has a column"),
        ("tables/steps/headings", ["model"], "tables.steps: row .* needs 1 labels"),
        ("tables/tolerance/rows/0/budget", "7", "rk45-7: sampler.tolerance: .* less than 1"),
        ("tables/steps/columns/0/budget", "1 0", "sampler 'em-1 0': a name begins with a letter"),
        ("figures", {"a": "psld/of-10"}, "figures.a: 'psld/of-10' is not MODEL/SAMPLER"),
        ("figures", {"a": "unknown/em-10"}, "figures.a: unknown model 'unknown'; there are"),
        ("figures", {"nfe": "psld/em-10"}, "figures.nfe: a plot of the grid has this name"),
        ("seeds", {"sampling": [1, 2]}, "seeds.sampling: the first seed must be .* 0$"),
        ("seeds", {"training": [1, 1]}, "seeds.training: seeds must be different, not 1, 1"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_its_key(configs, path, value, complaint):
    refusal(configs, changed(path, value), complaint)


@pytest.mark.parametrize(
    ("place", "word", "complaint"),
    [
        ("defaults", "hydra.sweep.dir=/x", "sets Hydra's own config, which can run code; leave"),
        ("models/psld", "++hydra.job.chdir=true", "sets Hydra's own"),
        ("models/psld", "~hydra.callbacks", "sets Hydra's own"),
        ("guides/g", "hydra/launcher=x", "sets Hydra's own"),
        ("samplers/em/overrides", "+process@hydra.x=cld", "sets Hydra's own"),
        ("models/psld", "runs=/x", "leads out of this folder; put a link into this"),
        ("models/psld", "training=../training/x", "leads out"),
        ("models/psld", "data='a/../../x.h5'", "leads out"),
    ],
)
def test_a_grid_of_others_sets_nothing_that_runs_code_or_leads_out(place, word, complaint):
    content = CONTENT | {"guides": {}}
    where = place.replace("/", ".").removesuffix(".overrides")
    where = where if place == "defaults" else f"{where}.overrides"
    content = changed(place, [word], content)
    with pytest.raises(UserError) as refused:
        parse(GridFile, content, "mine.yaml")
    assert f"{where}.0: {word}: {complaint}" in str(refused.value)


def test_a_key_that_is_there_twice_is_refused(configs):
    """Other texts that are no grids: tests/fuzz/test_grids.py."""
    text = "seed: 1\ntitle: Mine\nseed: 2\n"
    refusal(configs, text, "line 3, column 1: seed is already a key in line 1")


AWKWARD = (
    *("two words", "$(id)", "`id`", "a;b", "a&b", "it's", 'a"b', "a\nb", "a\n", "a/b", "ä", ".."),
    *("a" * 19, "-a", "a\\b", "a{b}c", "a=b", "a,b", "a+b", "*", "", "10", "1e-3", "null", "True"),
)


def test_no_shell_and_no_path_gets_an_awkward_name():
    table, sampler = CONTENT["tables"]["steps"], {"overrides": [], "budget": "sampler.steps"}
    own = {"figures": "psld/em-10", "tables": table, "samplers": sampler}
    for kind in ("models", "guides", "samplers", "tables", "figures"):
        for name in AWKWARD if kind == "models" else ("a b",):
            named = {**CONTENT.get(kind, {}), name: own.get(kind, [])}
            complaint = f"{kind[:-1]} .*: a name begins with a letter"
            with pytest.raises(UserError, match=complaint) as refused:
                parse(GridFile, CONTENT | {kind: named}, "mine.yaml")
            assert "\n" not in str(refused.value)


def test_an_unknown_grid_is_refused_with_those_that_are_there(configs):
    (configs / "grid" / "mine.yaml").touch()
    known = ", ".join(config_names("grid"))
    assert {"demo", "mine"} < set(known.split(", "))
    with pytest.raises(UserError, match=rf"other\.yaml: no such grid; there are: {known}"):
        load_grid("other")
    with pytest.raises(UserError, match=r"configs/grid/.*: grid .*: a name begins with a letter"):
        load_grid("../grid/demo")


GUIDED = {"budget": "sampler.steps", "overrides": ["guidance@sampler.guidance=classifier"]}
PLAIN = {"budget": "sampler.steps", "overrides": ["sampler=em"]}
FREE = {"budget": "sampler.steps", "overrides": ["guidance@sampler.guidance=classifier-free"]}


@pytest.mark.parametrize(
    ("sampler", "process", "complaint"),
    [
        (GUIDED | {"guide": "other"}, "psld", "samplers.em.guide: no guide 'other'"),
        (GUIDED | {"guide": "guide"}, "cld", "trained with a different process"),
        (FREE, "psld", "class-conditional model"),
        (PLAIN | {"guide": "guide"}, "psld", "samplers.em.guide: the sampler uses no guide; add"),
    ],
)
def test_a_guided_sampler_needs_what_guides_it(configs, sampler, process, complaint):
    guides = {"guides": {"guide": ["dataset=digits", f"process={process}"]}}
    refusal(configs, changed("samplers/em", sampler) | guides, complaint)


def test_a_model_with_the_name_of_a_seed_is_refused(configs):
    content = changed("models/psld-seed1", ["process=psld"]) | {"seeds": {"training": [0, 1]}}
    refusal(configs, content, "seeds.training: two models are called psld-seed1")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("reference_split: test", "mine.yaml: name is fd-classifier; set name: fd-class"),
        (
            "name: fd-classifier-mine\nfeatures: fd-classifier\nextractor: {seed: 7}",
            "mine.yaml: features: fd-classifier has a different extractor; set features: fd-class",
        ),
        ("name: fd-classifier-mine\nfeatures: nothing", "metric=nothing: no such metric"),
    ],
)
def test_a_metric_has_a_name_and_features_of_its_own(configs, text, complaint):
    """The reference is made with the config that `features` names."""
    (configs / "metric").mkdir()
    copied = f"defaults: [fd-classifier, _self_]\n{text}\n"
    (configs / "metric/fd-classifier-mine.yaml").write_text(copied)
    refusal(configs, changed("metric", "fd-classifier-mine"), complaint)


def test_a_metric_of_test_images_needs_some(configs):
    mine = {"name": "mine", "channels": 1, "image_size": 8, "num_classes": 10, "flip": False}
    content = changed("models/psld", ["dataset=mine"]) | {"metric": "memorization-pixels"}
    (configs / "dataset").mkdir(exist_ok=True)
    for kind, key in (("folder", "root"), ("array", "path")):
        dataset = mine | {"filter": None, "source": {"kind": kind, key: "x"}}
        (configs / "dataset/mine.yaml").write_text(yaml.safe_dump(dataset))
        refusal(configs, content, "cell psld/em-10: memorization-pixels compares with test images")
    dataset["source"]["test_fraction"] = 0.1
    (configs / "dataset/mine.yaml").write_text(yaml.safe_dump(dataset))
    load_grid("mine")
