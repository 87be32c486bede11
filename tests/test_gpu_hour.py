"""`make gpu-hour` with tiny sizes on the CPU: its parts, and that a second run adds the missing
parts."""

import subprocess
import sys
from types import SimpleNamespace

from benchmarks import gpu_hour


def run(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_hour", *words])
    gpu_hour.main()


def test_the_parts_that_are_missing_run_and_the_tables_have_all(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for part in ("train-demo-fp32-64", "sample-demo-fp32"):
        run(monkeypatch, "cpu", part)
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said] == ["train-demo-fp32-64", "sample-demo-fp32"]
    begun = []

    def killed(command, **options):
        begun.append(command[-1])
        return SimpleNamespace(returncode=124)

    monkeypatch.setattr(subprocess, "run", killed)
    run(monkeypatch, "cpu")
    assert begun == [
        "tests",
        "train-demo-fp32-16",
        "train-demo-bf16-16",
        "train-demo-bf16-64",
        "sample-demo-bf16",
        "demo",
    ]
    out = capsys.readouterr().out
    assert "tests: not finished in 590 s; the same command goes on" in out
    report = out[out.index("### CPU") :]
    assert report.count("\n| fp32 ") == 2
    assert f"Missing: {', '.join(begun)}." in report
