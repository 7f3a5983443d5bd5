"""Files by content: recorded once, found where they lie, small ones kept centrally."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from spica.db import file as files
from spica.db.engine import Database
from spica.db.node import Beat, beat, know_node
from spica.model.errors import ConflictError, DataError, UsageError
from spica.model.image import FileKind
from spica.model.job import FileRef
from spica.model.node import LocationState

SUMS = [f"{n:064x}" for n in range(8)]


def know(session: Session, number: int = 0, **changes: object) -> int:
    """Record a file with plain facts."""
    facts = {"sha256": SUMS[number], "size": 100, "kind": FileKind.EXPOSURE, "name": "744123p.fits.fz"}
    return files.know_file(session, **(facts | changes))  # type: ignore[arg-type]


def test_same_content_is_one_file(session: Session) -> None:
    """A second arrival under another name is the same file, and keeps what was known."""
    first = know(session)
    assert know(session, name="copy.fits", kind=FileKind.IGNORED) == first
    assert know(session, 1) != first
    found = files.read_file(session, first)
    assert (found.name, found.kind, found.size) == ("744123p.fits.fz", FileKind.EXPOSURE, 100)
    assert found.created_at.utcoffset() is not None
    assert found.ref == FileRef(first, SUMS[0], "744123p.fits.fz", 100)
    assert files.find_file(session, SUMS[0]) == found
    assert files.find_file(session, SUMS[5]) is None
    files.set_kind(session, first, FileKind.IGNORED)
    assert files.read_file(session, first).kind is FileKind.IGNORED


def test_many_at_once(session: Session) -> None:
    """Looked up by many ids and many hashes in one question each; unknown ones are left out."""
    ids = [know(session, n) for n in range(3)]
    assert set(files.read_files(session, [*ids, 999])) == set(ids)
    assert files.known_hashes(session, SUMS) == frozenset(SUMS[:3])
    assert files.known_hashes(session, []) == frozenset()


def test_two_transactions_know_the_same_file(database: Database) -> None:
    """The second waits for the first's end and gets its id."""
    found: list[int] = []

    def second() -> None:
        with database.begin() as session:
            found.append(know(session))

    with database.begin() as session:
        first = know(session)
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive(), "the second did not wait"
    thread.join(10)
    assert found == [first]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"sha256": "ab"}, UsageError, "no SHA-256"),
        ({"sha256": "A" * 64}, UsageError, "no SHA-256"),
        ({"name": "a/b.fits"}, UsageError, "no file name"),
        ({"name": ""}, UsageError, "no file name"),
        ({"size": 101}, ConflictError, "hash the file again"),
    ],
)
def test_wrong_facts_are_refused(
    session: Session, changes: dict[str, object], error: type[Exception], words: str
) -> None:
    """No path, no half hash, no second size."""
    know(session)
    with pytest.raises(error, match=words):
        know(session, **changes)


def test_unknown_file(session: Session) -> None:
    """An id that is none says so."""
    with pytest.raises(UsageError, match="no file 17"):
        files.read_file(session, 17)


def test_locations(session: Session) -> None:
    """Present places first; each with what another node needs to fetch the file."""
    one, two = know_node(session, "n1", "host1"), know_node(session, "n2")
    beat(session, two, Beat(slots=2, busy=0, address="10.0.0.2:9000", token="secret"))
    file_id = know(session)
    lost = files.know_location(session, file_id, one, "incoming", "a/744123p.fits.fz")
    kept = files.know_location(session, file_id, two, "data", "megacam/744123p-00000000.fits.fz")
    assert [place.id for place in files.locations(session, file_id)] == [lost, kept]
    files.lose_location(session, lost)
    first, second = files.locations(session, file_id)
    assert (first.id, first.node, first.address, first.token) == (kept, "n2", "10.0.0.2:9000", "secret")
    assert (second.host, second.state, second.root) == ("host1", LocationState.MISSING, "incoming")
    assert "secret" not in repr(first)
    assert files.locations_of(session, [file_id, 99]) == {file_id: (first, second)}
    assert files.file_at(session, one, "incoming", "a/744123p.fits.fz") is None
    assert files.file_at(session, two, "data", first.relative_path) == files.read_file(session, file_id)
    files.forget_location(session, lost)
    assert files.locations(session, file_id) == (first,)


def test_place_with_new_content(session: Session) -> None:
    """A file that was replaced where it lay: the place is the new file's; seen again, a missing one is present."""
    node = know_node(session, "n1")
    old, new = know(session, 0), know(session, 1)
    place = files.know_location(session, old, node, "incoming", "x.fits")
    assert files.know_location(session, new, node, "incoming", "x.fits") == place
    assert files.locations(session, old) == ()
    files.lose_location(session, place)
    files.know_location(session, new, node, "incoming", "x.fits")
    assert files.locations(session, new)[0].state is LocationState.PRESENT


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", ""])
def test_paths_stay_below_their_root(session: Session, path: str) -> None:
    """No absolute path and no way out enters the database."""
    node = know_node(session, "n1")
    with pytest.raises(UsageError, match="no path below"):
        files.know_location(session, know(session), node, "data", path)


def test_content(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes come back as they were, once; a large one is refused."""
    file_id = know(session)
    raw = bytes(range(256)) * 40
    assert files.read_content(session, file_id) is None
    assert not files.has_content(session, file_id)
    files.store_content(session, file_id, "image/png", raw)
    files.store_content(session, file_id, "text/plain", b"later")
    assert files.read_content(session, file_id) == files.Content(file_id, "image/png", raw)
    assert files.has_content(session, file_id)
    monkeypatch.setattr(files, "MAX_CONTENT_BYTES", 10)
    with pytest.raises(DataError, match="keep it as a file only"):
        files.store_content(session, file_id, "image/png", raw)


def test_location_needs_its_file(make_database: Callable[[], Database]) -> None:
    """The database itself refuses a place of no file."""
    database = make_database()
    with database.begin() as session:
        node = know_node(session, "n1")
    with pytest.raises(IntegrityError), database.begin() as session:
        files.know_location(session, 12345, node, "data", "x")
