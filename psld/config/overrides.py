"""Command lines of overrides, KEY=VALUE, before Hydra reads them."""


def take(key: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """Return the last value given for a key, None without one, and the other arguments."""
    values = [word.removeprefix(f"{key}=") for word in arguments if word.startswith(f"{key}=")]
    others = [word for word in arguments if not word.startswith(f"{key}=")]
    return values[-1] if values else None, others


def quoted(text: str) -> str:
    """Return a text in quotes, so that Hydra takes it as it is."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
