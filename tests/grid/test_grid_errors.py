"""Grid files that are refused, with the file and the key, in one line."""

from pathlib import Path

import pytest

from psld.config.settings import parse
from psld.grid.loading import load_grid
from psld.grid.schema import GridFile
from psld.utils.errors import UserError
from tests.grid.mine import CONTENT, changed, load


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("smaples", 3, "unknown key smaples"),
        ("samples", 2, "samples: Input should be greater than or equal to 3"),
        ("metric", "fd", "metric fd: metric=fd: no such metric; there are: .*fd-classifier,"),
        ("gallery", "em-11", "gallery: no cell has the sampler 'em-11'; there are: em-10"),
        ("models/psld", ["process=psld", "process.gama=1"], "psld: .*is process.gamma meant"),
        ("models/psld", ["process=psld", "process.gamma=-1"], "models.psld: process.gamma"),
        ("models/psld", ["process"], "models.psld: process: not a setting KEY=VALUE"),
        ("models/psld", {"of": "demo", "overrides": ["process=cld"]}, "models.psld: overrides: "),
        ("guides", {"psld": {"of": "demo"}}, "guides: psld: `of` is for models"),
        ("models/psld", ["dataset.num_classes=0"], "not prepared as configs/dataset/digits.yaml"),
        ("models/psld", ["network.channel_multipliers=[1,1,1,1,1]"], "models.psld: .*image_size"),
        ("samplers/em/budget", "sampler.stepps", "sampler em-10: no setting .* sampler.stepps"),
        ("samplers/em/overrides", ["sampler=emm"], "sampler em-10: .*conjugate, em, gddim"),
        ("tables/steps/cell", {"sampler": "em"}, r"row \('EM', 'PSLD'\): no budget for 10"),
        ("tables/steps/rows/0/model", "pdls", "names the model 'pdls'; there are: vp-sde, psld"),
        ("tables/steps/rows/0/model", "{name}", "placeholder that is not among the fields"),
        ("tables/steps/cell/sampler", "ems", "unknown sampler 'ems'; there are: em, em-quadratic"),
        ("tables/steps/rows/0/paper", [1.0], "tables.steps: row .* needs 2 paper values"),
        ("tables/steps/columns/1/label", "10", "need different names, not sampler, model, 10, 10"),
        ("tables/steps/headings", ["metric", "model"], "headings: metric is what the CSV calls"),
        ("tables/steps/rows", [], "tables.steps.rows: .* at least 1 item"),
        ("tables/steps/columns", [], "tables.steps.columns: .* at least 1 item"),
        ("tables/steps/headings", ["model"], "tables.steps: row .* needs 1 labels"),
        ("tables/tolerance/columns/0/show", "value and nfe", "tables.tolerance.columns.0.show"),
        ("tables/tolerance/rows/0/budget", "7", "rk45-7: sampler.tolerance: .* less than 1"),
        ("tables/steps/columns/0/budget", "1 0", "sampler 'em-1 0': a name begins with a letter"),
    ],
)  # fmt: skip
def test_a_wrong_grid_is_refused_in_one_line(configs, path, value, complaint):
    with pytest.raises(UserError, match=complaint) as refused:
        load(configs, changed(path, value))
    message = str(refused.value)
    assert message.startswith(f"{configs}/grid/mine.yaml: ")
    assert "\n" not in message
    assert not Path(".cache").exists()


AWKWARD = (
    *("two words", "$(id)", "`id`", "a;b", "a&b", "it's", 'a"b', "a\nb", "a\n", "a/b", "ä", ".."),
    *("-a", "a\\b", "a{b}c", "a=b", "a,b", "a+b", "*", "", "10", "1e-3", "null", "True"),
)


@pytest.mark.parametrize("kind", ["models", "guides", "samplers", "tables", "figures"])
def test_no_shell_and_no_path_gets_an_awkward_name(kind):
    table, sampler = CONTENT["tables"]["steps"], {"overrides": [], "budget": "sampler.steps"}
    own = {"figures": "psld/em-10", "tables": table, "samplers": sampler}
    for name in AWKWARD:
        named = {**CONTENT.get(kind, {}), name: own.get(kind, [])}
        refusal = f"{kind[:-1]} .*: a name begins with a letter"
        with pytest.raises(UserError, match=refusal) as refused:
            parse(GridFile, CONTENT | {kind: named}, "mine.yaml")
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("where", ["tables/steps/rows/0", "gallery"])
def test_sscs_needs_momentum(configs, where):
    """Refused for a cell of a table, and for the gallery, which shows every model."""
    content = changed("samplers/sscs", {"overrides": ["sampler=sscs"], "budget": "sampler.steps"})
    if where == "gallery":
        content["tables"]["steps"]["rows"][0]["sampler"] = "sscs"
        content["gallery"] = "sscs-10"
    else:
        content["tables"]["steps"]["rows"][0].update(sampler="sscs", model="vp-sde")
    with pytest.raises(UserError, match="vp-sde/sscs-10: sscs needs a process with momentum"):
        load(configs, content)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "models:\n  a: [\n", "a: 1\n b"])
def test_what_is_no_grid_is_refused_in_one_line(configs, text):
    (configs / "grid" / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=f"^{configs}/grid/mine.yaml: ") as refused:
        load_grid("mine")
    assert "\n" not in str(refused.value)


def test_an_unknown_grid_is_refused_with_those_that_are_there(configs):
    load(configs)
    with pytest.raises(
        UserError, match=r"other\.yaml: no such grid; there are: demo, fast, mine, paper, rehearsal"
    ):
        load_grid("other")


def test_a_classifier_s_metric_needs_labels(configs):
    content = changed("models/psld", ["process=psld", "dataset=celeba64"])
    complaint = "cell psld/em-10: fd-classifier needs labels .* dataset celeba64 has none"
    with pytest.raises(UserError, match=complaint):
        load(configs, content)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("reference_split: test", "mine.yaml: name: fd-classifier-mine, not fd-classifier"),
        (
            "name: fd-classifier-mine\nfeatures: fd-classifier\nextractor: {seed: 7}",
            "mine.yaml: features: fd-classifier has another extractor; set features: fd-class",
        ),
        ("name: fd-classifier-mine\nfeatures: nothing", "metric=nothing: no such metric"),
    ],
)
def test_a_metric_has_a_name_and_features_of_its_own(configs, text, complaint):
    """The reference is made with the config that `features` names."""
    (configs / "metric").mkdir()
    copied = f"defaults: [fd-classifier, _self_]\n{text}\n"
    (configs / "metric/fd-classifier-mine.yaml").write_text(copied)
    with pytest.raises(UserError, match=complaint):
        load(configs, changed("metric", "fd-classifier-mine"))


@pytest.mark.parametrize(
    ("figures", "complaint"),
    [
        ({"a": {"b": "vp-sde/em-10"}, "a-b": "vp-sde/em-20"}, "figures: two of them.* a-b"),
        ({"a": {}}, "figures.a: "),
        ({"a": 3}, "figures.a: "),
        (
            {"a": {"b": "vp-sde/unknown-10"}},
            "figures.a.b: 'vp-sde/unknown-10' is not MODEL/SAMPLER",
        ),
        ({"a": {"b": "unknown/em-10"}}, "figures.a.b names the model"),
        ({"a": "unknown/em-10"}, "figures.a names the model"),
    ],
)
def test_what_is_no_figure_is_refused_by_its_key(configs, figures, complaint):
    with pytest.raises(UserError, match=complaint):
        load(configs, changed("figures", figures))
