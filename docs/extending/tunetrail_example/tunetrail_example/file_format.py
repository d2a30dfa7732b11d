"""A file format: questions and answers as people write them, in lines `Q: ...` and `A: ...`."""

from collections.abc import Iterator

from tunetrail.data.formats import FileFormat, SourceFile, text_lines
from tunetrail.samples import BrokenRow, SourceRow


def rows(file: SourceFile) -> Iterator[SourceRow | BrokenRow]:
    """Yield a pair for each question with an answer, at the line of the question."""
    question, position = "", 0
    for line_number, line in enumerate(text_lines(file), start=1):
        if line.startswith("Q:"):
            question, position = line.removeprefix("Q:").strip(), line_number
        elif line.startswith("A:") and question:
            answer = line.removeprefix("A:").strip()
            yield SourceRow({"anchor": question, "positive": answer}, file.name, position)
            question = ""
        elif line.strip():
            reason = "a line must begin with Q: or A:"
            yield BrokenRow(text=line, reason=reason, source=file.name, position=line_number)


FAQ = FileFormat(rows=rows, counts_lines=False)
