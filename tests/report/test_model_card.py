"""The model card: the manifest's facts, and the distances measured with exactly these weights."""

import re

import yaml

from psld.models.manifest import read_manifest
from psld.report.page import model_card
from tests.results import write_model_manifest, write_result

WEIGHTS = "1" * 64


def test_a_card_describes_the_model_and_lists_its_distances(folder, grid):
    manifest = read_manifest(write_model_manifest(folder, grid, "cld", weights_sha256=WEIGHTS))
    for cell, model in (("cld/em-20", "cld"), ("low/em-10", "cld"), ("cld/em-10", "high")):
        settings = grid.models[model].settings.model().identity()
        weights = WEIGHTS if model == "cld" else "2" * 64
        facts = {"weights_sha256": weights, "dataset_digest": None, "step": 1}
        trained = {"name": model, "settings": settings, **facts}
        write_result(folder, grid, cell, value=8.125, error=0.25, model=trained)
    card = model_card(manifest, "me/digits", "cc-by-4.0")

    header = yaml.safe_load(card.split("---")[1])
    assert (header["license"], header["library_name"]) == ("cc-by-4.0", "psld")
    assert 'psld.load("hf://me/digits")' in card
    assert not re.search("install '?psld", card), "the package is on no index"
    for fact in (
        "digits: 1×8×8, 10 classes",
        "100 steps, 1,600 images, 0.00278 h, 1 × CPU",
        WEIGHTS,
    ):
        assert fact in card
    settings = yaml.safe_load(re.search(r"```yaml\n(.*)```", card, re.DOTALL)[1])
    assert settings == manifest.settings.identity()
    rows = re.findall(r"^\| mine/(.*?) *\| (.*?) *\|", card, re.MULTILINE)
    metric = grid.file.metric
    assert rows == [("cld/em-20", metric), ("low/em-10", metric)], "not those of other weights"
    assert re.search(r" 100 \| +20 \| +8.125 \| +7.602 to 8.648 \|", card)
