"""The benchmark works on a tiny survey; nothing here looks at how long anything takes."""

from __future__ import annotations

import os
import sys

import pytest
from astropy.io import fits

from benchmarks.__main__ import main, measure
from benchmarks.headers import make_mosaics
from benchmarks.intake import STAGES
from benchmarks.measure import Command, Cost, cheapest, run_stage, total
from benchmarks.report import write_report
from benchmarks.survey import Size
from spica.files.scan import read_headers


@pytest.mark.walk
def test_both_chains_run_on_a_tiny_survey_and_agree_with_truth(tmp_path):
    """Two exposures of 2 x 2 detectors of 256 pixels: every stage is measured, both stacks lie near truth.

    At some fifteen stars the positions rest on few reference stars: 20 mas is ten times the goal of the large survey,
    and a third of what a wrong epoch, a hundredth of what a wrong match gives.
    """
    measured = measure(tmp_path / "bench", Size(exposures=2, detector=256, stars_per_arcmin2=45.0))
    assert set(measured.astromatic) == {"extract", "solve", "stack", "catalogue"}
    assert set(measured.native) == {"assess", "astrometry", "stack", "quality", "catalogue", "deliver"}
    for costs in (*measured.astromatic.values(), *measured.native.values(), *measured.whole.values()):
        assert all(c.cpu_s > 0 and c.wall_s > 0 and c.peak_mb > 1 for c in costs)
    for name in ("native", "AstrOmatic"):
        errors = measured.stacks[name]
        assert errors.n_stars >= 10, name
        assert errors.position_rms_mas < 20, name
        assert errors.mag_rms_mmag < 50, name
    assert measured.kron
    assert all(k.cpu_s > 0 for k in measured.kernels)
    page = write_report(measured)
    assert "## Time and memory" in page
    assert "| **all steps** |" in page
    assert str(tmp_path) not in page


def test_intake_is_measured_beside_astropy_on_real_headers(tmp_path, test_data, monkeypatch):
    """Four small exposures and one mosaic are registered; the page tells every stage and keeps what it held before."""
    monkeypatch.setenv("SPICA_TEST_DATA", str(test_data))
    cores = os.sched_getaffinity(0)
    page = tmp_path / "results.md"
    page.write_text("# Results\n\n## Intake\nold\n\n## Kernels\n\nkept\n", encoding="utf-8")
    words = ["intake", "--singles", "4", "--mosaics", "1", "--detectors", "1", "--rounds", "1", "--output", str(page)]
    assert main(words) == 0
    text = page.read_text(encoding="utf-8")
    assert all(f"| {stage} |" in text for stage in STAGES)
    assert "| sha256sum |" in text
    assert "## Kernels\n\nkept\n" in text
    assert text.count("## Intake") == 1
    assert "old" not in text
    assert str(tmp_path) not in text
    assert os.sched_getaffinity(0) == cores


def test_mosaics_of_the_benchmark_are_whole_files_at_places_of_their_own(tmp_path, test_data, monkeypatch):
    """True offsets with holes for data: astropy finds all 41 units, and no two exposures share a position."""
    monkeypatch.setenv("SPICA_TEST_DATA", str(test_data))
    paths = make_mosaics(tmp_path, 4)
    headers = [read_headers(path) for path in paths]
    assert [len(h) for h in headers] == [41] * 4
    assert headers[0][5]["CRVAL1"] != headers[3][5]["CRVAL1"]
    assert headers[0][5]["NAXIS2"] == headers[3][5]["NAXIS2"]
    with fits.open(paths[0], disable_image_compression=True) as units:
        assert len(units) == 41
    assert paths[0].stat().st_size > 1e8
    assert paths[0].stat().st_blocks * 512 < 1e7


def test_cost_of_a_stage_is_that_of_its_processes(tmp_path):
    """A process that takes 64 MB and half a CPU second is seen to do so, whatever its parent holds."""
    ballast = bytearray(200_000_000)
    work = "import time; x = bytearray(64_000_000)\nwhile time.process_time() < 0.5: pass"
    command = Command([sys.executable, "-S", "-c", work], tmp_path, tmp_path / "log")
    cost = run_stage([command, command], slots=2)
    assert len(ballast) == 200_000_000
    assert cost.cpu_s >= 1.0
    assert 64 < cost.peak_mb < 150


def test_a_failed_command_is_told_with_its_log(tmp_path):
    """The message holds what the command wrote last."""
    command = Command([sys.executable, "-c", "raise SystemExit('no such star')"], tmp_path, tmp_path / "log")
    with pytest.raises(RuntimeError, match="no such star"):
        run_stage([command])


def test_costs_add_and_the_cheapest_counts():
    """Stages add their seconds and share the highest memory; of rounds the least seconds count."""
    first, second = Cost(2.0, 3.0, 100.0), Cost(1.0, 4.0, 50.0)
    assert total([first, second]) == Cost(3.0, 7.0, 100.0)
    assert cheapest([first, second]) == Cost(1.0, 3.0, 100.0)
