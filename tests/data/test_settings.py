"""The settings of datasets: accepted values, and the dependencies of a preparation."""

import pytest

from psld.config.compose import compose_content
from psld.config.locations import CONFIGS
from psld.config.settings import parse
from psld.data.settings import DatasetSettings, PrepareSettings

DIGITS = {
    "name": "digits",
    "channels": 1,
    "image_size": 8,
    "num_classes": 10,
    "flip": False,
    "filter": None,
    "source": {"kind": "digits"},
}


def folder(**source):
    return parse(
        DatasetSettings, DIGITS | {"source": {"kind": "folder", "root": "x", **source}}, "test"
    )


@pytest.mark.parametrize("path", sorted((CONFIGS / "dataset").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_is_accepted(path):
    overrides = [f"dataset={path.stem}"]
    if path.stem == "folder":
        overrides += ["dataset.name=mine", "dataset.source.root=x"]
    content = compose_content("prepare", overrides, str(path))
    settings = parse(PrepareSettings, content, str(path))
    assert path.stem in (settings.dataset.name, "folder")
    assert settings.output == f"data/{settings.dataset.name}.h5"


def test_the_preparation_does_not_depend_on_name_flips_or_downloads():
    settings = parse(DatasetSettings, DIGITS | {"source": {"kind": "cifar10"}}, "test")
    source = settings.source.model_copy(update={"download": False, "root": "elsewhere"})
    changed = {"name": "x", "flip": True, "source": source}
    assert settings.preparation() == settings.model_copy(update=changed).preparation()


def test_the_preparation_depends_on_everything_else():
    settings = folder()
    assert settings.preparation() != folder(test_fraction=0.5).preparation()
    assert settings.preparation() != folder(root="y").preparation()
    for key, value in {"channels": 3, "image_size": 4, "num_classes": 0, "filter": "box"}.items():
        assert settings.preparation() != settings.model_copy(update={key: value}).preparation()
