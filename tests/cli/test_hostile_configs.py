"""Grids and configs of strangers in a sweep: they must not set Hydra's own settings, because Hydra
calls the objects that these settings name."""

from pathlib import Path

import pytest
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from psld.config.locations import CONFIGS
from tests.commands import TINY, call, refused, succeeded
from tests.grid.mine import changed

HUB = "{_target_: torch.hub.load, repo_or_dir: evil, model: x, source: local}"
"""Runs code of a folder; Hydra does not refuse to call it."""

GLOBAL = "# @package _global_\n"
COMMON = (CONFIGS / "command_line.yaml").read_text()
CONFIGS_OF_OTHERS = {
    "a key": {"process/nice": f"{GLOBAL}hydra: {{callbacks: {{x: {HUB}}}}}"},
    "its package": {"process/nice": f"# @package hydra\ncallbacks: {{x: {HUB}}}"},
    "a place": {
        "process/nice": "defaults: [psld, /other@_global_.hydra.callbacks.x: nice]",
        "other/nice": HUB,
    },
    "a group": {
        "process/nice": f"{GLOBAL}defaults: [override /hydra/callbacks: nice]",
        "hydra/callbacks/nice": f"x: {HUB}",
    },
    "the usual launcher": {
        "process/nice": "defaults: [psld]",
        "hydra/launcher/basic": "_target_: evil.x",
    },
    "all commands": {
        "process/nice": "defaults: [psld]",
        "command_line": COMMON.replace("  callbacks:\n", f"  callbacks:\n    x: {HUB}\n"),
    },
}


@pytest.fixture
def folder(tmp_path, digits) -> Path:
    """A folder with a prepared dataset and a stranger's code."""
    for path in digits.parent.glob("digits.*"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil/hubconf.py").write_text("import os; os.mkdir('PWNED')\ndef x(): pass\n")
    return tmp_path


def swept(folder: Path, configs: dict[str, str], *words: str) -> str:
    """Return the error line of a sweep with these configs, and assert that no code has run."""
    for name, text in configs.items():
        path = folder / "configs" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    words = (*TINY, "data=digits.h5", "name=a,b", "training.steps=1", *words)
    finished = call(folder, "train", "--multirun", *words)
    assert not (folder / "PWNED").exists()
    return refused(finished, 2, "sets Hydra's own")


def test_a_grid_runs_no_code(folder):
    words = ["process=psld", f"+hydra.callbacks.x={HUB}"]
    grid = yaml.safe_dump(changed("models/psld", words))
    line = swept(folder, {"grid/mine": grid}, "model=mine/psld")
    assert "configs/grid/mine.yaml: models.psld.overrides.1: +hydra.callbacks.x=" in line


@pytest.mark.parametrize("name", CONFIGS_OF_OTHERS)
def test_a_config_runs_no_code(folder, name):
    configs = CONFIGS_OF_OTHERS[name]
    assert f"configs/{[*configs][-1]}.yaml: sets" in swept(folder, configs, "process=nice")


def test_a_copy_of_the_config_of_all_commands_overrides_the_shipped_config(folder):
    (folder / "configs").mkdir()
    (folder / "configs/command_line.yaml").write_text(COMMON)
    succeeded(call(folder, "prepare", "--multirun", "dataset=digits", "output=again.h5"))


@pytest.mark.parametrize(
    ("config", "word", "complaint"),
    [
        ("gamma: ${oc.env:SECRET}", "runs=x", "${oc.env:SECRET} would copy"),
        ("gamma: ${oc.decode:${oc.env:SECRET}}", "runs=x", "write the value (process.gamma)"),
        ("gamma: ${runs}", "runs=${oc.env:SECRET}", "write the value (process.gamma)"),
        ("gamma: ${hydra:runtime.cwd}", "runs=x", "write the value (process.gamma)"),
        ("gamma: ${hydra:job.env_set.SECRET}", "runs=x", "write the value (process.gamma)"),
        ("gamma: 0", "process.gamma=${oc.env:SECRET,0}", "write the value (process.gamma)"),
        ("gamma: 0", "averages.a.decay=${oc.env:SECRET}", "write the value (averages.a.decay)"),
        ("defaults: [{optional mask: '${oc.env:SECRET}'}]", "runs=x", "cannot choose a config"),
    ],
)
@pytest.mark.parametrize("flags", [(), ("--multirun",)])
def test_no_secret_reaches_a_record(folder, monkeypatch, flags, config, word, complaint):
    monkeypatch.setenv("SECRET", "0.125")
    (folder / "configs/process").mkdir(parents=True)
    (folder / "configs/process/nice.yaml").write_text(f"kind: psld\n{config}\n")
    words = (*TINY, "data=digits.h5", "training.steps=1", "process=nice", word)
    finished = call(folder, "train", *flags, *words)
    assert finished.returncode == 2
    assert complaint in finished.stderr.splitlines()[0]
    assert not (folder / "models").exists()


@pytest.mark.parametrize("flags", [(), ("--multirun",)])
def test_unrecorded_settings_may_come_from_the_environment(folder, monkeypatch, flags):
    monkeypatch.setenv("FOLDER", str(folder))
    words = "training.steps=1", "name=${hydra:runtime.choices.process}"
    places = "data=${oc.env:FOLDER}/digits.h5", "runs=${oc.env:FOLDER}/elsewhere"
    succeeded(call(folder, "train", *flags, *TINY, *words, *places))
    assert (folder / "models/by-hand/psld/manifest.json").exists()
    assert (folder / "elsewhere").exists()


def test_composition_after_a_sweep_agrees_with_hydra():
    assert ConfigLoaderImpl._load_single_config.__module__ == ConfigLoaderImpl.__module__
