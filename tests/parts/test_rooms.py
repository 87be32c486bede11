"""Only the module of a shipped part names its class. Other modules call a method of the base class
instead of testing for the class."""

import re
from pathlib import Path

from psld.config.kinds import SHIPPED

PACKAGE = Path(__file__).parents[2] / "psld"
EXCEPTIONS = {
    ("diffusion/samplers.py", "NoGuidance"): "the default of a field",
    ("models/objectives.py", "Adam"): "the default of a field",
    ("models/objectives.py", "Constant"): "the default of a field",
    ("models/objectives.py", "ExponentialAverage"): "what ema_decay is short for",
    ("metrics/named.py", "FrechetSettings"): "the measure of a metric without one",
    ("models/previews.py", "EMSettings"): "the sampler of previews",
    ("sampling/distilled.py", "Denoiser"): "its base class",
    ("parts.py", "Denoiser"): "a base class of one's own",
    ("parts.py", "Epsilon"): "a base class of one's own",
    ("parts.py", "Guide"): "a base class of one's own",
}


def named() -> set[tuple[str, str]]:
    """Return each file that names the class of a shipped part of another file, with the class."""
    found = set()
    classes = [name.split(":") for kinds in SHIPPED.values() for name in kinds.values()]
    for path in sorted(PACKAGE.rglob("*.py")):
        file, text = path.relative_to(PACKAGE).as_posix(), path.read_text()
        for module, name in classes:
            own = module.removeprefix("psld.").replace(".", "/") + ".py"
            imported = rf"from {re.escape(module)} import [^\n(]*\b{name}\b"
            several = rf"from {re.escape(module)} import \([^)]*\b{name}\b"
            if file != own and (re.search(imported, text) or re.search(several, text)):
                found.add((file, name))
    return found


def test_no_other_module_names_a_part():
    assert named() == EXCEPTIONS.keys()
