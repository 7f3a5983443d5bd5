"""The simulated exposures of the benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spica.steps.simulate import SurveyParameters, SurveyTruth, read_truth, simulate_survey

FILTER = "r"


@dataclass(frozen=True)
class Size:
    """How much is simulated: exposures of `grid` x `grid` detectors of `detector` x `detector` pixels."""

    exposures: int = 8
    grid: int = 2
    detector: int = 2048
    stars_per_arcmin2: float = 12.0
    seed: int = 1

    @property
    def megapixels(self) -> float:
        """Return the pixels of all exposures, 10^6."""
        return self.exposures * (self.grid * self.detector) ** 2 / 1e6


def make_survey(folder: Path, size: Size) -> tuple[SurveyTruth, list[Path]]:
    """Simulate the exposures into `folder/incoming`, their truth into `folder/truth`, where they are not there yet."""
    incoming, place = folder / "incoming", folder / "truth"
    if not (place / "survey.json").is_file():
        parameters = SurveyParameters(
            n_objects=1,
            filters=(FILTER,),
            n_exposures=size.exposures,
            n_x=size.grid,
            n_y=size.grid,
            detector_pix=(size.detector, size.detector),
            stars_per_arcmin2=size.stars_per_arcmin2,
            n_cloudy=0,
            n_defocused=0,
            n_trailed=0,
            n_truncated=0,
            n_missing_keyword=0,
            seed=size.seed,
        )
        simulate_survey(incoming, parameters, truth_folder=place)
    truth = read_truth(place)
    return truth, [incoming / exposure.file_name for exposure in truth.exposures]
