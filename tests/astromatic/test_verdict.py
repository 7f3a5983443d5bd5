"""Reports are judged by what they hold."""

from __future__ import annotations

import numpy as np
import pytest

from spica.astromatic.extract import judge_extraction
from spica.astromatic.verdict import judge_fields, judge_swarp
from spica.astromatic.votable import read_report
from spica.model.errors import DataError

FIELDS = ("Catalog_Name", "XY_Contrast", "AS_Contrast", "NDeg_Reference", "AstromSigma_Reference")


def _report(path, table, fields, rows, warnings=(), head=""):
    def block(name, names, lines):
        cells = "".join("<TR>" + "".join(f"<TD>{c}</TD>" for c in line) + "</TR>" for line in lines)
        columns = "".join(f'<FIELD name="{n}"/>' for n in names)
        return f'<TABLE name="{name}">{columns}<DATA><TABLEDATA>{cells}</TABLEDATA></DATA></TABLE>'

    noise = block("Warnings", ("Date", "Msg"), [("today", w) for w in warnings])
    body = f'<PARAM name="Software" value="T"/>{block(table, fields, rows)}{noise}'
    path.write_text(f'<?xml version="1.0"?>{head}<VOTABLE xmlns="http://www.ivoa.net/x">{body}</VOTABLE>')
    return path


def test_a_wrong_catalogue_is_seen_in_the_contrast(tmp_path):
    """Contrasts as SCAMP 2.10 gave them: right 9.9, wrong 1.09 and 0.017, unknown; each exposure by itself."""
    contrasts = ("9.9", "1.09", "0.017", "-nan")
    rows = [(f"e{i}.ldac", c, "5", "170", "0.01 0.007") for i, c in enumerate(contrasts)]
    report = read_report(_report(tmp_path / "a.xml", "Fields", FIELDS, rows), "scamp")
    found = judge_fields(report, [f"e{i}.ldac" for i in range(4)], 6)
    assert [f.reason and f.reason.code for f in found] == [None, "no_match", "no_match", "no_match"]
    assert all("reference catalogue does not match" in f.reason.text for f in found[1:])
    assert (found[1].reason.value, found[3].reason.value) == (1.09, None)
    assert found[0].sigma_arcsec == 0.01
    assert judge_fields(report, ["e0.ldac"], 171)[0].reason.code == "too_few_stars"
    with pytest.raises(DataError, match=r"nothing of e9\.ldac"):
        judge_fields(report, ["e9.ldac"], 6)


@pytest.mark.parametrize(("level", "noise"), [("nan", "1"), ("-nan", "-nan"), ("10", "0"), ("10", "inf")])
def test_a_background_that_is_no_number_fails(tmp_path, level, noise):
    """source-extractor ends with 0 and finds nothing there."""
    fields = ("Extension", "Background_Mean", "Background_StDev")
    path = _report(tmp_path / "a.xml", "Extension_Data", fields, [("1", level, noise)])
    with pytest.raises(DataError, match="measured background"):
        judge_extraction(path, "CCD00")
    judge_extraction(_report(tmp_path / "b.xml", "Extension_Data", fields, [("1", "-3.5", "2")]), "CCD00")


def test_images_that_swarp_left_out_and_bad_projections_fail(tmp_path):
    """A stack of fewer images than given is no stack of them."""
    path = _report(tmp_path / "a.xml", "Input_Image_Data", ("Image_Name",), [("a",), ("b",)], ("header read",))
    report = read_report(path, "SWarp")
    assert judge_swarp(report, 2) == ("header read",)
    with pytest.raises(DataError, match="took 2 of 3 images"):
        judge_swarp(report, 3)
    bad = ("Significant inaccuracy likely to occur in projection",)
    report = read_report(_report(tmp_path / "b.xml", "Input_Image_Data", ("Image_Name",), [("a",)], bad), "SWarp")
    with pytest.raises(DataError, match="lower distortion_degree"):
        judge_swarp(report, 1)


def test_reports_that_are_missing_cut_or_hostile(tmp_path):
    """No report, half a report, and entities are refused with the tool's name."""
    with pytest.raises(DataError, match="scamp wrote no report"):
        read_report(tmp_path / "none.xml", "scamp")
    path = _report(tmp_path / "a.xml", "Fields", FIELDS, [("e", "9", "5", "17", "0 0")])
    path.write_text(path.read_text()[:-30])
    with pytest.raises(DataError, match="cannot be read"):
        read_report(path, "scamp")
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
    with pytest.raises(DataError, match="cannot be read"):
        read_report(_report(tmp_path / "c.xml", "Fields", FIELDS, [("&b;", "9", "5", "17", "0 0")], head=bomb), "scamp")
    report = read_report(_report(tmp_path / "d.xml", "Other", FIELDS, []), "scamp")
    with pytest.raises(DataError, match="no table Fields"):
        report.table("Fields")
    assert np.isnan(read_report(_report(tmp_path / "e.xml", "T", ("a",), [("x",)]), "t").tables[0].number(0, "a"))
