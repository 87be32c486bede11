"""The Slurm requests of profiles/slurm for each rule, from a dry run without Slurm."""

import re
import shlex

import pytest
import yaml

from tests.cluster.launching import launch_settings
from tests.workflow.project import REPOSITORY, Project

TARGETS = ("imports", "figure3-cifar10")
"""A figure of the paper, and the demo with imports. Together they need all stages."""

OFFICIAL = "official's $(touch expanded); `touch expanded` ü.pth"
"""A path of a checkpoint with special characters."""

EVERYWHERE = {"slurm_partition", "runtime", "mem_mb", "cpus_per_task"}
"""The resources that all rules request."""


def read(file: str) -> dict:
    return yaml.safe_load((REPOSITORY / file).read_text())


def demo_with_imports() -> dict:
    """Return the grid of the demo with an imported model and an imported guide."""
    text = (REPOSITORY / "configs/grid/demo.yaml").read_text()
    grid = yaml.safe_load(text.replace(" demo-", " imports-"))
    for entries, name in ((grid["models"], "cld"), (grid["guides"], "psld-0.02")):
        entries[name] = {"overrides": entries[name], "checkpoint": OFFICIAL}
    return grid


@pytest.fixture(scope="module")
def planned(tmp_path_factory, resolved) -> list[str]:
    """Return the output of a dry run, split into jobs."""
    project = Project.link(tmp_path_factory.mktemp("slurm") / "project", resolved)
    (project.folder / OFFICIAL).touch()
    grids = project.folder / "configs/grid"
    grids.mkdir(parents=True)
    (grids / "imports.yaml").write_text(yaml.safe_dump(demo_with_imports()))
    profile = ("--profile", "profiles/slurm")
    return project.run("--dry-run", "--printshellcmds", *profile, *TARGETS).split("\n[")[1:]


def rules() -> list[str]:
    """Return the names of all rules that write files."""
    files = sorted((REPOSITORY / "workflow" / "rules").glob("*.smk"))
    return [r for file in files for r in re.findall(r"^rule (\w+):", file.read_text(), re.M)]


@pytest.mark.slow
def test_jobs_request_the_resources_of_the_profile(planned):
    profile = read("profiles/slurm/config.yaml")
    found = set()
    for job in planned:
        rule = re.search(r"^(?:local)?rule (\S+):$", job, re.MULTILINE)[1]
        resources = re.search(r"^ +resources: (.*)$", job, re.MULTILINE)[1]
        asked = dict(resource.split("=", 1) for resource in resources.split(", "))
        if rule in rules():
            expected = profile["default-resources"] | profile["set-resources"].get(rule, {})
            expected = {name: str(value) for name, value in expected.items()}
            assert expected.keys() >= EVERYWHERE
            assert asked.items() >= expected.items()
            found.add(rule)
    assert found == {*rules()}


@pytest.mark.slow
def test_jobs_that_a_training_waits_for_run_first(planned):
    first = {
        re.search(r"^ +output: ([^\s,]+)", job, re.MULTILINE)[1]
        for job in planned
        if re.search(r"^ +priority: 200$", job, re.MULTILINE)
    }
    denoiser, samples = "imports/denoiser-psld", {each for each in first if "/few-ode-10/" in each}
    assert len(samples) == 6
    assert all(f"samples/{denoiser}/" in each for each in samples)
    starts = {each for each in first if each.startswith("starts/")}
    assert first == {f"models/{denoiser}/weights.safetensors", *samples, *starts}


@pytest.mark.slow
def test_launcher_parses_its_command_line(planned):
    """Checkpoints may have any name."""
    launches = [c for job in planned for c in re.findall(r"psld launch (.*?) > logs", job)]
    assert len(launches) > 5
    asked = read("profiles/slurm/config.yaml")["set-resources"]["train"]
    for launch in launches:
        where, _, command = launch.partition(" -- ")
        settings = launch_settings(*shlex.split(where), command=shlex.split(command))
        assert settings.command[0] in ("train", "train_guide")
        assert settings.model_dump().items() >= asked.items()
        assert settings.ranks_of_slurm_node == int(asked["gres"].split(":")[-1])
        assert settings.slurm_account is None
    imports = [words for job in planned for words in re.findall(r"python -m psld import_.*", job)]
    assert len(imports) == 2
    for command in imports:
        assert shlex.split(command)[4] == OFFICIAL


def test_shell_commands_quote_their_arguments():
    """Otherwise a shell would run parts of names such as OFFICIAL."""
    files = sorted((REPOSITORY / "workflow" / "rules").glob("*.smk"))
    shells = re.findall(
        r"^    shell:\n((?: {8}.*\n)+)", "".join(f.read_text() for f in files), re.M
    )
    assert len(shells) == len(rules())
    for shell in shells:
        given = re.findall(r"\{+([a-z][^{}]*)\}+", shell)
        assert len(given) >= 2, "what the job is, and its log"
        assert [name for name in given if not name.endswith(":q")] == []
