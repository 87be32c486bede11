"""What a launcher prints, into the log of the rule that called it."""

from pathlib import Path


class Relay:
    """Passes on what is added to a file from now on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = path.stat().st_size if path.exists() else 0

    def pass_on(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as stream:
            stream.seek(self.position)
            added = stream.read()
        self.position += len(added)
        if added:
            print(added.decode(errors="replace"), end="", flush=True)


def tail(path: Path, lines: int = 200) -> str:
    """The last lines of a file, or that there is none."""
    if not path.exists():
        return "(not written)"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def say(text: str) -> None:
    """Print a line of the launcher's own."""
    print(f"launch: {text}", flush=True)
