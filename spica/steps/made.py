"""What the stack step tells the steps after it; `measures.json` of a stack or calibrated copy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from spica.files.checksum import write_atomic
from spica.model.errors import DataError
from spica.model.grade import GradeLimits
from spica.model.product import StackRecord
from spica.model.record import canonical, from_json


@dataclass(frozen=True)
class MadeStack:
    """A stack as it was made: name, the harvest's record, what it is graded by."""

    name: str
    record: StackRecord
    grade_limits: tuple[GradeLimits, ...]
    filter: str
    object: str
    instrument: str

    @property
    def pixel_scale_arcsec(self) -> float:
        """Return arcsec per pixel."""
        return self.record.pixel_scale_arcsec

    @property
    def gain_e_per_adu(self) -> float | None:
        """Return the effective gain."""
        return self.record.gain_e_per_adu

    @property
    def saturation_adu(self) -> float | None:
        """Return the lowest saturation of the inputs, in ADU of the stack."""
        return self.record.saturation_adu

    @property
    def zero_point_mag(self) -> float | None:
        """Return the magnitude of 1 ADU, None where only relative."""
        return self.record.zero_point_mag


def write_made(path: Path, made: MadeStack) -> None:
    """Write the measures of a stack whole."""
    write_atomic(path, canonical(made).encode())


def read_made(path: Path) -> MadeStack:
    """Read what the stack step said."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path.name} is not JSON ({error}); run the stack job again") from error
    return from_json(MadeStack, data, path.name)
