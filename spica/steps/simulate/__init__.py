"""A seeded simulated camera and survey with known truth."""

from __future__ import annotations

from spica.steps.simulate.camera import CameraModel, camera_to_sky, sky_to_camera
from spica.steps.simulate.exposure import ExposureTruth, simulate_exposure
from spica.steps.simulate.plan import FILTERS, ExposurePlan, FilterModel, SatelliteTrail, find_filter
from spica.steps.simulate.render import (
    DetectorImage,
    DetectorSources,
    expected_sources,
    measure_sky_adu,
    render_detector,
    render_scene,
)
from spica.steps.simulate.sky import SkyModel, draw_sky, join_skies
from spica.steps.simulate.survey import SurveyParameters, plan_survey, simulate_survey
from spica.steps.simulate.truth import SurveyTruth, make_reference, read_truth, write_truth

__all__ = [
    "FILTERS",
    "CameraModel",
    "DetectorImage",
    "DetectorSources",
    "ExposurePlan",
    "ExposureTruth",
    "FilterModel",
    "SatelliteTrail",
    "SkyModel",
    "SurveyParameters",
    "SurveyTruth",
    "camera_to_sky",
    "draw_sky",
    "expected_sources",
    "find_filter",
    "join_skies",
    "make_reference",
    "measure_sky_adu",
    "plan_survey",
    "read_truth",
    "render_detector",
    "render_scene",
    "simulate_exposure",
    "simulate_survey",
    "sky_to_camera",
    "write_truth",
]
