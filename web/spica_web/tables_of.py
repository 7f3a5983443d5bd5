"""The columns of each list as a table: JSON names, units (VOUnits), UCDs, meanings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, any_, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from spica.db.overview import list_images, list_jobs, list_stacks
from spica.db.pages.night import NightEntry, ObjectEntry, RunEntry
from spica.db.pages.plan import PlanEntry
from spica.db.person import Person
from spica.db.tables.image import ImageRow
from spica.db.tables.job import JobRow
from spica.db.tables.product import SourceRow
from spica.model.overview import ImageEntry, JobEntry, NodeEntry, StackEntry
from spica.scheduling.stale import StaleReason
from spica_web.deps import Site
from spica_web.public import shown_image, shown_stack
from spica_web.tables import Column, Kind, Table, rows_by_ids, rows_by_key


def _column(name: str, kind: Kind, text: str, unit: str = "", ucd: str = "", path: str = "") -> Column[Any]:
    return Column(name, kind, text, attrgetter(path or name), unit, ucd)


def _reasons(row: ImageEntry) -> str:
    return "; ".join(r.text for r in row.reason)


def _whole(row: Any) -> Any:
    return row


def _jobs_by_state(plan: PlanEntry) -> str:
    return " ".join(f"{state}:{n}" for state, n in sorted(plan.jobs.items()))


_ID = _column("id", "int", "number in this survey", ucd="meta.id;meta.main")
_NAME = _column("name", "text", "file name without suffixes", ucd="meta.id")
_RA = _column("ra_deg", "float", "right ascension of the centre", "deg", "pos.eq.ra;meta.main")
_DEC = _column("dec_deg", "float", "declination of the centre", "deg", "pos.eq.dec;meta.main")
_OBJECT = _column("object", "text", "object", ucd="meta.id;src")
_FILTER = _column("filter", "text", "filter, canonical name", ucd="meta.id;instr.filter")
_NIGHT = _column("night", "text", "local noon to noon of the observatory, its first date", ucd="time.epoch")
_EXPTIME = _column("exptime_s", "float", "exposure time", "s", "time.duration;obs.exposure")
_SEEING = _column("seeing_arcsec", "float", "FWHM of stars, median", "arcsec", "instr.obsty.seeing")
_DEPTH = _column(
    "limiting_mag", "float", "5 sigma in an aperture of 2 arcsec diameter", "mag", "phot.mag;stat.max;obs.field"
)
_ZERO = _column("zero_point_mag", "float", "magnitude of 1 ADU/s (of 1 ADU in a stack)", "mag", "phot.mag;arith.zp")
_SYSTEM = _column("mag_system", "text", "magnitude system of the zero point", ucd="meta.id;phot")
_GRADE = _column("grade", "text", "grade that counts, A to D", ucd="meta.code.qual")
_SOURCE = _column("grade_source", "text", "machine or human", ucd="meta.code")
_STATE = _column("state", "text", "how far it has come", ucd="meta.code.status")
_KIND = _column("kind", "text", "exposure, stack or calibrated copy", ucd="meta.code.class")

EXPOSURES: Table[ImageEntry] = Table(
    "exposures",
    "Exposures of the survey with the measures that count",
    (
        _ID, _NAME, _KIND,
        _column("instrument", "text", "instrument's profile", ucd="meta.id;instr"),
        _OBJECT, _FILTER,
        _column("filter_raw", "text", "filter as the header says", ucd="meta.note"),
        _column("run", "text", "observing run", ucd="meta.id;obs"),
        _NIGHT, _EXPTIME,
        _column("mjd", "float", "middle of the exposure, UTC", "d", "time.epoch;obs.exposure"),
        _column("airmass", "float", "airmass", ucd="obs.airMass"),
        _RA, _DEC,
        _column("n_detectors", "int", "detectors", ucd="meta.number;instr.det"),
        _SEEING,
        _column("ellipticity", "float", "1 - b/a of stars, median", ucd="src.ellipticity"),
        _column("background_adu", "float", "sky background", "adu", "instr.background"),
        _column("noise_adu", "float", "background noise of a pixel", "adu", "stat.stdev;instr.background"),
        _DEPTH,
        _column("n_stars", "int", "stars accepted for the PSF", ucd="meta.number;src"),
        _ZERO, _SYSTEM,
        _column("skyprobe_mag", "float", "attenuation of the sky", "mag", "phys.absorption;obs"),
        _GRADE, _SOURCE, _STATE,
        Column("reason", "text", "why it is in its state", _reasons, ucd="meta.note"),
        _column("path", "text", "where its file lies", ucd="meta.ref.url"),
        _column("position_source", "text", "where the footprint comes from", ucd="meta.note"),
        _column("frame_type", "text", "what the shutter saw", ucd="meta.code.class"),
    ),
    _whole,
)  # fmt: skip

STACKS: Table[StackEntry] = Table(
    "stacks",
    "Stacks and calibrated copies",
    (
        _ID, _NAME, _KIND,
        _column("mode", "text", "how its exposures were chosen", ucd="meta.code"),
        _OBJECT, _FILTER, _RA, _DEC,
        _column("n_inputs", "int", "exposures combined", ucd="meta.number;obs"),
        _EXPTIME, _SEEING, _DEPTH, _ZERO, _SYSTEM,
        _column("internal_mas", "float", "astrometry: rms per axis between exposures", "mas", "stat.stdev;pos",
                "astrometry.internal_mas"),
        _column("reference_mas", "float", "astrometry: rms per axis to the reference", "mas", "stat.stdev;pos",
                "astrometry.reference_mas"),
        _column("n_reference", "int", "reference stars matched", "", "meta.number;src", "astrometry.n_reference"),
        _column("internal_mag", "float", "photometry: rms between exposures", "mag", "stat.stdev;phot.mag",
                "photometry.internal_mag"),
        _column("reference_mag", "float", "photometry: rms to the reference", "mag", "stat.stdev;phot.mag",
                "photometry.reference_mag"),
        _GRADE, _SOURCE, _STATE,
        _column("stale", "bool", "a judged quality or grade no longer counts", ucd="meta.code.qual"),
        _column("plan", "int", "its plan", ucd="meta.id"),
        _column("path", "text", "where its pixels lie", ucd="meta.ref.url"),
        _column("weight_path", "text", "where its weight map lies", ucd="meta.ref.url"),
        _column("catalogue_path", "text", "where its catalogue lies", ucd="meta.ref.url"),
        _column("delivered_path", "text", "where it was delivered", ucd="meta.ref.url"),
    ),
    _whole,
)  # fmt: skip


@dataclass(frozen=True)
class StaleEntry:
    """A stale stack as the list of them gives it to programs."""

    id: int
    name: str
    kind: str
    object: str | None
    filter: str | None
    state: str
    plan: int
    changed_at: str
    outcome: str
    again: int | None
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    reasons: tuple[StaleReason, ...]


STALE: Table[StaleEntry] = Table(
    "stale",
    "Stacks that would be another one if they were made today",
    (
        _ID, _NAME, _KIND, _OBJECT, _FILTER, _STATE,
        _column("plan", "int", "its plan", ucd="meta.id"),
        _column("changed_at", "text", "newest change since it was planned, UTC", ucd="time.epoch"),
        _column("outcome", "text", "planned: it can be planned again; known: it would be the same; again: a plan is "
                "under way; refused", ucd="meta.code"),
        _column("again", "int", "plan under way that makes it again", ucd="meta.id"),
        _column("gained", "text", "exposures that would join", ucd="meta.id"),
        _column("lost", "text", "exposures that would leave", ucd="meta.id"),
        Column("reasons", "text", "what has changed", lambda s: "; ".join(r.text for r in s.reasons), ucd="meta.note"),
    ),
    _whole,
)  # fmt: skip

JOBS: Table[JobEntry] = Table(
    "jobs",
    "Jobs, each with its last attempt",
    (
        _ID,
        _column("kind", "text", "kind of step", ucd="meta.code.class"),
        _column("label", "text", "what people call it", ucd="meta.title"),
        _STATE,
        _column("attempts", "int", "attempts so far", ucd="meta.number"),
        _column("node", "text", "node of the last attempt", ucd="meta.id"),
        _column("exit_code", "int", "exit code of the last attempt; negative: the signal", ucd="meta.code.status"),
        _column("error_kind", "text", "class of the error that ended it", ucd="meta.code"),
        _column("error", "text", "what happened and what to do", ucd="meta.note"),
        _column("seconds", "float", "wall time of the last attempt", "s", "time.duration"),
        _column("plan", "int", "its plan", ucd="meta.id"),
        _column("image", "int", "image it makes or judges", ucd="meta.id"),
        _column("engine", "text", "engine that runs it", ucd="meta.id;meta.software"),
        _column("script", "text", "where its script lies", ucd="meta.ref.url"),
        _column("log", "text", "where its log lies", ucd="meta.ref.url"),
    ),
    _whole,
)

PLANS: Table[PlanEntry] = Table(
    "plans",
    "Plans: the jobs of one association or intake",
    (
        _ID,
        _column("label", "text", "what people call it", ucd="meta.title"),
        _column("mode", "text", "how exposures were chosen", ucd="meta.code.class"),
        _FILTER,
        Column("created_at", "text", "when it was made, UTC", lambda p: p.created_at.isoformat(), ucd="time.creation"),
        _column("person", "text", "who; none: the command line", ucd="meta.curation"),
        _column("stack_id", "int", "its product", ucd="meta.id"),
        _column("stack", "text", "name of its product", ucd="meta.id"),
        _column("stack_state", "text", "how far its product has come", ucd="meta.code.status"),
        _column("chosen", "int", "candidates that its rule chose", ucd="meta.number;obs"),
        _column("left_out", "int", "candidates that its rule left out", ucd="meta.number;obs"),
        Column("jobs", "text", "jobs by state, as STATE:number", _jobs_by_state, ucd="meta.note"),
    ),
)
NODES: Table[NodeEntry] = Table(
    "nodes",
    "Nodes of the cluster",
    (
        _ID,
        _column("name", "text", "name of the node", ucd="meta.id"),
        _column("host", "text", "host it last ran on", ucd="meta.id"),
        _STATE,
        _column("alive", "bool", "whether its heartbeat is fresh", ucd="meta.code.status"),
        _column("slots", "int", "jobs at once", ucd="meta.number"),
        _column("busy", "int", "jobs running at the last heartbeat", ucd="meta.number"),
        _column("seen_at", "text", "last heartbeat, UTC", ucd="time.epoch"),
        _column("disk_free_bytes", "int", "free disk of its data root", "byte", "meta.number"),
        _column("load", "float", "load average of one minute", ucd="meta.number"),
        _column("drained_at", "text", "since when it takes no new jobs, UTC; none: it does", ucd="time.start"),
        _column("drained_by", "text", "who drained it; none: the command line", ucd="meta.curation"),
        _column("drained_why", "text", "why it is drained", ucd="meta.note"),
    ),
    _whole,
)


def _grade_columns() -> tuple[Column[Any], ...]:
    def at(index: int) -> Callable[[Any], int]:
        return lambda row: row.grades[index]

    words = ("A", "B", "C", "D", "none")
    return tuple(
        Column(f"grade_{word.lower()}", "int", f"exposures of grade {word}", at(i), ucd="meta.number")
        for i, word in enumerate(words)
    )


def _by_filter(row: Any) -> str:
    return " ".join(f"{f.filter or 'unknown'}:{f.n}" for f in row.filters)


_N = _column("n", "int", "exposures", ucd="meta.number;obs")
_FILTERS: Column[Any] = Column("filters", "text", "exposures by filter, as name:number", _by_filter, ucd="meta.note")
_REJECTED = _column("rejected", "int", "exposures rejected or failed", ucd="meta.number")
_USED = _column("stacked", "int", "exposures that entered a stack", ucd="meta.number;obs")
_FIELD_DEPTH = _column(
    "depth_mag", "float", "expected 5 sigma depth of all usable exposures together", "mag", "phot.mag;stat.max"
)

NIGHTS: Table[NightEntry] = Table(
    "nights",
    "Nights of the survey",
    (_NIGHT, _N, _FILTERS, *_grade_columns(), _EXPTIME, _SEEING, _DEPTH, _USED, _REJECTED),
)
RUNS: Table[RunEntry] = Table(
    "runs",
    "Observing runs of the survey",
    (
        _column("run", "text", "observing run", ucd="meta.id;obs;meta.main"),
        _column("first_night", "text", "first night", ucd="time.start"),
        _column("last_night", "text", "last night", ucd="time.end"),
        _column("nights", "int", "nights with exposures", ucd="meta.number"),
        _N, _FILTERS, *_grade_columns(), _EXPTIME, _SEEING, _DEPTH, _USED, _REJECTED,
    ),
)  # fmt: skip
OBJECTS: Table[ObjectEntry] = Table(
    "objects",
    "Objects of the survey by filter",
    (
        _column("object", "text", "object", ucd="meta.id;src;meta.main"),
        _FILTER, _N, *_grade_columns(), _EXPTIME, _SEEING, _DEPTH, _FIELD_DEPTH, _USED,
        _column("stacks", "int", "stacks made", ucd="meta.number"),
        _REJECTED, _RA, _DEC,
    ),
)  # fmt: skip

SOURCES: Table[SourceRow] = Table(
    "catalogue",
    "Sources of one catalogue",
    (
        _column("number", "int", "number in the catalogue", ucd="meta.record;meta.main"),
        _column("ra_deg", "float", "windowed right ascension", "deg", "pos.eq.ra;meta.main"),
        _column("dec_deg", "float", "windowed declination", "deg", "pos.eq.dec;meta.main"),
        _column("x_pix", "float", "windowed column, from 0", "pix", "pos.cartesian.x;instr.det"),
        _column("y_pix", "float", "windowed row, from 0", "pix", "pos.cartesian.y;instr.det"),
        _column("mag_auto", "float", "Kron-like magnitude", "mag", "phot.mag"),
        _column("magerr_auto", "float", "error of mag_auto", "mag", "stat.error;phot.mag"),
        _column("mag_aper", "text", "aperture magnitudes in the recipe's order, mag", ucd="phot.mag"),
        _column("magerr_aper", "text", "their errors, mag", ucd="stat.error;phot.mag"),
        _column("flux_radius_pix", "float", "half-light radius", "pix", "phys.angSize"),
        _column("fwhm_pix", "float", "FWHM", "pix", "phys.angSize"),
        _column("elongation", "float", "a/b", ucd="src.ellipticity"),
        _column("flags", "int", "extraction flags of SExtractor", ucd="meta.code"),
    ),
)  # fmt: skip


def exposure_rows(site: Site, person: Person, ids: Sequence[int]) -> Iterator[ImageEntry]:
    """Yield exposures of ids in their order, as a person may see them."""

    def read(session: Session, wanted: list[int]) -> list[ImageEntry]:
        among = ImageRow.id == any_(literal(wanted, ARRAY(BigInteger)))
        return [shown_image(person, row) for row in list_images(session, site.workspace, [among], kind=None)]

    return rows_by_ids(site, ids, read)


def stack_rows(site: Site, person: Person, ids: Sequence[int]) -> Iterator[StackEntry]:
    """Yield stacks and calibrated copies of ids in their order, as a person may see them."""

    def read(session: Session, wanted: list[int]) -> list[StackEntry]:
        among = ImageRow.id == any_(literal(wanted, ARRAY(BigInteger)))
        return [shown_stack(person, row) for row in list_stacks(session, site.workspace, [among])]

    return rows_by_ids(site, ids, read)


def job_rows(site: Site, where: Sequence[ColumnElement[bool]] = ()) -> Iterator[JobEntry]:
    """Yield the jobs that meet conditions, newest first."""

    def read(session: Session, before: int | None, n: int) -> list[JobEntry]:
        more = [] if before is None else [JobRow.id < before]
        return list_jobs(session, site.workspace, [*where, *more], newest_first=True, limit=n)

    return rows_by_key(site, read, attrgetter("id"))


def source_rows(site: Site, image_id: int, where: Sequence[ColumnElement[bool]] = ()) -> Iterator[SourceRow]:
    """Yield the sources of an image's catalogue that meet conditions, by number."""

    def read(session: Session, after: int | None, n: int) -> list[SourceRow]:
        more = [] if after is None else [SourceRow.number > after]
        query = select(SourceRow).where(SourceRow.image_id == image_id, *where, *more).order_by(SourceRow.number)
        return list(session.scalars(query.limit(n)))

    return rows_by_key(site, read, attrgetter("number"))
