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
