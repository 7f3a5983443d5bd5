"""What a delivered manifest rests on: files whole, inputs at hand with the same content, software the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from spica import __version__
from spica.db.file import find_file, locations
from spica.files.manifest import check_files, read_manifest


@dataclass(frozen=True)
class Standing:
    """One thing the manifest says, and whether it still holds."""

    holds: bool
    text: str


def check_manifest(session: Session, path: Path) -> list[Standing]:
    """Check delivered files against their sums, inputs against the database, and the version."""
    manifest = read_manifest(path)
    problems = check_files(manifest, path.parent)
    checks = [Standing(False, p) for p in problems]
    if not problems:
        checks.append(Standing(True, f"{len(manifest.files)} delivered files have the sums of the manifest"))
    for item in manifest.inputs:
        file = find_file(session, item.sha256)
        if file is None:
            checks.append(
                Standing(False, f"input {item.name}: content {item.sha256[:8]} is unknown here; ingest it again")
            )
        elif not locations(session, file.id):
            checks.append(Standing(False, f"input {item.name}: no node holds it; ingest it again"))
        else:
            checks.append(Standing(True, f"input {item.name} is at hand"))
    versions = {step.version for step in manifest.lineage}
    same = versions <= {__version__}
    checks.append(Standing(same, f"made by Spica {' '.join(sorted(versions))}, this is {__version__}"))
    return checks
