"""What holds for the settings of every part."""

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
    """Read, written and read again it is the same, in any order of its keys; of a custom part also
    as data, without its class; a wrong key is named. Return the part."""
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
    """Check a part's settings and, of a shipped one, those of its class in a file outside."""
    kinds, shipped = [kind], [*SHIPPED[noun.noun]]
    if kind in shipped:
        kinds.append(moved(folder, noun.noun)[shipped.index(kind)])
    return [check_settings(noun, {noun.KEY: each, **options}) for each in kinds]
