"""The XML reports of the tools: tables with named fields, and the warnings; parsed without entities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError  # types only

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from spica.model.errors import DataError

MAX_REPORT_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class ReportTable:
    """One table of a report: field names and rows of texts; rows shorter than the fields are filled with ''."""

    name: str
    fields: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def text(self, row: int, field: str) -> str:
        """Return a cell; DataError where the report has no such field."""
        if field not in self.fields:
            raise DataError(f"table {self.name} of the report has no field {field}; use the tool's tested version")
        return self.rows[row][self.fields.index(field)]

    def numbers(self, row: int, field: str) -> tuple[float, ...]:
        """Return the numbers of a cell, NaN where one is none; at least one value."""
        return tuple(_number(word) for word in self.text(row, field).split()) or (math.nan,)

    def number(self, row: int, field: str) -> float:
        """Return the first number of a cell, NaN where it is none."""
        return self.numbers(row, field)[0]


@dataclass(frozen=True)
class Report:
    """A tool's report: software, version, tables, warnings."""

    software: str
    version: str
    tables: tuple[ReportTable, ...]
    warnings: tuple[str, ...]

    def table(self, name: str) -> ReportTable:
        """Return a table; DataError where there is none: the tool ended early."""
        for one in self.tables:
            if one.name == name:
                return one
        raise DataError(f"the report of {self.software} has no table {name}; look at the job's log")


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


def read_report(path: Path, tool: str) -> Report:
    """Read a report.

    Raises
    ------
    DataError
        Where it is missing, too large or no XML.
    """
    try:
        if path.stat().st_size > MAX_REPORT_BYTES:
            raise DataError(f"the report of {tool} has more than {MAX_REPORT_BYTES} bytes; look at {path.name}")
        text = path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise DataError(f"{tool} wrote no report ({error.strerror}); look at the job's log") from error
    try:
        root = fromstring("".join(c if c in "\t\n\r" or c >= " " else " " for c in text))
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise DataError(f"the report of {tool} cannot be read ({error}); look at {path.name}") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    tables = tuple(_table(one) for one in root.iter("TABLE"))
    found = [t for t in tables if t.name == "Warnings" and "Msg" in t.fields]
    warnings = tuple(t.text(i, "Msg") for t in found for i in range(len(t.rows)))
    return Report(_parameter(root, "Software"), _parameter(root, "Version"), tables, warnings)


def _parameter(root: Element, name: str) -> str:
    return next((p.get("value", "") for p in root.iter("PARAM") if p.get("name") == name), "")


def _table(table: Element) -> ReportTable:
    fields = tuple(f.get("name", "") for f in table.iter("FIELD"))
    rows = []
    for row in table.iter("TR"):
        cells = [" ".join("".join(cell.itertext()).split()) for cell in row.iter("TD")][: len(fields)]
        rows.append((*cells, *[""] * (len(fields) - len(cells))))
    return ReportTable(table.get("name", ""), fields, tuple(rows))
