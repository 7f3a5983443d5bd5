"""Between SCAMP's runs: `python -m spica.astromatic.keep REPORT ALL KEPT MIN_REFERENCE` lists the exposures that match.

One exposure that matches nothing draws the others with it (to 90 mas), so the next run is made without it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from spica.astromatic.verdict import judge_fields
from spica.astromatic.votable import read_report
from spica.model.errors import DataError


def matched_catalogues(report: Path, catalogues: tuple[str, ...], min_reference: int) -> tuple[str, ...]:
    """Return the catalogues whose match holds; none where the report cannot be used."""
    try:
        verdicts = judge_fields(read_report(report, "scamp"), catalogues, min_reference)
    except DataError as error:
        sys.stdout.write(f"{error}\n")
        return ()
    return tuple(c for c, v in zip(catalogues, verdicts, strict=True) if v.reason is None)


def main(arguments: list[str]) -> int:
    """Write the list of the exposures that are kept; empty where none is."""
    report, everything, kept, least = arguments
    names = tuple(Path(everything).read_text(encoding="ascii").split())
    found = matched_catalogues(Path(report), names, int(least))
    Path(kept).write_text("".join(f"{name}\n" for name in found), encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
