"""The digests of all records of the project's grids and of their paths, stored in digests.json.

`python -m tests.grid.digests`, run in the folder of the project, rewrites the file. Rewrite it only
after an intended change of trainings, samples or evaluations, or of a table or a figure.
"""

from collections import defaultdict
from pathlib import Path

from psld.config.locations import CONFIGS
from psld.grid.cache import load_grid
from psld.grid.cells import Grid
from psld.grid.figures import all_figures
from psld.grid.rows import decisive_content
from psld.utils.files import digest_of, write_json

DIGESTS = Path(__file__).with_name("digests.json")
GRIDS = sorted(path.stem for path in (CONFIGS / "grid").glob("*.yaml"))

Digests = dict[str, dict[str, str]]
"""Digests by kind of record and name. The cells of a sampler share one digest."""


def digests_of(grid: Grid) -> Digests:
    digests: Digests = defaultdict(dict)
    numbers, shown = defaultdict(list), defaultdict(list)
    for kind in ("models", "guides"):
        digests[kind] = {name: each.digest for name, each in getattr(grid, kind).items()}
    digests["datasets"] = {name: each.job.digest for name, each in grid.datasets.items()}
    for name, features in grid.features.items():
        digests["references"][name] = features.reference_job.digest
        if features.extractor:
            digests["extractors"][name] = features.extractor_job.digest
    for family in grid.file.samplers:
        cells = {n: c for n, c in grid.cells.items() if c.sampler.family == family}
        images = {name: cell.digest for name, cell in cells.items()}
        results = {name: cell.evaluation_digest for name, cell in cells.items()}
        digests["images of sampler"][family] = digest_of(images)
        digests["results of sampler"][family] = digest_of(results)
        files = [(c.records, c.result, c.kept, c.inputs, c.references) for c in cells.values()]
        digests["files of sampler"][family] = digest_of(files)
    for name, part in decisive_content(grid).items():
        kind, _, rest = name.partition(".")
        if kind == "tables":
            numbers[rest.partition(":")[0]].append(part)
    digests["numbers of table"] = {name: digest_of(parts) for name, parts in numbers.items()}
    for figure in all_figures(grid).values():
        shown[figure.kind].append([figure.name, figure.inputs, figure.content])
    digests["figures"] = {kind: digest_of(content) for kind, content in shown.items()}
    return {kind: {n: d[:8] for n, d in each.items()} for kind, each in digests.items()}


def differences(old: Digests, new: Digests) -> list[str]:
    """Describe the records that were added, removed or changed."""
    words = []
    for kind in sorted({*old, *new}):
        before, after = old.get(kind, {}), new.get(kind, {})
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                change = "another digest" if name in before else "new"
                words.append(f"{kind} {name}: {change if name in after else 'gone'}")
    return words


if __name__ == "__main__":
    write_json(DIGESTS, {name: digests_of(load_grid(name)) for name in GRIDS})
