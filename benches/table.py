"""Rows of the report: a figure, mcrun's value, a peer's, and their ratio."""

import json
from dataclasses import asdict, dataclass


@dataclass
class Row:
    """One line of the report.

    `ratio` is the peer's value by mcrun's: how many times as much the peer takes. A value that could not
    be measured is None, and `note` says why. `brief` rows are those of a summary. `section` is what the row was
    measured by.
    """

    figure: str
    unit: str
    mcrun: float | None
    peer: str = ""
    other: float | None = None
    note: str = ""
    brief: bool = False
    section: str = ""

    @property
    def ratio(self):
        if self.mcrun and self.other is not None:
            return self.other / self.mcrun
        return None


def number(value):
    """Three significant digits, and never an exponent."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    if abs(value) < 0.1:
        digits = 3
    return f"{value:.{digits}f}"


def columns(row):
    value = f"{number(row.mcrun)} {row.unit}" if row.mcrun is not None else "-"
    other = f"{number(row.other)} {row.unit}" if row.other is not None else ""
    ratio = f"{number(row.ratio)} x" if row.ratio else ""
    if row.peer and row.other is None:
        other = "could not run"
    beside = " ".join(word for word in (row.peer, other) if word)
    return row.figure, value, beside, ratio, row.note


def line(row):
    """The row for a terminal."""
    figure, value, beside, ratio, note = columns(row)
    text = f"{figure:<58} {value:>13}   {beside:<34} {ratio:>8}"
    return f"{text}  {note}".rstrip()


def markdown(rows):
    """The table as Markdown."""
    out = ["| figure | mcrun | peer | ratio |", "|---|---:|---|---:|"]
    for row in rows:
        figure, value, beside, ratio, note = columns(row)
        if note:
            beside = f"{beside} ({note})" if beside else note
        out.append(f"| {figure} | {value} | {beside} | {ratio} |")
    return "\n".join(out) + "\n"


def to_json(rows, machine):
    """The rows and the machine they come from."""
    listed = [{**asdict(row), "ratio": row.ratio} for row in rows]
    return json.dumps({"machine": machine, "rows": listed}, indent=2) + "\n"


def from_json(text):
    """What `to_json` wrote: the rows and the machine."""
    data = json.loads(text)
    for row in data["rows"]:
        row.pop("ratio")
    return [Row(**row) for row in data["rows"]], data["machine"]
