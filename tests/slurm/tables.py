"""Slurm's tables and `scontrol`'s fields as dictionaries."""

import csv
import re


def read_table(text: str) -> list[dict[str, str]]:
    """The rows of a table with a header and `|` between columns; names of columns in lower case."""
    header, *lines = text.splitlines()
    rows = csv.DictReader(lines, fieldnames=header.lower().split("|"), delimiter="|")
    return list(rows)


def read_fields(text: str) -> dict[str, str]:
    """The fields of `scontrol show … --oneliner`; a value with blanks is cut at the first."""
    return dict(re.findall(r"(\S+?)=(\S*)", text))
