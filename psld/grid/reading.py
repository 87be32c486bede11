"""Read configs/grid/NAME.yaml: templates, models of other grids, and rehearsals written out.

In a template, an entry with a {placeholder} in its name stands for many (docs/research.md has one).
The names are the keys of models, guides, samplers, labels, figures and tables, and the labels of
rows and columns. A placeholder in a name takes all values of its list (several take all
combinations), and has the same value in the rest of the entry. A row and a column pass their values
on to their cell.

Numbers are those of YAML 1.1: `1e-3` has no dot, so it is a text, and stands in names as it is
written; `1.0e-3` is a number, and stands there as 0.001.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from psld.config.locations import config_file, config_names
from psld.config.settings import Settings, parse
from psld.grid.names import PLACEHOLDER, check_name, fill
from psld.grid.schema import GridFile
from psld.utils.errors import UserError, locating


class Rehearsal(Settings):
    """A grid file that rehearses another grid: all its models and cells, but tiny."""

    rehearses: str
    models: tuple[str, ...]
    """Overrides that follow those of each model and guide."""
    budgets: dict[str, str | int | float]
    """The value for each kind of budget, in place of the one in the sampler's name."""
    metrics: dict[str, str] = Field(default_factory=dict)
    """The metric for each one that needs more samples."""
    samples: int = Field(ge=3)
    shard_size: int = Field(ge=1)
    batch_size: int = Field(ge=1)


def grid_path(name: str) -> Path:
    """Return the file of a grid. Raises UserError if there is none, or for an impossible name."""
    with locating(f"configs/grid/{name}.yaml", ValueError):
        check_name("grid", name)
    path = config_file("grid", name)
    if path is None:
        known = ", ".join(config_names("grid"))
        raise UserError(f"configs/grid/{name}.yaml: no such grid; there are: {known}")
    return path


def read_grid_file(path: Path) -> GridFile:
    """Read a grid file; a rehearsal is written out."""
    content = _content(path)
    if "rehearses" in content:
        rehearsal = parse(Rehearsal, content, where=str(path))
        rehearsed = grid_path(rehearsal.rehearses)
        whole = _with_models_of_others(_content(rehearsed), rehearsed)
        whole = parse(GridFile, whole, where=str(rehearsed))
        content = _rehearsal_content(path.stem, rehearsal, whole)
    return parse(GridFile, _with_models_of_others(content, path), where=str(path))


def _with_models_of_others(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Fill in the overrides and checkpoints of models that another grid trains."""
    if not isinstance(content.get("models"), dict):
        return content
    models, files = dict(content["models"]), {}
    for name, entry in models.items():
        if isinstance(entry, dict) and entry.get("of"):
            other, where = grid_path(entry["of"]), f"{path}: models.{name}"
            if len(entry) > 1:
                raise UserError(
                    f"{where}: the model of {other} is taken as it is; for another one, give all "
                    "overrides and no `of`"
                )
            if other not in files:
                files[other] = parse(GridFile, _content(other), where=str(other))
            file = files[other]
            trained = file.trainings.get(name)
            if trained is None or trained.of:
                raise UserError(f"{where}: {other} trains no model of this name")
            if trained.weights:
                raise UserError(
                    f"{where}: {other} trains it as {trained.weights}; take that one, and give "
                    f"{name} its weights (weights: {trained.weights}) and a process"
                )
            whole = {"overrides": file.overrides(name), "checkpoint": trained.checkpoint}
            models[name] = entry | whole
    return content | {"models": models}


def _content(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text("utf-8"), _Loader)
        if not isinstance(content, dict):
            raise UserError(f"{path}: not a grid: settings by their names are needed")
        return expand_templates(content, str(path))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = mark and f"line {mark.line + 1}, column {mark.column + 1}"
        raise UserError(f"{path}: not valid YAML ({place}: {error.problem})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None


class _Loader(yaml.CSafeLoader):
    """Refuses a key that is there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # Before the keys of `<<` are added, which the mapping's own keys replace.
        lines: dict[str, int] = {}
        for key in [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]:
            if key.value in lines:
                problem = f"{key.value} is also a key in line {lines[key.value]}"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def _rehearsal_content(name: str, rehearsal: Rehearsal, file: GridFile) -> dict[str, Any]:
    """Return the content of a full grid file for a rehearsal.

    The names of tables and figures begin with its own: those of all grids are targets. Nothing is
    imported, because no official checkpoint fits the small networks.
    """
    content = file.model_dump(mode="json") | {
        "title": f"Rehearsal of: {file.title}",
        "question": "Do all steps work? The networks are tiny: the numbers mean nothing.",
        "samples": rehearsal.samples,
        "shard_size": rehearsal.shard_size,
        "batch_size": rehearsal.batch_size,
        "metric": rehearsal.metrics.get(file.metric, file.metric),
        "claims": [],
    }
    for trained in (*content["models"].values(), *content["guides"].values()):
        if trained.get("average_of"):
            continue  # of the small network
        words = trained["overrides"]
        if trained["of"]:  # The grid has no model from which it starts.
            words = [word for word in words if not word.startswith("init.")]
        trained |= {"overrides": [*words, *rehearsal.models]}
        trained |= {"checkpoint": None, "of": None}
    for sampler in content["samplers"].values():
        sampler["spends"] = rehearsal.budgets.get(sampler["budget"])
    for table in content["tables"].values():
        table |= {"title": f"Rehearsal of: {table['title']}", "band": None, "compare": []}
        for entry in (table["cell"], *table["rows"], *table["columns"]):
            entry["samples"] = None
            entry["metric"] = rehearsal.metrics.get(entry["metric"], entry["metric"])
    for kind in ("tables", "figures"):
        content[kind] = {f"{name}-{key}": entry for key, entry in content[kind].items()}
    return content


# -- templates ------------------------------------------------------------------------------------

NAMED = ("models", "guides", "samplers", "labels", "figures", "tables")


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
    """Check the lists, and return their values as texts: YAML reads numbers as numbers."""
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
    label = str(fill(entry.get("label"), fixed))
    for values in _combinations(label, lists, where):
        fields = fixed | values
        yield fill(entry, fields) | {"fields": fields}


def _combinations(name: str, lists: dict[str, list[str]], where: str) -> Iterator[dict[str, str]]:
    """Yield all combinations of values of a name's placeholders, the last changing fastest."""
    placeholders = list(dict.fromkeys(PLACEHOLDER.findall(name)))
    for placeholder in placeholders:
        if placeholder not in lists:
            known = ", ".join(lists) or "none"
            raise UserError(f"{where}: {name}: no list {placeholder!r}; there are: {known}")
    chosen = [lists[placeholder] for placeholder in placeholders]
    for values in product(*chosen):
        yield dict(zip(placeholders, values, strict=True))
