"""A copy of the project's code with a tiny grid, for real runs of Snakemake."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
COPIED = ("Snakefile", "workflow", "configs", "envs", "profiles", "psld")

GRID = "configs/grid/tiny.yaml"
"""The only grid of the copied project."""

RULES = (
    *("prepare", "train_extractor", "reference", "train", "train_guide", "import_model"),
    *("import_guide", "start", "sample", "evaluate", "tabulate", "figure", "page", "certify"),
)
"""The rules that write files."""

IN_TURN = """
import pathlib, shlex, sys
from psld.commands.main import main
from psld.models import build as model
model.seconds_per_image = lambda settings: 0
for line in sys.argv[1:]:
    sys.argv = shlex.split(line)
    main()
pathlib.Path("modules.txt").write_text(" ".join(sys.modules))
"""
"""A program that runs command lines one after the other in one process, and lists its imports.

Trainings do not measure their speed first, which takes two more steps.
"""

WHOLE_GRID = {
    "prepare": 1,
    "train_extractor": 1,
    "reference": 1,
    "train": 2,
    "sample": 8,
    "evaluate": 4,
    "tabulate": 2,
    "figure": 6,
    "page": 1,
    "certify": 1,
}
"""The number of jobs of each stage for the whole grid tiny.yaml.

Each of four cells has two jobs that sample two shards each. The figures are a plot, one gallery for
each model, and three comparisons.
"""


class Project:
    """A folder that contains the project."""

    timeout = 1800
    """The timeout of a Snakemake run, in seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path) -> "Project":
        """Copy the code of the repository and the configs of the tests, with their grid only."""
        folder.mkdir()
        for name in COPIED:
            source, target = REPOSITORY / name, folder / name
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True)  # compiled modules included
            else:
                shutil.copy(source, target)
        for grid in (folder / "configs" / "grid").iterdir():
            grid.unlink()
        own = Path(__file__).parent / "configs"
        shutil.copytree(own, folder / "configs", dirs_exist_ok=True)
        return cls(folder)

    @classmethod
    def create_with_grids(cls, folder: Path) -> "Project":
        """Copy the code of the repository, the configs of the tests, and the shipped grids."""
        project = cls.create(folder)
        shutil.copytree(REPOSITORY / "configs", folder / "configs", dirs_exist_ok=True)
        return project

    @classmethod
    def link(cls, folder: Path, resolved: Path) -> "Project":
        """Link the code of the repository and the cache of resolved grids in `resolved`."""
        folder.mkdir()
        for name in (*COPIED, ".cache"):
            source = resolved if name == ".cache" else REPOSITORY
            if name != "configs":
                (folder / name).symlink_to(source / name)
        return cls(folder)

    def copy(self, folder: Path) -> "Project":
        """Copy the project with all results and modification times."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder)

    def command(self, *arguments: str, profile: str = "profiles/default") -> list[str]:
        return [sys.executable, "-m", "snakemake", "--profile", profile, *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables: the Python interpreter of the tests, and the copied `psld`."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run Snakemake with any exit status. stderr is part of stdout."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=self.timeout,
        )

    def run(self, *arguments: str) -> str:
        """Run Snakemake, assert that it succeeds, and return its output."""
        done = self.snakemake(*arguments)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def run_in_one_process(self, *targets: str) -> None:
        """Create targets as `run` does, without seconds of imports for each job.

        One process runs the commands of a dry run. Snakemake then records the outputs (`--touch`).
        """
        planned = self.run("--dry-run", "--printshellcmds", *targets)
        jobs = re.findall(r"^Shell command: python -m (psld .*) > \S+ 2>&1$", planned, re.MULTILINE)
        lines = [re.sub("launch .* -- ", "", job) for job in jobs]
        commands = [sys.executable, "-c", IN_TURN, *lines]
        subprocess.run(commands, cwd=self.folder, env=self.environment, check=True)
        self.run("--touch", "--forceall", *targets)

    def plan(self, *arguments: str) -> dict[str, int]:
        """Return the number of jobs of each stage in a dry run."""
        output = self.run("--dry-run", *arguments)
        if "Nothing to be done" in output:
            return {}
        table = re.search(r"^Job stats:\n(.*?)^total ", output, re.DOTALL | re.MULTILINE)
        assert table, output
        jobs = re.findall(r"^(\S+) +(\d+)$", table[1], re.MULTILINE)
        # The other rules only name targets.
        return {rule: int(number) for rule, number in jobs if rule in RULES}

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace the only occurrence of `old` in a file."""
        path = self.folder / file
        text = path.read_text()
        assert text.count(old) == 1, f"{file} holds {old!r} {text.count(old)} times"
        path.write_text(text.replace(old, new))

    def files(self, *folders: str) -> list[Path]:
        """Return all files below these folders of the project."""
        found = (path for folder in folders for path in (self.folder / folder).rglob("*"))
        return sorted(path for path in found if path.is_file())
