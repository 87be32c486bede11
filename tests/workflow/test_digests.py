"""The rules have the digests of their inputs as input files."""

import re

from tests.workflow.project import REPOSITORY

FILES = REPOSITORY / "workflow/rules"


def test_rules_read_digests_and_pass_their_record_to_the_command():
    """Large files are `ancient`: reruns depend on the small files of their digests."""
    text = "\n".join(path.read_text() for path in sorted(FILES.glob("*.smk")))
    rules = dict(re.findall(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL))
    made = rules.keys() - {"tabulate", "figure", "page", "certify"}
    assert len(made) == 10
    for name in made:
        assert "record=lambda" in rules[name], name
        assert re.search(r"record=\{+params\.record:q\}+", rules[name]), name
        if "images=" in rules[name] and "ancient(" in rules[name] and name != "sample":
            assert "digest=" in rules[name].partition("output:")[0], name


def test_rules_depend_on_manifests_and_trainings_are_local_rules():
    """Weights are large and `ancient`; the small manifest changes with them."""
    text = "\n".join(path.read_text() for path in sorted(FILES.glob("*.smk")))
    rules = dict(re.findall(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL))
    for name in ("sample", "evaluate"):
        inputs = rules[name].partition("output:")[0]
        assert "manifest=lambda w: GRIDS.cell(w).model.manifest" in inputs
        assert "guidance=lambda w: GRIDS.cell(w).inputs" in inputs
    assert "references=" in rules["evaluate"]
    assert "extractor=" in rules["reference"].partition("output:")[0]
    assert "weights=lambda w: ancient(" in rules["sample"]
    large = re.findall(r"images=(?!\"data)(.*)", text)
    assert all("ancient(" in each for each in large), large
    for name in ("train", "train_guide"):
        assert "localrule: True" in rules[name], "its launcher submits the job"
        assert re.search(r"priority: .*100\n", rules[name]), "before the cells of other models"
    for kind, imported in (("train", False), ("import_model", True)):
        assert f'GRIDS.pattern("models", imported={imported})' in rules[kind]
    for kind, imported in (("train_guide", False), ("import_guide", True)):
        assert f'GRIDS.pattern("guides", imported={imported})' in rules[kind]
    assert "int(w.last) - int(w.first) + 1" in rules["sample"], "the last shard, too"
