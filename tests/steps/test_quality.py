"""The stack judged by the code that judges exposures, and its grade."""

from __future__ import annotations

import json
from typing import Any

import pytest


@pytest.fixture(scope="module")
def judged(chain: Any, step_bench: Any) -> Any:
    """Return the judgement of the stack."""
    ran = step_bench.run("quality", chain.made_inputs(), subject="image:9")
    assert ran.code == 0, ran.result.failure
    return ran


def test_a_stack_is_sharper_than_its_worst_and_deeper_than_its_best(chain: Any, judged: Any) -> None:
    measures = judged.record("quality")["measures"]
    seeing = list(chain.stack_facts["seeing_arcsec"].values())
    # Lanczos interpolation and the mean of profiles add a few per cent.
    assert 0.97 * min(seeing) < measures["seeing_arcsec"] < 1.06 * max(seeing)
    assert measures["zero_point_mag"] == 30.0
    solved = next(r for r in chain.solved.result.records if r["type"] == "solution")
    depths = []
    for item in chain.items:
        flux = chain.assessed.record("quality", item.replace("image", "file"))["measures"]["limiting_flux_adu"]
        zero = next(i["zero_point_mag"] for i in solved["images"] if i["item"] == item)
        import math

        depths.append(zero - 2.5 * math.log10(flux / 90.0))
    gain = measures["limiting_mag"] - sum(depths) / 3
    # Three exposures: 0.6 mag; correlated noise is measured in apertures, so that none of it is won by resampling.
    assert gain == pytest.approx(0.6, abs=0.2)


def test_the_grade_and_the_summary_agree(judged: Any) -> None:
    summary = json.loads(judged.path("quality").read_text())
    assert summary["grade"]["grade"] == judged.record("grade")["grade"]
    assert summary["measures"] == judged.record("quality")["measures"]
    assert judged.path("plot").read_bytes().startswith(b"\x89PNG")
    assert set(judged.whole()) == {"image:9"}
