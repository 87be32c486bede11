"""Commands import slow modules only when they need them, because each import takes 0.1 to 1.5 s."""

import re
import sys

from psld.commands.main import COMMANDS
from tests.commands import run, succeeded

SLOW = {
    *("torch", "torchvision", "torch_fidelity", "sklearn", "pandas", "scipy", "matplotlib"),
    *("wandb", "submitit", "snakemake", "numpy", "h5py", "PIL", "hydra", "omegaconf"),
}

RUN = f"""
import sys
from psld.commands.main import main
for line in sys.argv[1:]:
    sys.argv = ["psld", *line.split()]
    main()
    print("imported:", *sorted({SLOW!r} & set(sys.modules)))
"""
"""Run command lines one after the other in one process; imported modules stay imported."""

NEEDED: dict[str, set[str]] = {
    "plan list=figures": set(),
    "page grid_name=demo output=page.html": {"PIL"},
    "prepare dataset=demo/digits output=digits.h5": {"numpy", "h5py", "PIL"},
}


def test_a_command_imports_only_what_it_needs(tmp_path, resolved):
    (tmp_path / ".cache").symlink_to(resolved / ".cache")
    shown = succeeded(run(tmp_path, [sys.executable, "-c", RUN, *NEEDED])).stdout
    imported = [set(line.split()) for line in re.findall(r"^imported:(.*)$", shown, re.MULTILINE)]
    for (line, needed), found in zip(NEEDED.items(), imported, strict=True):
        assert found <= needed, line
    assert "numpy" in imported[-1], "it is noticed"


def test_the_help_of_every_command_does_without_torch(tmp_path):
    lines = [f"{name} --help" for name in COMMANDS]
    shown = succeeded(run(tmp_path, [sys.executable, "-c", RUN, *lines])).stdout
    imported = re.findall(r"^imported:(.*)$", shown, re.MULTILINE)
    assert len(imported) == len(COMMANDS)
    assert "torch" not in imported[-1]


def test_the_files_of_all_grids_are_read_without_hydra(tmp_path):
    """Each process of Snakemake reads all grids, also in each job."""
    read = "from psld.grid.workflow import Workflow as w; print(not w.load().broken)"
    code = f"import sys; {read}; print({SLOW!r} & set(sys.modules))"
    assert succeeded(run(tmp_path, [sys.executable, "-c", code])).stdout == "True\nset()\n"


WITHOUT_TORCH = """
    psld.config psld.grid psld.cluster psld.data.settings psld.data.sources psld.diffusion.settings
    psld.diffusion.samplers psld.diffusion.guidance psld.networks.settings psld.training.settings
    psld.sampling.settings psld.sampling.distilled psld.evaluation.settings psld.metrics.settings
    psld.paper.parts
"""
"""The packages (with all their modules) and modules that Snakemake's processes and launchers
import.
"""


def test_snakemake_and_launchers_do_not_import_torch(tmp_path):
    code = f"""
import sys
from importlib import import_module
from pkgutil import iter_modules
for name in {WITHOUT_TORCH.split()!r}:
    module = import_module(name)
    for each in iter_modules(getattr(module, "__path__", []), name + "."):
        import_module(each.name)
print("torch" in sys.modules)
"""
    assert succeeded(run(tmp_path, [sys.executable, "-c", code])).stdout == "False\n"
