"""Read configs/grid/NAME.yaml, and expand templates, models of other grids, and rehearsals.

A template is an entry with a {placeholder} in its name; it stands for several entries
(docs/research.md has an example). Names are the keys of models, guides, samplers, labels, figures
and tables, and the labels of rows and columns. The template is expanded to one entry for each value
in the list of the placeholder. Several placeholders are expanded to all combinations of their
values. Each value replaces the placeholder in the complete entry. The values of a row or column
also replace placeholders in the cells of this row or column.

Numbers follow YAML 1.1: `1e-3` has no dot, so it is a string and appears in names as written.
`1.0e-3` is a number and appears in names as 0.001.
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
from psld.utils.errors import UserError, locating, meant


class Rehearsal(Settings):
    """A grid file that rehearses another grid: all its models and cells at a tiny size."""

    rehearses: str
    models: tuple[str, ...]
    """Overrides that are appended to the overrides of each model and guide."""
    budgets: dict[str, str | int | float]
    """The budget in the rehearsal, for each setting that serves as a budget, such as
    `sampler.steps`. This budget replaces the budget in the names of samplers."""
    metrics: dict[str, str] = Field(default_factory=dict)
    """A substitute for each metric that needs more samples than the rehearsal has."""
    samples: int = Field(ge=3)
    shard_size: int = Field(ge=1)
    batch_size: int = Field(ge=1)


def grid_path(name: str) -> Path:
    """Return the path of a grid file. Raises UserError for a missing file or an invalid name."""
    with locating(f"configs/grid/{name}.yaml", ValueError):
        check_name("grid", name)
    path = config_file("grid", name)
    if path is None:
        names = config_names("grid")
        known = f"{meant(name, names)}; there are: {', '.join(names)}"
        raise UserError(f"configs/grid/{name}.yaml: no such grid{known}")
    return path


def read_grid_file(path: Path) -> GridFile:
    """Read a grid file; a rehearsal is expanded to a full grid."""
    content = _content(path)
    if "rehearses" in content:
        rehearsal = parse(Rehearsal, content, where=str(path))
        rehearsed = grid_path(rehearsal.rehearses)
        whole = _with_shared_models(_content(rehearsed), rehearsed)
        whole = parse(GridFile, whole, where=str(rehearsed))
        content = _rehearsal_content(path.stem, rehearsal, whole)
    return parse(GridFile, _with_shared_models(content, path), where=str(path))


def _with_shared_models(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Fill in the overrides and checkpoints of models that another grid trains."""
    if not isinstance(content.get("models"), dict):
        return content
    models, files = dict(content["models"]), {}
    for name, entry in models.items():
        if isinstance(entry, dict) and entry.get("of"):
            other, where = grid_path(entry["of"]), f"{path}: models.{name}"
            if len(entry) > 1:
                raise UserError(
                    f"{where}: `of` uses the model of {other} unchanged; for a different model, "
                    "give all overrides and no `of`"
                )
            if other not in files:
                files[other] = parse(GridFile, _content(other), where=str(other))
            file = files[other]
            trained = file.trainings.get(name)
            if trained is None or trained.of:
                raise UserError(f"{where}: {other} trains no model of this name")
            if trained.weights:
                raise UserError(
                    f"{where}: in {other}, this model shares the weights of {trained.weights}; add "
                    f"{trained.weights} with `of`, and give {name} a process and "
                    f"weights: {trained.weights}"
                )
            whole = {"overrides": file.overrides(name), "checkpoint": trained.checkpoint}
            models[name] = entry | whole
    return content | {"models": models}


def _content(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text("utf-8"), _Loader)
        if not isinstance(content, dict):
            raise UserError(f"{path}: not a grid: the file must contain KEY: VALUE settings")
        return expand_templates(content, str(path))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = mark and f"line {mark.line + 1}, column {mark.column + 1}"
        raise UserError(f"{path}: not valid YAML ({place}: {error.problem})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None


class _Loader(yaml.CSafeLoader):
    """A YAML loader that raises an error for duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # Check before `<<` is merged, because a mapping may override the keys that `<<` merges.
        lines: dict[str, int] = {}
        for key in [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]:
            if key.value in lines:
                problem = f"{key.value} is already a key in line {lines[key.value]}"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def _rehearsal_content(name: str, rehearsal: Rehearsal, file: GridFile) -> dict[str, Any]:
    """Return the content of a complete grid file for a rehearsal.

    The names of tables and figures are Snakemake targets and must differ between grids, so each
    name gets the name of the rehearsal as a prefix. The rehearsal trains all models, because
    official checkpoints do not fit the small networks.
    """
    content = file.model_dump(mode="json") | {
        "title": f"Rehearsal of: {file.title}",
        "question": "Do all steps work? The networks are tiny, so the numbers mean nothing.",
        "samples": rehearsal.samples,
        "shard_size": rehearsal.shard_size,
        "batch_size": rehearsal.batch_size,
        "metric": rehearsal.metrics.get(file.metric, file.metric),
        "claims": [],
    }
    for trained in (*content["models"].values(), *content["guides"].values()):
        if trained.get("average_of"):
            continue  # The training of the small network computes this average.
        words = trained["overrides"]
        if trained["of"]:  # Omit `init`, because its model may be only in the other grid.
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
    """Return the content of a grid file without `lists` and with all templates expanded.

    Raises UserError if a placeholder has no list, or if two entries get the same name.
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
    """Return the values of all lists as strings. Raises UserError for an invalid list."""
    if not isinstance(lists, dict):
        raise UserError(f"{where}: lists: must map names to lists of values")
    for name, values in lists.items():
        plain = isinstance(values, list) and all(isinstance(v, str | int | float) for v in values)
        if not plain or not values:
            raise UserError(f"{where}: lists.{name}: must be a list of names or numbers")
    return {str(name): [str(value) for value in values] for name, values in lists.items()}


def _expand_keys(entries: dict[str, Any], lists: dict[str, list[str]], where: str) -> dict:
    expanded: dict[str, Any] = {}
    for key, entry in entries.items():
        for values in _combinations(str(key), lists, where):
            name = fill(key, values)
            if name in expanded:
                raise UserError(f"{where}: two entries are called {name}")
            expanded[name] = fill(entry, values)
    return expanded


def _members(entry: Any, lists: dict[str, list[str]], where: str) -> Iterator[Any]:
    """Yield the rows or columns of a template, with the values of its placeholders as `fields`."""
    if not isinstance(entry, dict) or not isinstance(entry.get("fields", {}), dict):
        yield entry  # The schema reports the error.
        return
    fixed = {name: str(value) for name, value in entry.get("fields", {}).items()}
    label = str(fill(entry.get("label"), fixed))
    for values in _combinations(label, lists, where):
        fields = fixed | values
        yield fill(entry, fields) | {"fields": fields}


def _combinations(name: str, lists: dict[str, list[str]], where: str) -> Iterator[dict[str, str]]:
    """Yield all combinations of values of the placeholders in a name.

    The value of the last placeholder changes fastest.
    """
    placeholders = list(dict.fromkeys(PLACEHOLDER.findall(name)))
    for placeholder in placeholders:
        if placeholder not in lists:
            known = ", ".join(lists) or "none"
            raise UserError(f"{where}: {name}: no list {placeholder!r}; there are: {known}")
    chosen = [lists[placeholder] for placeholder in placeholders]
    for values in product(*chosen):
        yield dict(zip(placeholders, values, strict=True))
