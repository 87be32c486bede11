"""Stand-ins for Slurm's commands: small scripts in a folder."""

from pathlib import Path


class Commands:
    """A folder of commands with prescribed answers, which record their calls."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder

    def answer(
        self, name: str, stdout: str = "", *, stderr: str = "", exit_code: int = 0, first: str = ""
    ) -> None:
        """Set the answer of a command, which runs the shell code `first` before it answers."""
        script = self.folder / name
        script.write_text(
            f'#!/bin/sh\necho "$*" >> {script}.calls\n{first}\n'
            f"printf '%s' '{stdout}'\nprintf '%s' '{stderr}' >&2\nexit {exit_code}\n"
        )
        script.chmod(0o755)

    def calls(self, name: str) -> list[str]:
        """Return the arguments of each call of a command."""
        noted = self.folder / f"{name}.calls"
        return noted.read_text().splitlines() if noted.exists() else []
