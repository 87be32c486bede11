"""The rules name the digests of what they read."""

import re

from tests.workflow.project import REPOSITORY

FILES = REPOSITORY / "workflow/rules"


def test_each_rule_has_the_digests_of_what_it_reads_and_passes_its_record_on():
    """Large files are `ancient`: their digests, which are small, decide."""
    text = "\n".join(path.read_text() for path in sorted(FILES.glob("*.smk")))
    rules = dict(re.findall(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL))
    made = rules.keys() - {"tabulate", "figure", "page", "certify"}
    assert len(made) == 9
    for name in made:
        assert "record=lambda" in rules[name], name
        assert re.search(r"record=\{+params\.record:q\}+", rules[name]), name
        if "images=" in rules[name] and "ancient(" in rules[name] and name != "sample":
            assert "digest=" in rules[name].partition("output:")[0], name
