"""Sets of text to score: documents as they are, an exam's questions with their right answers."""

from __future__ import annotations

from tasks.evaluate.rows import read_documents, read_exams
from tasks.stage import Input


def read_texts(item: Input, limit: int) -> list[tuple[str, str]]:
    """Key and text of the first rows of a set of documents or exams.

    Args:
        item: The set.
        limit: Most rows.

    Raises:
        DataInvalid: The set is empty or a row is broken.
    """
    if item.kind == "exams":
        exams = read_exams(item, limit)
        return [(exam.key, f"{exam.question}\n{exam.options[exam.answer]}") for exam in exams]
    return [(document.key, document.text) for document in read_documents(item, limit)]
