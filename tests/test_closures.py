"""The amount of code that a reader must know: the modules of psld that an import loads, and their
lines."""

import json
import sys

import pytest

from tests.commands import run, succeeded

MATHEMATICS = """
    psld.diffusion.denoiser psld.diffusion.gaussian psld.diffusion.likelihood psld.diffusion.loop
    psld.diffusion.loss psld.diffusion.multistep psld.networks.forward psld.networks.ncsnpp
"""
METRICS = """
    psld.metrics.distances psld.metrics.estimate psld.metrics.features psld.metrics.settings
"""
LIBRARY = "psld.library"

CLOSURE = """
import ast, json, sys
from importlib import import_module
from pathlib import Path
for name in sys.argv[1:]:
    import_module(name)

def lines_of_code(file):
    numbers = set()
    for node in ast.walk(ast.parse(Path(file).read_bytes())):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.stmt) and not is_text:
            end = node.body[0].lineno - 1 if hasattr(node, "body") else node.end_lineno
            numbers.update(range(node.lineno, end + 1))
    return len(numbers)

files = {name: each.__file__ for name, each in sys.modules.items() if name.startswith("psld.")}
print(json.dumps({name: lines_of_code(file) for name, file in files.items()}))
"""
"""Print the modules with their lines of code, without docstrings, comments and blank lines."""


# The mathematics includes two kernels, arbitrary schedules, and sampling from any state with access
# to each step. Datasets include units and decoders, whose weights are files with digests.
@pytest.mark.parametrize(
    ("modules", "most_lines", "rooms"),
    [
        (MATHEMATICS, 2850, {"diffusion", "networks", "utils"}),
        (METRICS, 2200, {"metrics", "config", "utils"}),
        (
            LIBRARY,
            6000,
            {"library", "sampling", "models", "diffusion", "networks", "data", "config", "utils"},
        ),
    ],
    ids=["mathematics", "metrics", "load-and-sample"],
)
def test_a_reader_needs_no_more(tmp_path, modules, most_lines, rooms):
    command = [sys.executable, "-c", CLOSURE, *modules.split()]
    lines = json.loads(succeeded(run(tmp_path, command)).stdout)
    assert {name.split(".")[1] for name in lines} == rooms
    assert sum(lines.values()) <= most_lines, sorted(lines.items(), key=lambda each: -each[1])
