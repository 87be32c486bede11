"""pyproject.toml, environment.yml and envs/psld.yaml agree with the imports of the code."""

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import grimp
import yaml

from psld.commands.main import COMMANDS
from psld.utils.errors import EXTRAS
from tests.workflow.project import REPOSITORY

ENVIRONMENT = REPOSITORY / "envs/psld.yaml"
RULES = sorted((REPOSITORY / "workflow" / "rules").glob("*.smk"))

PYPI_NAMES = {
    "pytorch": "torch",
    "matplotlib-base": "matplotlib",
    "huggingface_hub": "huggingface-hub",
}
"""Packages with different names on conda-forge and PyPI."""

DISTRIBUTIONS = packages_distributions()

COMES_WITH = {
    "omegaconf": "hydra-core",
    "pydantic-core": "pydantic",
    "snakemake-interface-common": "snakemake",
    "snakemake-interface-executor-plugins": "snakemake",
}
"""Imported packages that are installed as a dependency of another package."""


OPTIONAL = EXTRAS["datasets"] | EXTRAS["hub"] | {"submitit"}
"""Packages that are imported only on request: submitit, for sweeps."""

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def split(requirement: str) -> tuple[str, frozenset[str]]:
    """Split a requirement such as `torch>=2.6,<3` into its name and its bounds."""
    name, bounds = re.fullmatch(r"([a-z0-9_-]+)((?:[<>=!].*)?)", requirement).groups()
    return PYPI_NAMES.get(name, name), frozenset(bounds.split(",")) - {""}


def pyproject() -> dict[str, frozenset[str]]:
    """Return the bounds of Python and of all packages that `make setup` installs, by name."""
    python = {"python": frozenset({PROJECT["requires-python"]})}
    return python | requirements() | requirements("workflow", "wandb", "hub", "dev")


def requirements(*extras: str) -> dict[str, frozenset[str]]:
    """Return the bounds of the packages of extras, or of the base installation, by name."""
    optional = PROJECT["optional-dependencies"]
    needed = chain(*(optional[e] for e in extras)) if extras else PROJECT["dependencies"]
    return dict(split(each) for each in needed if not each.startswith("psld["))


def conda(path: Path) -> dict[str, frozenset[str]]:
    """Return the bounds of all packages of a conda environment by PyPI name."""
    content = yaml.safe_load(path.read_text())
    assert content["channels"] == ["conda-forge", "nodefaults"]
    listed = content["dependencies"]
    plain = [entry for entry in listed if isinstance(entry, str) and entry != "pip"]
    by_pip = [name for entry in listed if isinstance(entry, dict) for name in entry["pip"]]
    assert not by_pip or "pip" in listed, f"{path}: conda asks that pip be listed"
    packages = [split(entry) for entry in plain + by_pip if entry != "--editable ."]
    assert len(dict(packages)) == len(packages), f"{path}: a package is listed twice"
    return dict(packages)


def test_environment_yml_matches_pyproject():
    assert conda(REPOSITORY / "environment.yml") == pyproject()


IMPORTS = grimp.build_graph("psld", include_external_packages=True, cache_dir=None)


def needed_by(module: str) -> set[str]:
    """Return the distributions that a module of the project imports, directly or indirectly."""
    found = IMPORTS.find_upstream_modules(module)
    packages = {name for name in found if name.partition(".")[0] != "psld"}
    return set(map(distribution_of, packages - sys.stdlib_module_names - OPTIONAL))


def distribution_of(package: str) -> str:
    """Return the distribution that installs a package, itself or as a dependency."""
    [name] = set(DISTRIBUTIONS[package])
    name = name.lower().replace("_", "-")
    return COMES_WITH.get(name, name)


def test_environment_of_the_rules_has_the_imports_of_their_commands():
    rules = [r for path in RULES for r in re.split(r"^rule ", path.read_text(), flags=re.M)[1:]]
    assert rules
    assert all('conda:\n        "../../envs/psld.yaml"' in rule for rule in rules)
    commands = {"launch"}.union(*(re.findall(r"(?:m psld|LAUNCH}) (\w+)", rule) for rule in rules))
    needed = set().union(*(needed_by(f"psld.commands.{COMMANDS[each]}") for each in commands))
    assert needed <= conda(ENVIRONMENT).keys()
    assert conda(ENVIRONMENT).items() <= conda(REPOSITORY / "environment.yml").items()


def test_pyproject_has_the_imports_of_the_code():
    ours = (name for name in IMPORTS.modules if not IMPORTS.is_module_squashed(name))
    needed = set().union(*map(needed_by, ours))
    assert needed <= set(pyproject())
    # Commands name the extra that installs a missing package.
    by_extra = {extra: set(map(distribution_of, EXTRAS[extra])) for extra in ("workflow", "wandb")}
    assert needed - set(requirements()) <= set().union(*by_extra.values())
    for extra, packages in by_extra.items():
        assert packages <= set(requirements(extra))
