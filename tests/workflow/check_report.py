"""A check of the page and the tables of `make demo` in this folder, in a real browser:

python -m pytest tests/workflow/check_report.py

The tests need Debian's package chromium and are skipped without it.
"""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from psld.grid.rows import read_table
from psld.report.table import table_text
from tests.report.tables.conftest import body_of_html
from tests.workflow.check_demo import (
    RESULTS,
    TABLES,
    at_the_root,
    grid,
    pictures_of,
)

CHROMIUM = shutil.which("chromium")
PAGE = RESULTS / "demo.html"
MEASURE = """addEventListener("load", () => {
  const images = [...document.images];
  const root = document.documentElement;
  parent.postMessage(JSON.stringify({
    images: images.length,
    broken: images.filter((i) => !i.naturalWidth || i.clientHeight < 50).map((i) => i.alt),
    overflow: root.scrollWidth - root.clientWidth,
    fetched: performance.getEntriesByType("resource").map((entry) => entry.name),
  }), "*");
});"""
"""A script that reports how the page is shown to the page around it."""

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs chromium (apt-get install chromium)"
)

__all__ = ["at_the_root", "grid"]  # fixtures


def browse(page: Path, profile: Path) -> str:
    """The page as it is once all its scripts have run, in a browser that has no network."""
    switches = (
        "--headless",
        "--no-sandbox",  # its own page, and a container's root cannot have one
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--window-size=1600,1000",
        "--virtual-time-budget=120000",  # milliseconds, of which none is waited for
        f"--user-data-dir={profile}",
    )
    command = [CHROMIUM, *switches, "--dump-dom", page.as_uri()]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return finished.stdout


@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_is_shown_whole(grid, tmp_path, width):
    """On a phone and on a desk: no picture is broken, and only tables and plots are scrolled."""
    page = tmp_path / "page.html"
    page.write_text(f"{PAGE.read_text()}<script>{MEASURE}</script>")
    frame = tmp_path / "frame.html"  # a window of the browser cannot be as narrow as a phone
    frame.write_text(
        f"<iframe src=page.html style='width:{width}px;height:900px'></iframe>"
        "<script>addEventListener('message', e => document.body.append(e.data))</script>"
    )
    seen = browse(frame, tmp_path / "profile")
    page = json.loads(html.unescape(re.search(r"\{.*\}", seen)[0]))
    assert page["broken"] == []
    assert page["images"] == len(pictures_of(grid))
    assert page["overflow"] <= 0
    assert [address for address in page["fetched"] if not address.startswith("data:")] == []


def test_the_page_is_small():
    assert PAGE.stat().st_size < 3_000_000


def test_a_table_shows_every_entry(grid, tmp_path):
    for name, table in grid.file.tables.items():
        page = browse(TABLES / f"{name}.html", tmp_path)
        assert body_of_html(page) == table_text(table, read_table(grid, name)).lines
