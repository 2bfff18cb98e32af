"""The report for people: `report.html`, self-contained, without scripts, and `restricted.html` with texts."""

from tasks.evaluate.page.document import CHANGES, RUN, VERDICT, page
from tasks.evaluate.page.write import write_pages

__all__ = ["CHANGES", "RUN", "VERDICT", "page", "write_pages"]
