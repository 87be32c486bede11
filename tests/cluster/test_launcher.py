"""A launcher's reaction to a job's end."""

from pathlib import Path

import pytest

from psld.cluster import launcher as launching
from psld.cluster.launcher import Launcher
from psld.models.manifest import FILES
from psld.training.files import export_folder
from psld.utils.errors import RunError, UserError
from tests.cluster.commands import Commands
from tests.cluster.launching import launch_settings


@pytest.fixture
def launcher(slurm, tmp_path, monkeypatch) -> Launcher:
    monkeypatch.setattr(launching, "LATE_SECONDS", 1)
    monkeypatch.setattr(launching, "SETTLED_SECONDS", 0)
    settings, submit = launch_settings(), launching.submit

    def submit_few(*given) -> str:
        assert len(slurm.calls("sbatch")) < 6, "it submits without an end"
        return submit(*given)

    monkeypatch.setattr(launching, "submit", submit_few)
    run, output = tmp_path / "runs" / "model-1", tmp_path / "model"
    return Launcher(settings, run, output)


def ends(slurm: Commands, state: str, writes: dict[Path, str], late: bool) -> None:
    """Let every job end in this state, after its ranks have written these files. If `late`, the
    files become visible half a second later."""
    commands = [
        f"/bin/mkdir -p {path.parent}; echo '{text}' > {path}" for path, text in writes.items()
    ]
    written = "; ".join(commands)
    if late:
        written = f"(/bin/sleep 0.5; {written}) > /dev/null 2>&1 &"
    is_submitted = f"[ -e {slurm.folder}/sbatch.calls ] || exit 0"
    slurm.answer("squeue", f"42 {state} None\n", first=f"{is_submitted}\n{written}")


@pytest.mark.parametrize(
    ("state", "late"), [("COMPLETED", True), ("FAILED", False), ("CANCELLED", False)]
)
def test_a_finished_model_is_accepted_for_any_end_of_the_job(
    slurm, launcher, monkeypatch, state, late
):
    """This also holds if the files of the nodes become visible late."""
    monkeypatch.setattr(launching, "LATE_SECONDS", 60)
    ends(slurm, state, {export_folder(launcher.run) / name: name for name in FILES}, late)
    launcher.finish()
    assert len(slurm.calls("sbatch")) == 1
    assert {path.name for path in launcher.output.iterdir()} == set(FILES)


def test_a_damaged_export_is_replaced(slurm, launcher, capsys):
    """Otherwise the damaged export would replace complete weights in the output folder."""
    files = {export_folder(launcher.run) / name: name for name in FILES}
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("damaged")
    ends(slurm, "COMPLETED", files, late=False)
    launcher.finish()
    assert len(slurm.calls("sbatch")) == 1
    assert {path.read_text().strip() for path in launcher.output.iterdir()} == set(FILES)
    assert f"{export_folder(launcher.run)}: damaged; exporting it again" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("state", "progress", "jobs", "complaint"),
    [
        ("FAILED", False, 1, "job 42 ended as FAILED without saving a checkpoint"),
        ("FAILED", True, 2, "job 42 ended as FAILED without saving a checkpoint"),
        ("NODE_FAIL", False, 3, "job 42 ended as NODE_FAIL without saving a checkpoint"),
        ("NODE_FAIL", True, 4, "job 42 ended as NODE_FAIL without saving a checkpoint"),
        ("CANCELLED", False, 1, "job 42 was canceled"),
        ("OUT_OF_MEMORY", True, 1, "job 42 ran out of memory"),
        (
            "COMPLETED",
            True,
            1,
            r"job 42 ended with exit code 0, but .*model/manifest.json is missing",
        ),
    ],
)
def test_a_lost_job_is_replaced_if_it_has_made_progress(
    slurm, launcher, capsys, state, progress, jobs, complaint
):
    """The error messages of its ranks are shown."""
    texts = {"0": "fine", "1": "ValueError: nothing"}
    written = {launcher.folder / f"42_{rank}_log.err": text for rank, text in texts.items()}
    if progress:
        written[launcher.run / "step"] = "49"
    ends(slurm, state, written, late=False)
    with pytest.raises(RunError, match=complaint):
        launcher.finish()
    assert len(slurm.calls("sbatch")) == jobs
    shown = capsys.readouterr().out
    assert shown.count("ValueError: nothing") == (jobs if "checkpoint" in complaint else 0)
    assert "fine" not in shown


def test_only_the_user_may_write_to_the_folder_of_a_launch(slurm, launcher):
    """Jobs run the pickles in this folder."""
    launcher.folder.mkdir(parents=True)
    launcher.folder.chmod(0o770)
    with pytest.raises(UserError, match=r"other users may write to this folder.*chmod 700"):
        launcher.finish()
    assert slurm.calls("sbatch") == []


@pytest.mark.parametrize("afterwards", [False, True], ids=["at once", "after the submission"])
def test_denied_access_ends_the_launcher_but_not_the_job(slurm, launcher, monkeypatch, afterwards):
    monkeypatch.setattr("psld.cluster.slurm.REFUSED_SECONDS", 0)
    refused = "echo slurm_load_jobs error: Protocol authentication error >&2; exit 1"
    asked = f"[ -e {slurm.folder}/sbatch.calls ] || exit 0\n" if afterwards else ""
    slurm.answer("squeue", first=asked + refused)
    with pytest.raises(
        RunError, match=r"Protocol authentication error.*jobs in Slurm are unchanged"
    ):
        launcher.finish()
    assert len(slurm.calls("sbatch")) == afterwards
    assert slurm.calls("scancel") == []


def test_only_the_end_of_a_long_error_is_shown(slurm, launcher, capsys):
    long = launcher.folder / "42_0_log.err"
    ends(slurm, "FAILED", {long: "Error: the first\n" + 98 * "line\n" + "the last"}, late=False)
    with pytest.raises(RunError, match="ended as FAILED"):
        launcher.finish()
    assert "Error: the first" in capsys.readouterr().out, "a hundred lines"
    ends(slurm, "FAILED", {long: "Error: the first\n" + 99 * "an error\n" + "the last"}, late=False)
    with pytest.raises(RunError, match="ended as FAILED"):
        launcher.finish()
    shown = capsys.readouterr().out
    assert "the last" in shown
    assert "Error: the first" not in shown


def test_new_lines_of_a_log_are_printed_once(tmp_path, capsys):
    log = tmp_path / "log"
    assert launching.print_added(log, 0) == 0
    log.write_text("größe\n")
    position = launching.print_added(log, 0)
    assert position == log.stat().st_size
    with log.open("a") as stream:
        stream.write("more")
    assert launching.print_added(log, position) == log.stat().st_size
    assert launching.print_added(log, log.stat().st_size) == log.stat().st_size
    assert capsys.readouterr().out == "größe\nmore"
