"""Open pages in a real browser without network access (Debian's package chromium)."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
MEASURE = """addEventListener("load", () => {
  document.querySelectorAll("details").forEach((fold) => { fold.open = true; });
  const images = [...document.images];
  const root = document.documentElement;
  parent.postMessage(JSON.stringify({
    images: images.length,
    broken: images.filter((i) => !i.naturalWidth || i.clientHeight < 50).map((i) => i.alt),
    overflow: root.scrollWidth - root.clientWidth,
    cut: [...document.querySelectorAll("img, td, th")]
      .filter((part) => part.getBoundingClientRect().right >
        (part.closest(".scroll") ?? root).getBoundingClientRect().right)
      .map((part) => part.alt || part.textContent),
    beside: [...document.querySelectorAll("section[id^=table] .pair")].map(({children}) =>
      children[0].getBoundingClientRect().right <= children[1].getBoundingClientRect().left),
    fetched: performance.getEntriesByType("resource").map((entry) => entry.name),
  }), "*");
});"""
"""A script in the page that reports the layout to the enclosing page."""

in_a_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="needs chromium (apt-get install chromium)"
)


def browse(page: Path, profile: Path) -> str:
    """Return the page after all its scripts have run, in a browser without network access."""
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
        "--virtual-time-budget=120000",  # virtual milliseconds: the browser does not wait for them
        f"--user-data-dir={profile}",
    )
    command = [CHROMIUM, *switches, "--dump-dom", page.as_uri()]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return finished.stdout


def shown(page: Path, width: int, folder: Path) -> dict[str, Any]:
    """Return the report of MEASURE for a page in a window of this width."""
    (folder / "page.html").write_text(f"{page.read_text()}<script>{MEASURE}</script>")
    frame = folder / "frame.html"  # the window of the browser cannot be as narrow as a phone
    frame.write_text(
        f"<iframe src=page.html style='width:{width}px;height:900px'></iframe>"
        "<script>addEventListener('message', e => document.body.append(e.data))</script>"
    )
    seen = browse(frame, folder / "profile")
    return json.loads(html.unescape(re.search(r"\{.*\}", seen)[0]))
