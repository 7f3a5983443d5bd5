"""What enters and what leaves the astrometric solution of an ensemble."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from spica.algorithms.astrometry.tpv import DetectorSolution
from spica.algorithms.match import MatchParameters

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class DetectorLayout:
    """Nominal place of a detector: focal plane (deg) = `cd_deg_per_pix` @ (pixel - crpix), pixels 0-based.

    The focal plane is that of the nominal tangent plane: its origin is the pointing. Only scale and relative places
    of detectors matter where the start is a pattern match; rotation and parity are then found.
    """

    width_pix: int
    height_pix: int
    crpix_x_pix: float
    crpix_y_pix: float
    cd_deg_per_pix: Floats


@dataclass(frozen=True)
class InstrumentLayout:
    """One configuration of an instrument: exposures that name it share its distortion."""

    name: str
    detectors: tuple[DetectorLayout, ...]


@dataclass(frozen=True)
class ExposureSources:
    """Detections of one exposure, one array element a source.

    `detector` indexes the instrument's detectors; pixels are 0-based; `error_pix` is 1 sigma per axis (NaN: unknown);
    `usable` is False for saturated, blended or flagged sources. `matchable` tells those that may serve to recognise the
    pattern, where a centroid wrong by a pixel does no harm: blended and saturated ones are among the stars of a bright
    reference (None: the usable). `ra_deg`, `dec_deg` is the believed pointing of the focal-plane origin, `epoch_year`
    the date (NaN: no proper motion is applied).
    """

    name: str
    instrument: str
    ra_deg: float
    dec_deg: float
    epoch_year: float
    detector: Ints
    x_pix: Floats
    y_pix: Floats
    error_pix: Floats
    flux_adu: Floats
    flux_error_adu: Floats
    usable: Bools
    matchable: Bools | None = None


@dataclass(frozen=True)
class Ensemble:
    """Exposures solved together and the instruments they were made with."""

    instruments: tuple[InstrumentLayout, ...]
    exposures: tuple[ExposureSources, ...]


@dataclass(frozen=True)
class ReferenceStars:
    """Reference catalogue; `error_mas` is 1 sigma per axis (NaN: unknown), proper motion in mas/yr with cos(dec)."""

    ra_deg: Floats
    dec_deg: Floats
    error_mas: Floats
    mag: Floats
    epoch_year: float = float("nan")
    pm_ra_masyr: Floats | None = None
    pm_dec_masyr: Floats | None = None
    name: str = "reference"


@dataclass(frozen=True)
class AstrometryParameters:
    """Choices of the solution, units in the names.

    `start` is "pattern" (search within `search_radius_arcsec`) or "header" (pointing and layout believed to within
    `header_radius_arcsec`). `min_stars_per_term` stars per polynomial term of a detector are needed, else its degree
    falls. `layout_error_pix` is how far a detector may lie from its nominal place. `share_distortion` False gives
    every exposure its own distortion.
    """

    degree: int = 3
    share_distortion: bool = True
    exposure_transform: str = "affine"
    start: str = "pattern"
    search_radius_arcsec: float = 1800.0
    header_radius_arcsec: float = 5.0
    scale_tolerance: float = 0.02
    position_angle_deg: float | None = None
    position_angle_tolerance_deg: float = 5.0
    parity: int | None = None
    match: MatchParameters = field(default_factory=MatchParameters)
    min_snr: float = 5.0
    high_snr: float = 50.0
    max_sources_per_detector: int = 2000
    default_error_pix: float = 0.1
    position_floor_mas: float = 3.0
    default_reference_error_mas: float = 100.0
    reference_floor_mas: float = 0.1
    layout_error_pix: float = 10.0
    max_match_radius_arcsec: float = 60.0
    min_match_radius_pix: float = 0.5
    clip_sigma: float = 4.0
    n_associations: int = 5
    n_steps: int = 2
    min_stars_per_term: float = 3.0
    min_stars_per_exposure: int = 6


@dataclass(frozen=True)
class ExposureOutcome:
    """What became of an exposure: `used`, `used_with_warning` or `left_out`, why, and the figure that decided."""

    exposure: str
    outcome: str
    code: str
    reason: str
    value: float
    limit: float


@dataclass(frozen=True)
class DegreeFallback:
    """A detector solved with a lower polynomial degree than asked; degree -1 means its nominal place was kept."""

    instrument: str
    detector: int
    degree: int
    n_stars: int


@dataclass(frozen=True)
class ExposureMeasures:
    """Figures of one solved exposure.

    Contrast, false alarm and `n_matched` are those of the pattern match. `rotation_deg`, `scale_change` (found over
    nominal minus 1) and `shear` (ratio of the axes minus 1) compare the solution with the nominal layout; `parity`
    is -1 where the sky is mirrored against the layout. RMS are per axis, mas; NaN without pairs.
    """

    exposure: str
    n_sources: int
    n_reference: int
    n_internal: int
    n_matched: int
    n_expected: int
    contrast: float
    false_alarm_probability: float
    ra_deg: float
    dec_deg: float
    pointing_offset_arcsec: float
    pixel_scale_arcsec: float
    scale_change: float
    rotation_deg: float
    shear: float
    parity: int
    reference_rms_mas: float
    internal_rms_mas: float
    tied_by_overlaps: bool


@dataclass(frozen=True)
class Pairs:
    """Residuals, one row a detection: detection minus reference star, or minus the mean of its star's detections.

    `d_ra_mas` is along right ascension times cos(dec). `partner` is the row of the reference catalogue, or the
    star's number in this solution. `used` is False where clipped. `source` is the row in the exposure's list.
    """

    exposure: Ints
    detector: Ints
    source: Ints
    partner: Ints
    x_pix: Floats
    y_pix: Floats
    ra_deg: Floats
    dec_deg: Floats
    d_ra_mas: Floats
    d_dec_mas: Floats
    snr: Floats
    used: Bools


@dataclass(frozen=True)
class AstrometrySolution:
    """The solution: a WCS per (exposure, detector), residuals, figures and outcomes.

    `internal_rms_mas`: scatter of a single detection per axis about its star's mean, corrected for the mean's own
    degree of freedom (the scatter of pair differences is sqrt(2) larger), detections with high S/N, clipped.
    `reference_rms_mas`: scatter of detection minus reference per axis, likewise. `*_2` values are (RA, Dec).
    `internal_error_factor` multiplied the given centroid errors, `reference_extra_mas` was added in quadrature to the
    given reference errors, so that chi2 is credible. Coordinates refer to `epoch_year` (NaN: not applied).
    """

    detectors: tuple[DetectorSolution, ...]
    exposures: tuple[ExposureMeasures, ...]
    exposure_outcomes: tuple[ExposureOutcome, ...]
    degree_fallbacks: tuple[DegreeFallback, ...]
    reference_pairs: Pairs
    internal_pairs: Pairs
    internal_rms_mas: float
    internal_rms_mas_2: tuple[float, float]
    reference_rms_mas: float
    reference_rms_mas_2: tuple[float, float]
    n_reference: int
    n_internal: int
    n_clipped: int
    chi2: float
    n_degrees: int
    internal_error_factor: float
    reference_extra_mas: float
    match_radius_arcsec: float
    epoch_year: float
    reference_name: str

    def detector_solution(self, exposure: str, detector: int) -> DetectorSolution:
        """Return the WCS of one detector of one exposure; KeyError where the exposure was left out."""
        for one in self.detectors:
            if one.exposure == exposure and one.detector == detector:
                return one
        raise KeyError(f"no solution for exposure {exposure!r} detector {detector}")
