"""The report for people: `report.html`, self-contained, without scripts, and `restricted.html` with texts."""

from tasks.evaluate.page.document import MARKS, page
from tasks.evaluate.page.write import write_pages

__all__ = ["MARKS", "page", "write_pages"]
