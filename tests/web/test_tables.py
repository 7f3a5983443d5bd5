"""Lists as tables: VOTable read by astropy, CSV that runs no formula, JSON by the contract, all in bounded memory."""

from __future__ import annotations

import csv
import io
import json
import math
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from operator import attrgetter
from typing import Any

import numpy as np
import pytest
from astropy.io.votable import parse

from spica.model.errors import RecipeError
from spica_web.tables import MAX_ROWS, Column, Table, check_length, guarded, write_table
from spica_web.tables_of import EXPOSURES, JOBS, NIGHTS, NODES, OBJECTS, RUNS, SOURCES, STACKS

TABLES = (EXPOSURES, STACKS, JOBS, NODES, NIGHTS, RUNS, OBJECTS, SOURCES)


@dataclass(frozen=True)
class Row:
    """A row of a list."""

    id: int
    name: str | None
    value: float | None
    night: date
    good: bool | None


LIST: Table[Row] = Table(
    "list",
    'Rows with <signs> & "quotes"',
    (
        Column("id", "int", "number", attrgetter("id"), ucd="meta.id"),
        Column("name", "text", "any text", attrgetter("name")),
        Column("value_arcsec", "float", "a <value>", attrgetter("value"), "arcsec", "instr.obsty.seeing"),
        Column("night", "text", "a night", attrgetter("night")),
        Column("good", "bool", "whether", attrgetter("good")),
    ),
)
NAMES = ["plain", "<b>&amp;", "=1+1", "-3.5", "-x", "@cmd", "\tx", "ctrl\x00\x1b", "żółw 星", None, 'quote " , comma']


def rows(n: int) -> Iterator[Row]:
    for i in range(n):
        name = NAMES[i % len(NAMES)]
        yield Row(
            i, name, None if i % 7 == 0 else i / 3.0, date(2006, 12, 1 + i % 28), None if i % 5 == 0 else i % 2 == 0
        )


def test_a_votable_is_valid_and_gives_every_value_back() -> None:
    text = "".join(write_table(LIST, "votable", rows(200)))
    table = parse(io.BytesIO(text.encode()), verify="exception").get_first_table()
    array = table.array
    assert table.nrows == 200
    assert [str(f.unit or "") for f in table.fields] == ["", "", "arcsec", "", ""]
    assert table.fields[2].ucd == "instr.obsty.seeing"
    for i, row in enumerate(rows(200)):
        assert array["id"][i] == row.id
        told = str(array["name"][i])
        assert told == (row.name or "").replace("\x00", "\ufffd").replace("\x1b", "\ufffd").strip() or "\t" in (
            row.name or ""
        )
        assert array["night"][i] == row.night.isoformat()
        value = array["value_arcsec"][i]
        assert (np.ma.is_masked(value) or math.isnan(value)) if row.value is None else value == row.value
        assert bool(np.ma.is_masked(array["good"][i])) == (row.good is None)


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.name)
def test_the_columns_of_each_list_are_described_and_valid(table: Table[Any]) -> None:
    """Units and UCDs are those that astropy knows (verify="exception" refuses others); names are used once."""
    text = "".join(write_table(table, "votable", iter([])))
    fields = parse(io.BytesIO(text.encode()), verify="exception").get_first_table().fields
    assert [f.name for f in fields] == [c.name for c in table.columns]
    assert len({f.name for f in fields}) == len(fields)
    assert all(f.description and f.ucd for f in fields)
    for field in fields:
        if field.unit is not None:
            assert field.unit.to_string(), field.name
            assert not type(field.unit).__name__.startswith("Unrecognized"), field.name


def test_csv_cells_run_nothing_and_numbers_stay_numbers() -> None:
    text = "".join(write_table(LIST, "csv", rows(50)))
    read = list(csv.DictReader(io.StringIO(text)))
    assert len(read) == 50
    for i, row in enumerate(rows(50)):
        cell = read[i]["name"]
        assert cell in (row.name or "", "'" + (row.name or ""))
        assert cell[:1] not in ("=", "+", "@", "\t", "\r")
        assert float(read[i]["value_arcsec"] or "nan") == pytest.approx(
            math.nan if row.value is None else row.value, nan_ok=True
        )
    assert [guarded(c) for c in ("-3.5", "+1e-3", "-3.5e", "=1", "-", "--1", "+.5", "")] == [
        "-3.5", "+1e-3", "'-3.5e", "'=1", "'-", "'--1", "+.5", "",
    ]  # fmt: skip


def test_json_is_one_array_in_which_unknown_is_null() -> None:
    read = json.loads("".join(write_table(LIST, "json", rows(6000))))
    assert len(read) == 6000
    assert read[0] == {"id": 0, "name": "plain", "value_arcsec": None, "night": "2006-12-01", "good": None}
    assert json.loads("".join(write_table(LIST, "json", iter([])))) == []


@pytest.mark.parametrize("form", ["csv", "votable", "json"])
def test_a_long_list_is_written_in_bounded_memory(form: Any) -> None:
    """50 000 rows take no more memory than 10 000: a part is 5000 rows."""

    def peak(n: int) -> tuple[int, int]:
        tracemalloc.start()
        size = sum(len(part) for part in write_table(LIST, form, rows(n)))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return size, most

    small, few = peak(10_000)
    large, many = peak(50_000)
    assert large > 4.5 * small
    assert many < 1.3 * few + 200_000


def test_what_is_too_long_is_refused_with_what_to_do() -> None:
    check_length(MAX_ROWS)
    with pytest.raises(RecipeError, match="narrow it"):
        check_length(MAX_ROWS + 1)


def test_lists_answer_by_address_and_by_header(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    for address in ("/nights", "/runs", "/objects", "/nights/2006-12-12"):
        by_word = client.get(address, params={"format": "csv"})
        by_header = client.get(address, headers={"accept": "text/csv"})
        assert by_word.text == by_header.text
        assert by_word.headers["content-type"].startswith("text/csv")
        assert by_word.headers["content-disposition"].endswith('.csv"')
        assert int(by_word.headers["x-total-count"]) == by_word.text.count("\n") - 1
        assert parse(io.BytesIO(client.get(f"{address}?format=votable").content), verify="exception")
        assert client.get(address).headers["content-type"].startswith("text/html")
    assert client.get("/nights?format=xlsx").status_code == 400
    night = client.get("/nights/2006-12-12?format=json").json()
    api = {e["id"]: e for e in client.get("/api/images").json()}
    assert [e["name"] for e in night] == sorted(
        (e["name"] for e in night), key=lambda n: next(x["mjd"] for x in night if x["name"] == n)
    )
    assert all(e == api[e["id"]] for e in night)
