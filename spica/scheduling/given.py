"""Master files that a person gives: described by their header and what the person says, registered where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spica.db.calibration import BY_FILTER, register_master
from spica.db.engine import Database
from spica.db.file import know_file, know_location
from spica.db.node import know_node
from spica.files.checksum import sha256_file
from spica.files.scan import read_headers
from spica.files.workspace import Workspace
from spica.instruments.facts import ExposureFacts
from spica.instruments.registry import load_instruments, translate
from spica.instruments.translate import instrument_name
from spica.model.calibration import MasterKind, Validity
from spica.model.errors import DataError, UsageError
from spica.model.image import FileKind


@dataclass(frozen=True)
class Given:
    """What a person says of master files; None: as the header says."""

    kind: MasterKind
    instrument: str | None = None
    filter: str | None = None
    run: str | None = None
    any_run: bool = False
    first_night: str | None = None
    last_night: str | None = None


def add_masters(
    database: Database, workspace: Workspace, paths: Sequence[Path], given: Given
) -> list[tuple[Path, int]]:
    """Register master files where they lie; return each with its number.

    Raises
    ------
    DataError
        Where a file is no FITS image.
    RecipeError
        Where the person names a camera that has no profile.
    UsageError
        Where neither the header nor the person says the camera, or the filter of a flat.
    """
    registry = load_instruments(workspace.instruments_folder)
    if given.instrument is not None:
        registry.get(given.instrument)
    described = []
    for path in paths:
        try:
            headers = read_headers(path)
        except DataError as error:
            raise DataError(f"{path.name} is no master: {error}") from error
        instrument = registry.recognise(headers, path.name)
        try:
            facts = translate(instrument, headers, path.name)
        except DataError:
            facts = None
        known = instrument_name(instrument, headers) if instrument.name != "generic" else None
        validity = _validity(path, given, facts, known)
        described.append((path, sha256_file(path), validity, facts.mjd if facts else None))
    workspace.save_roots()
    added = []
    with database.begin() as session:
        node_id = know_node(session, workspace.node)
        for path, sha256, validity, mjd in described:
            file_id = know_file(session, sha256, path.stat().st_size, FileKind.CALIBRATION, path.name)
            root, relative = workspace.locate(path.absolute())
            know_location(session, file_id, node_id, root, relative)
            added.append((path, register_master(session, file_id, given.kind, validity, mjd=mjd)))
    return added


def _validity(path: Path, given: Given, facts: ExposureFacts | None, known: str | None) -> Validity:
    """Return where a file holds: as the person says, else its header; `known` is the camera it was recognised as."""
    instrument = given.instrument or (facts.instrument if facts else known)
    if instrument is None:
        raise UsageError(f"{path.name} does not say its camera; say --instrument (see: spica camera list)")
    filter_name = given.filter or (facts.filter if facts and facts.filter != "none" else None)
    if given.kind in BY_FILTER and filter_name is None:
        raise UsageError(f"{path.name} does not say its filter, and a {given.kind.value} holds for one; say --filter")
    return Validity(
        instrument=instrument,
        filter=filter_name,
        run=None if given.any_run else given.run or (facts.run if facts else None),
        first_night=given.first_night,
        last_night=given.last_night,
    )
