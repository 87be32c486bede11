"""An installation: Installations: Python 3.14, extras, the lock file, launchers, and signatures in
editors."""

import argparse
import pydoc
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import psld
from tests.commands import call, refused, succeeded
from tests.workflow.project import REPOSITORY


def test_a_sweep_starts_where_argparse_checks_the_help_of_flags(tmp_path, monkeypatch):
    """Python 3.14 checks the help when a flag is added."""
    add = argparse._ActionsContainer.add_argument

    def check_help(parser, action):
        if action.help and "%" in action.help:
            parser._get_formatter()._expand_help(action)

    def add_and_check(container, *args, **kwargs):
        action = add(container, *args, **kwargs)
        if isinstance(container, argparse.ArgumentParser):
            container._check_help(action)
        return action

    monkeypatch.setattr(argparse.ArgumentParser, "_check_help", check_help, raising=False)
    monkeypatch.setattr(argparse._ActionsContainer, "add_argument", add_and_check)
    assert "1×8×8" in succeeded(call(tmp_path, "prepare", "--multirun", "output=x.h5")).stdout


def test_the_configs_of_studies_are_not_installed():
    """The studies are not installed, so configs that belong to a study are not installed either."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    excluded = project["tool"]["setuptools"]["exclude-package-data"]
    for file in (REPOSITORY / "configs").rglob("*.yaml"):
        content, group = file.read_text(), ".".join(file.relative_to(REPOSITORY).parts[:-1])
        patterns = excluded.get(f"psld.{group}", ())
        if not any(file.match(pattern) for pattern in patterns):
            needed = (yaml.safe_load(content) or {}).get("defaults", ())
            assert not [x for x in needed for p in patterns if Path(f"{x}.yaml").match(p)], file
            assert "kind: studies." not in content, file


@pytest.mark.parametrize(
    ("package", "extra", "words"),
    [
        ("matplotlib", "workflow", "figure figure=nfe"),
        ("wandb", "wandb", "wandb sync"),
        ("hydra_plugins", "workflow", "prepare --multirun hydra/launcher=submitit_local"),
    ],
)
@pytest.mark.filterwarnings(r"ignore:\s*'hydra/launcher/submitit_local' is validated")
def test_a_command_says_which_extra_is_missing(package, extra, words, tmp_path, monkeypatch):
    for name in list(sys.modules):  # modules that have imported it before
        if f"{name}.".startswith((f"{package}.", "psld.report.")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    said = refused(call(tmp_path, *words.split()), 2)
    assert said == f"error: {package} is not installed; pip install 'psld[{extra}]'\n"


def test_dir_and_help_show_the_public_names():
    assert set(dir(psld)) == set(psld.__all__)
    assert all(hasattr(psld, name) for name in psld.__all__)
    page = pydoc.plain(pydoc.render_doc(psld))
    # Python 3.13 breaks a long signature into lines.
    load = r"^    load\(\s*folder: [^)]*\).*\n +Load a trained model\.$"
    assert re.search(load, page, re.MULTILINE)


# -- requirements.lock

LOCK = (REPOSITORY / "requirements.lock").read_text()
PIN = r"^([a-z0-9-]+)==([^\s;]+).*\n((?:    --hash=sha256:\w{64}.*\n)+)((?:    #.*\n)+)"
PINNED = {name: (version, why) for name, version, _, why in re.findall(PIN, LOCK, re.MULTILINE)}


def test_the_lock_is_that_of_pyproject():
    """`make lock` after a change of the requirements."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    needed = [Requirement(word) for each in lists for word in each]
    needed = [requirement for requirement in needed if requirement.name != "psld"]
    ours = {name for name, (_, why) in PINNED.items() if "psld (pyproject.toml)" in why}
    assert ours == {requirement.name for requirement in needed}
    for requirement in needed:
        assert requirement.specifier.contains(PINNED[requirement.name][0]), requirement


def test_the_lock_has_hashes_and_no_address():
    assert len(PINNED) == len(re.findall(r"^[^\s#]", LOCK, re.MULTILINE)), "a pin without a hash"
    assert "://" not in LOCK
    assert not re.search(r"^--", LOCK, re.MULTILINE), "an option, such as the address of an index"
