"""Fixtures every floor may use: the real test data, and the rule that a missing tool is a failure where all is required."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _data_folder() -> Path:
    """Folder of real exposures: `SPICA_TEST_DATA`, else `shared/data` beside the checkout."""
    named = os.environ.get("SPICA_TEST_DATA")
    return Path(named) if named else ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Return the folder of real exposures; skipped where it is absent, a failure where all is required."""
    folder = _data_folder()
    if not folder.is_dir():
        _missing(f"no test data at {folder}; set SPICA_TEST_DATA")
    return folder


def _missing(reason: str) -> None:
    if os.environ.get("SPICA_REQUIRE_ALL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):  # type: ignore[no-untyped-def]
    """Turn a skip into a failure where `SPICA_REQUIRE_ALL=1`: a complete run leaves nothing out."""
    outcome = yield
    report = outcome.get_result()
    if os.environ.get("SPICA_REQUIRE_ALL") == "1" and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where everything is required: {report.longrepr}"
