"""Follow the pages of docs/: write their files and run their commands, in order.

The commands in the docstrings of docs/examples/ are run, too.

A fence has one of these types; any other type on a page that is listed here is an error.

    sh                  commands, run in a copy of the project, fence by fence
    yaml, python        a file, if the first line is a comment with its path; otherwise an excerpt
    diff                changes of the file that the first line names, without the comments in it
    text                what a command prints, or a sketch
"""

import ast
import re
import shutil
import subprocess
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.data.formats import encode, random_images, write_files, write_shards
from tests.workflow.project import REPOSITORY, Project


def flowers(folder: Path) -> None:
    """Write the reader's pictures: two classes, gray and in color, in several sizes."""
    for kind in ("daisy", "tulip"):
        shapes = [(20, 30, 3), (40, 24, 3), (17, 17)] * 4
        pictures = {f"{i}.png": encode(random_images(*s, seed=i)) for i, s in enumerate(shapes)}
        write_files(folder / "downloads" / "flowers" / kind, pictures)


MINE_AND_THEIRS = {"mine": 40, "theirs": 60}


def folders(folder: Path, sizes: Mapping[str, int] = MINE_AND_THEIRS) -> None:
    """For each name in `sizes`, write a folder with this number of 8×8 pictures."""
    for seed, (name, count) in enumerate(sizes.items()):
        pictures = random_images(count, 8, 8, seed=seed)
        write_files(folder / name, {f"{i}.png": encode(each) for i, each in enumerate(pictures)})


def results(folder: Path) -> None:
    """Run the tiny grid of the tests under the name demo."""
    (folder / "configs/grid/tiny.yaml").rename(folder / "configs/grid/demo.yaml")
    Project(folder).run_in_one_process("demo")


@dataclass(frozen=True)
class Page:
    name: str
    given: Callable[[Path], None] = lambda folder: None
    """Prepares the files that the reader has at the beginning of the page."""
    grids: tuple[str, ...] = ("demo",)
    """The grids that the page uses. Other grids are left out, because parsing them takes seconds.
    """
    then: str | None = None
    """A page that continues in the same folder."""


PAGES = [
    Page("docs/cluster.md", grids=("demo", "paper")),
    Page("docs/extending.md"),
    Page("docs/measure.md", folders, grids=()),
    Page("docs/research.md", flowers, grids=()),
    Page("docs/results.md", results, grids=(), then="docs/certificates.md"),
    Page("docs/usage.md", flowers, grids=()),
]


EXAMPLES = sorted((REPOSITORY / "docs" / "examples").glob("*.*"))

MODEL_OF_EXAMPLES = "psld train process=psld training.steps=3 output=models/demo/psld-0.02"
"""These commands replace `make demo`."""
DENOISER_OF_README = (
    "psld train dataset=digits network=demo training=demo training.objective=denoiser "
    "output=models/demo/denoiser-psld"
)

INSTEAD = {
    # These need a cluster or GPUs.
    r"(snakemake .*profiles/slurm.*)": r"\1 --dry-run",
    r"(snakemake .*(?<!cores) (all|rehearsal|table\d)\b.*)": r"\1 --dry-run",
    r"psld train --multirun (hydra/launcher=submitit_slurm( hydra\S+)+) .*": (
        r"python -c 'import hydra, psld.config.compose as own; "
        r'hydra.initialize_config_dir(str(own.CONFIGS), version_base="1.3"); '
        r"""hydra.compose("train", "\1".split())' """
    ),
    r"(s(batch|run|cancel|queue|info|acct)|tmux)\b.*": ":",
    # These download Inception, take minutes, or need a trained model.
    r"(snakemake .* (mine(/\S+)?|study))": r"\1 --dry-run",
    r"psld sample model=models/mine/.*": ":",
    r"psld tabulate grid_name=(mine|study)": ":",
    # They need an account.
    r"(wandb login|(make|psld wandb) (sync|dashboard))\b.*": ":",
    r"(rm -r|torchrun) .*": ":",
    r"cp -r ~/photos pictures": "cp -r ../downloads/flowers pictures",
    r"(git clone|make demo\b|make setup|module load|source .venv/bin/activate).*": ":",  # set up
    r"psld prepare (.*)root=/path/to/images": r"psld prepare \1root=downloads/flowers",
    r"(psld train .*training=cifar10-ablation.*)": r"\1 --cfg job",
    r"psld evaluate images=generated reference=real image_size=32": ":",
    r"python -c 'import psld; psld.load_extractor.*": ":",  # downloads Inception
}
"""Patterns of commands that cannot run here, and their replacements; `:` does nothing."""

SHRUNK = {
    "network/demo": {"base_channels": 8, "channel_multipliers": [1, 2]},
    "training/demo": {"steps": 3, "batch_size": 8, "warmup_steps": 2, "preview_every": None},
    "metric/fd-classifier": {"extractor": {"steps": 5}},
    "sample": {"shard_size": 60},
}
"""Settings that are smaller in the tests than for the reader."""
FEWER = {r"(training\.steps=)\d+": r"\g<1>3", r"(sampler\.steps=)\d\d+": r"\g<1>5"}
"""Overrides that are smaller in the tests than for the reader."""

COMMAND = re.compile(r"^(\$|python -m|psld|snakemake|make) ", re.MULTILINE)


@dataclass(frozen=True)
class Fence:
    language: str
    text: str

    @property
    def path(self) -> str | None:
        """The path of the file, if the first line names one."""
        named = re.match(r"# ([\w./-]+\.\w+)\n", self.text)
        return named[1] if named and self.language in ("yaml", "python") else None

    @property
    def script(self) -> str:
        """The commands, with replacements for the commands that cannot run here."""
        return "\n".join(runs_instead(line) for line in self.text.replace("\\\n", " ").splitlines())


def fences_of(text: str) -> list[Fence]:
    """Return all fences of a page. Fails if a fence would not be tested."""
    fences = [Fence(*found) for found in re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.S | re.M)]
    assert text.count("```") == 2 * len(fences), "a fence begins and ends at the start of a line"
    for fence in fences:
        assert fence.language in ("sh", "yaml", "python", "diff", "text"), fence
        is_output = fence.language == "text"
        assert not (is_output and COMMAND.search(fence.text)), f"commands are sh:\n{fence.text}"
    return fences


def runs_instead(line: str) -> str:
    for pattern, fewer in FEWER.items():
        line = re.sub(pattern, fewer, line)
    command = re.sub(r"\s+#.*", "", line)
    for pattern, instead in INSTEAD.items():
        if re.fullmatch(pattern, command):
            return re.sub(pattern, instead, command)
    return line


class Reader:
    """Follows a page in a copy of the project."""

    def __init__(self, folder: Path, grids: tuple[str, ...] = ()) -> None:
        self.project = Project.create(folder)
        self.folder = self.place = folder
        shutil.copy(REPOSITORY / "Makefile", folder)
        for grid in grids:
            shutil.copy(REPOSITORY / f"configs/grid/{grid}.yaml", folder / "configs" / "grid")
        for name, smaller in SHRUNK.items():
            path = folder / "configs" / f"{name}.yaml"
            OmegaConf.save(OmegaConf.merge(OmegaConf.load(path), smaller), path)

    def follow(self, fence: Fence) -> None:
        path = self.place / fence.path if fence.path else None
        if fence.language == "sh":
            self.run(fence.script)
        elif fence.language == "diff":
            self.apply(fence.text)
        elif path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(fence.text)

    def apply(self, diff: str) -> None:
        """Change a file as a diff says, line by line; the rest of a line, a comment, is ignored."""
        head, *changes = diff.splitlines()
        path = self.place / head.removeprefix("--- ")
        after, before = path.read_text().splitlines(), []
        for sign, line in ((change[0], change[1:]) for change in changes):
            if sign == "+":
                before.append(line)
                continue
            while not after[0].startswith(line):
                before.append(after.pop(0))
            found = after.pop(0)
            before += [found] if sign == " " else []
        path.write_text("\n".join([*before, *after, ""]))

    def run(self, script: str) -> str:
        """Run the commands in the folder where the last commands ended; each must succeed."""
        done = subprocess.run(
            ["bash", "-eux", "-o", "pipefail", "-c", f"{script}\npwd >{self.folder}/place"],
            cwd=self.place,
            env={**self.project.environment, "MAKEFLAGS": "INSTALLED="},  # set up already
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1800,
        )
        assert done.returncode == 0, done.stdout
        self.place = Path((self.folder / "place").read_text().strip())
        return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_fence_of_a_page_is_understood(page):
    assert any(fence.language == "sh" for fence in fences_of(text_of(page)))


@pytest.mark.slow
def test_each_block_of_the_readme_runs_after_the_demo(tmp_path):
    reader = Reader(tmp_path / "project", grids=("demo", "paper"))
    flowers(reader.folder)
    folders(reader.folder, {"generated": 40, "real": 60})
    reader.run(f"psld prepare dataset=digits\n{DENOISER_OF_README}")
    for fence in fences_of((REPOSITORY / "README.md").read_text()):
        reader.place = reader.folder
        in_python = fence.language == "python"
        reader.run(f"python - <<'END'\n{fence.text}END" if in_python else fence.script)
    assert (reader.folder / "sixteen.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_does_what_it_says(page, tmp_path):
    reader = Reader(tmp_path / "project", page.grids)
    page.given(reader.folder)
    for fence in fences_of(text_of(page)):
        reader.follow(fence)


def test_every_example_has_a_command():
    names = [path.name for path in EXAMPLES]
    assert names == [
        *("blend.py", "boards.py", "brighter.py", "churn.py", "flows.py", "losses.py"),
        *("mymetrics.py", "processes.py", "tars.py", "terrain.py", "underdamped.yaml"),
    ]
    assert all(commands_of(path) for path in EXAMPLES)


@pytest.mark.slow
def test_an_example_does_what_its_head_says(tmp_path):
    """The examples are copied into one folder: mymetrics.py reads the images of blend.py."""
    reader = Reader(tmp_path / "project")
    write_shards(reader.folder / "downloads" / "shards")
    reader.run("psld prepare dataset=digits\n" + MODEL_OF_EXAMPLES)
    for path in EXAMPLES:
        place = "configs/process" if path.suffix == ".yaml" else "."
        shutil.copy(path, reader.folder / place)
        reader.follow(Fence("sh", commands_of(path)))
    assert (reader.folder / "underdamped.png").is_file()


def commands_of(example: Path) -> str:
    """Return the indented blocks of a docstring, or of the first comment of a YAML file."""
    text = example.read_text()
    if example.suffix == ".py":
        head = ast.get_docstring(ast.parse(text)) or ""
    else:
        head = re.sub(r"^# ?", "", re.match(r"(#.*\n)+", text)[0], flags=re.MULTILINE)
    blocks = re.findall(r"(?:^ {4}.*\n)+", head, re.MULTILINE)
    return "".join(textwrap.dedent(block) for block in blocks)


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "benchmarks/README.md",
        *sorted(
            str(page.relative_to(REPOSITORY))
            for folder in ("docs", "studies")
            for page in REPOSITORY.glob(f"{folder}/**/*.md")
        ),
    ],
)
def test_links_lead_to_files_and_headings(page):
    path = REPOSITORY / page
    for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", path.read_text()):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target.read_text()), link


def anchors_of(text: str) -> set[str]:
    """Return the anchors that GitHub generates for the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def text_of(page: Page) -> str:
    names = page.name, page.then
    return "\n".join((REPOSITORY / name).read_text() for name in names if name)
