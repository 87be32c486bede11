"""Checks that the settings of every part must pass."""

import json
from pathlib import Path
from typing import Any

import pytest

from psld.config.kinds import SHIPPED
from psld.config.parts import Part, imported
from psld.config.settings import parse, reading_a_file
from psld.utils.errors import UserError
from tests.parts.own import moved


def check_settings(noun: type[Part], content: str | dict[str, Any]) -> Part:
    """Check that a part is unchanged when it is read, written and read again, in any order of its
    keys, and that a wrong key is named. A custom part is also read as data, without its class.
    Return the part."""
    content = {noun.KEY: content} if isinstance(content, str) else content
    part, kind = noun.model_validate(content), content[noun.KEY]
    written = json.loads(json.dumps(part.model_dump(mode="json")))
    assert imported(noun.model_validate(written)) == part
    assert noun.model_validate(dict(reversed(content.items()))).identity() == part.identity()
    assert part.identity()[noun.KEY] == kind
    assert ("code" in part.identity()) == (":" in kind)
    with reading_a_file():
        data = noun.model_validate(written)
    assert data.is_data == (":" in kind)
    assert data.identity() == part.identity()
    assert json.loads(data.model_dump_json()) == written
    for name in noun.recorded_attributes:
        there, known = getattr(data, name), getattr(part, name)
        assert there == known or sorted(there) == sorted(known)
    with pytest.raises(UserError, match=r"^test: unknown key nonsense"):
        parse(noun, {**content, "nonsense": 1}, "test")
    return part


def here_and_outside(folder: Path, noun: type[Part], kind: str, **options: Any) -> list[Part]:
    """Check the settings of a part. For a shipped part, also check a copy of its class outside of
    psld."""
    kinds, shipped = [kind], [*SHIPPED[noun.noun]]
    if kind in shipped:
        kinds.append(moved(folder, noun.noun)[shipped.index(kind)])
    return [check_settings(noun, {noun.KEY: each, **options}) for each in kinds]
