"""Templates in a grid file: one entry with a {placeholder} in its name stands for many.

    lists:  {gamma: [0, 0.02, 0.25], steps: [10, 40]}
    models: {"psld-{gamma}": [process=psld, "process.gamma={gamma}"]}        # three models
    tables:
      friction:
        headings: [Γ]
        cell: {sampler: em, model: "psld-{gamma}"}
        columns: [{label: "{steps}", budget: "{steps}"}]                     # two columns
        rows: [{label: ["{gamma}"]}]                                         # three rows

The names are the keys of models, guides, samplers, figures and tables, and the labels of rows and
columns. A placeholder in a name takes all values of its list (several take all combinations), and
has the same value in the rest of the entry. A row and a column pass their values on to their cell.
"""

import re
from collections.abc import Iterator
from itertools import product
from typing import Any

from psld.utils.errors import UserError

NAMED = ("models", "guides", "samplers", "figures", "tables")

PLACEHOLDER = re.compile(r"\{(\w+)\}")


def fill(content: Any, values: dict[str, str]) -> Any:
    """Return the content with the placeholders that have a value replaced, in keys and texts."""
    match content:
        case str():
            return PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), content)
        case dict():
            return {fill(key, values): fill(value, values) for key, value in content.items()}
        case list():
            return [fill(value, values) for value in content]
    return content


def expand_templates(content: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the content of a grid file without its lists and with every template written out.

    Raises UserError if a name has a placeholder without a list, or if two entries get one name.
    """
    content = dict(content)
    lists = _lists(content.pop("lists", {}), where)
    for kind in NAMED:
        if isinstance(content.get(kind), dict):
            content[kind] = _expand_keys(content[kind], lists, f"{where}: {kind}")
    tables = content.get("tables")
    for name, table in tables.items() if isinstance(tables, dict) else ():
        for kind in ("columns", "rows"):
            if isinstance(table, dict) and isinstance(table.get(kind), list):
                place = f"{where}: tables.{name}.{kind}"
                table[kind] = [e for entry in table[kind] for e in _members(entry, lists, place)]
    return content


def _lists(lists: Any, where: str) -> dict[str, list[str]]:
    """Check the lists. YAML reads numbers as numbers; here a value is the text of its name."""
    if not isinstance(lists, dict):
        raise UserError(f"{where}: lists: lists of values by their names are needed")
    for name, values in lists.items():
        plain = isinstance(values, list) and all(isinstance(v, str | int | float) for v in values)
        if not plain or not values:
            raise UserError(f"{where}: lists.{name}: a list of names or numbers is needed")
    return {str(name): [str(value) for value in values] for name, values in lists.items()}


def _expand_keys(entries: dict[str, Any], lists: dict[str, list[str]], where: str) -> dict:
    expanded: dict[str, Any] = {}
    for key, entry in entries.items():
        for values in _combinations(str(key), lists, where):
            name = fill(key, values)
            if name in expanded:
                raise UserError(f"{where}: two are called {name}")
            expanded[name] = fill(entry, values)
    return expanded


def _members(entry: Any, lists: dict[str, list[str]], where: str) -> Iterator[Any]:
    """Yield the rows or columns of a template; they carry their values as `fields`."""
    if not isinstance(entry, dict) or not isinstance(entry.get("fields", {}), dict):
        yield entry  # the schema refuses it, and says why
        return
    fixed = {name: str(value) for name, value in entry.get("fields", {}).items()}
    label = fill(entry.get("label"), fixed)
    for values in _combinations(str(label), lists, where):
        fields = fixed | values
        yield fill(entry, fields) | ({"fields": fields} if fields else {})


def _combinations(name: str, lists: dict[str, list[str]], where: str) -> Iterator[dict[str, str]]:
    """Yield all combinations of values of a name's placeholders, the last changing fastest."""
    placeholders = list(dict.fromkeys(PLACEHOLDER.findall(name)))
    for placeholder in placeholders:
        if placeholder not in lists:
            known = ", ".join(lists) or "none"
            raise UserError(f"{where}: {name}: no list {placeholder!r}; there are: {known}")
    for values in product(*(lists[placeholder] for placeholder in placeholders)):
        yield dict(zip(placeholders, values, strict=True))
