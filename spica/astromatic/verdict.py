"""Verdicts on what SCAMP and SWarp made, from the content of their reports: they end with 0 on much that is wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from spica.astromatic.votable import Report
from spica.model.errors import DataError
from spica.model.job import Reason

MIN_XY_CONTRAST = 2.0
"""Contrast of SCAMP's position match: 9 to 11 on right catalogues, 0.02 to 1.3 on wrong ones."""
FATAL_WARNINGS = ("Significant inaccuracy likely", "Astrometric approximation too inaccurate")
NO_MATCH = "reference catalogue does not match"


@dataclass(frozen=True)
class FieldVerdict:
    """What SCAMP says of one exposure; `reason` is None where its match holds.

    `sigma_arcsec` is the larger axis' scatter to the reference, NaN without pairs.
    """

    xy_contrast: float
    as_contrast: float
    n_reference: int
    sigma_arcsec: float
    reason: Reason | None


def judge_fields(report: Report, catalogues: Sequence[str], min_reference: int) -> tuple[FieldVerdict, ...]:
    """Judge every exposure of a SCAMP report, in the order of the catalogues given.

    Raises
    ------
    DataError
        The report does not hold these catalogues.
    """
    fields = report.table("Fields")
    rows = {fields.text(i, "Catalog_Name").rpartition("/")[2]: i for i in range(len(fields.rows))}
    missing = [c for c in catalogues if c not in rows]
    if missing:
        raise DataError(f"the report of scamp says nothing of {missing[0]}; look at the job's log")
    found = []
    for catalogue in catalogues:
        i = rows[catalogue]
        sigma = fields.numbers(i, "AstromSigma_Reference")
        xy, turn = fields.number(i, "XY_Contrast"), fields.number(i, "AS_Contrast")
        count = fields.number(i, "NDeg_Reference")
        number = int(count) if math.isfinite(count) else 0
        found.append(FieldVerdict(xy, turn, number, max(sigma), _reason(xy, number, min_reference)))
    return tuple(found)


def _reason(xy_contrast: float, n_reference: int, min_reference: int) -> Reason | None:
    if not xy_contrast >= MIN_XY_CONTRAST:
        value = xy_contrast if math.isfinite(xy_contrast) else None
        text = f"{NO_MATCH}: the contrast of the match is too low; take another catalogue or correct the pointing"
        return Reason("no_match", text, value, MIN_XY_CONTRAST)
    if n_reference < min_reference:
        return Reason("too_few_stars", "too few reference stars matched", n_reference, min_reference)
    return None


def judge_swarp(report: Report, n_images: int) -> tuple[str, ...]:
    """Return the warnings of a SWarp report that has taken every image.

    Raises
    ------
    DataError
        It took another number of images, or warns of what spoils the stack.
    """
    n_taken = len(report.table("Input_Image_Data").rows)
    if n_taken != n_images:
        raise DataError(f"SWarp took {n_taken} of {n_images} images; look at the job's log")
    for warning in report.warnings:
        if any(word.lower() in warning.lower() for word in FATAL_WARNINGS):
            raise DataError(
                f"SWarp warns: {warning[:160]}; solve with a lower distortion_degree or leave that image out"
            )
    return report.warnings
