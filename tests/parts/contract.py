"""What holds for the settings of every part of a training's recipe."""

import json

import pytest

from psld.config.parts import Part
from psld.config.settings import parse
from psld.training.settings import TrainingSettings
from psld.utils.errors import UserError
from tests.training.small import recipe


def check_settings(noun: type[Part], kind: str) -> Part:
    """Read, written and read again it is the same; a wrong key is named. Returns the defaults."""
    part = noun.model_validate(kind)
    again = noun.model_validate(json.loads(json.dumps(part.model_dump(mode="json"))))
    assert again == part
    assert again.identity() == part.identity() == noun.model_validate({"kind": kind}).identity()
    assert part.identity()["kind"] == kind
    assert ("code" in part.identity()) == (":" in kind)
    wrong = recipe().model_dump() | {noun.noun: {"kind": kind, "nonsense": 1}}
    with pytest.raises(UserError, match=rf"unknown key {noun.noun}\.nonsense"):
        parse(TrainingSettings, wrong, "test")
    return part
