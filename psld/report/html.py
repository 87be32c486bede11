"""The templates of HTML pages, which have no script, fetch nothing, and escape all texts."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from psld.report.table import EVERY_ENTRY, Text

TEMPLATES = Environment(
    loader=PackageLoader("psld.report"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
TEMPLATES.globals["every_entry"] = EVERY_ENTRY


def table_page(text: Text) -> str:
    """Return a page with one table."""
    return TEMPLATES.get_template("table.html").render(text=text)
