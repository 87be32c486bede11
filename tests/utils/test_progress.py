"""The progress of long work, in a log and on a terminal."""

import io
import re

from psld.utils import progress
from psld.utils.progress import Progress


def run() -> None:
    shown = Progress("training", "step", total=40, done=10)
    for shown.note in ("loss 0.3", "loss 0.2"):
        shown.update()
    shown.update(20)
    shown.close()


def test_a_log_gets_lines_with_speed_and_time_left(monkeypatch, capsys):
    run()
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    run()
    out, err = capsys.readouterr()
    line = r"training: step {} of 40, [\d.e+]+ steps/s, [\d:]+ left, loss {}\n"
    lines = ((11, "0.3"), (12, "0.2"), (32, "0.2"))
    assert re.fullmatch("".join(line.format(*each) for each in lines), out)
    assert err == ""


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    run()
    assert "32/40" in terminal.getvalue()
    assert capsys.readouterr().out == ""


def test_speed_and_time_left_are_measured_since_the_last_line(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for total in (1000, None):
        shown, silent = (
            Progress("sampling", "image", total, done=500, silent=s) for s in (False, True)
        )
        for seconds, images in ((10, 50), (20, 100), (29, 1), (1, 149)):
            now[0] += seconds
            shown.update(images)
            silent.update(images)
        ends = (", 01:10 left", ", 00:40 left") if total else ("", "")
        of = f" of {total}" if total else ""
        assert capsys.readouterr().out.splitlines() == [
            f"sampling: image 650{of}, 5 images/s{ends[0]}",
            f"sampling: image 800{of}, 5 images/s{ends[1]}",
        ]
