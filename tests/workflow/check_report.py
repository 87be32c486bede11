"""A check of the report and the page of `make demo` in this folder, in a real browser:

python -m pytest tests/workflow/check_report.py

The tests need Debian's package chromium and are skipped without it.
"""

import base64
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from psld.grid.entries import read_table
from psld.report.table import table_text
from tests.report.tables.conftest import body_of_html
from tests.workflow.check_demo import (
    REPORT,
    RESULTS,
    ROOT,
    TABLES,
    at_the_root,
    grid,
    pictures_of,
)

CHROMIUM = shutil.which("chromium")
READER = Path(__file__).with_name("report_reader.js")
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


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict[str, Any]:
    """What a reader of the report sees, who clicks everything."""
    folder = tmp_path_factory.mktemp("report")
    page = folder / "report.html"
    head, reader = "<head>", READER.read_text()
    content = REPORT.read_text()
    assert head in content
    page.write_text(content.replace(head, f"{head}<script>{reader}</script>", 1))
    seen = re.search(r'<pre id="seen">(.*?)</pre>', browse(page, folder / "profile"), re.DOTALL)
    assert seen, "the reader came to no end"
    return json.loads(html.unescape(seen[1]))


def test_no_script_fails(seen):
    assert seen["errors"] == []


def test_nothing_is_fetched_from_outside(seen):
    assert [address for address in seen["fetched"] if not address.startswith("data:")] == []


def test_every_table_and_picture_is_shown(grid, seen):
    pictures = {str(path.relative_to(ROOT)) for path in pictures_of(grid)}
    tables = {str((TABLES / f"{name}.html").relative_to(ROOT)) for name in grid.file.tables}
    shown = {result["path"]: result for result in seen["results"]}
    assert set(shown) == pictures | tables
    for path, result in shown.items():
        assert result["tag"] == ("IMG" if path in pictures else "IFRAME")
        assert min(result["width"], result["height"]) > 100, f"{path} is shown too small to see"
        content = base64.b64decode(result["src"].partition("base64,")[2])
        assert content == (ROOT / path).read_bytes(), f"the report shows another {path}"


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
