"""Rules against the database: compiled to SQL for listings, judged one by one with the clause for plans.

`spica.model.selection.evaluate` is the meaning; the SQL gives the same answer on any row, unknown values included.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Date,
    Double,
    Select,
    Text,
    and_,
    any_,
    func,
    insert,
    literal,
    not_,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from spica.db.sky import images_in_circle
from spica.db.tables.image import DetectorRow, ImageRow, MeasureRow, TagRow
from spica.db.tables.job import SelectionMemberRow, SelectionRow
from spica.model.association import Circle
from spica.model.grade import Grade
from spica.model.image import FrameType, ImageKind, ImageState
from spica.model.selection import (
    FIELDS,
    And,
    Between,
    Candidate,
    Clause,
    Compare,
    Field,
    FieldKind,
    InList,
    IsKnown,
    Like,
    Lists,
    Not,
    OneOf,
    Or,
    Rule,
    Within,
    evaluate,
    explain,
    format_rule,
    rule_sha256,
)
from spica.model.selection.evaluate import NO_LISTS, ORDERS, limit_of, named_list
from spica.model.selection.fields import Literal, compared
from spica.model.selection.rule import Leaf

Condition = ColumnElement[bool]

COLUMNS: dict[str, Any] = {
    "seeing": MeasureRow.seeing_arcsec,
    "exptime": ImageRow.exptime_s,
    "skyprobe": MeasureRow.skyprobe_mag,
    "airmass": ImageRow.airmass,
    "ellipticity": MeasureRow.ellipticity,
    "background": MeasureRow.background_adu,
    "noise": MeasureRow.noise_adu,
    "limiting_mag": MeasureRow.limiting_mag,
    "zero_point": MeasureRow.zero_point_mag,
    "n_stars": MeasureRow.n_stars,
    "grade": MeasureRow.grade,
    "object": ImageRow.object_key,
    "filter": ImageRow.filter,
    "run": ImageRow.run,
    "instrument": ImageRow.instrument,
    "night": ImageRow.night,
    "date": func.floor(ImageRow.mjd, type_=Double()),
    "mjd": ImageRow.mjd,
    "ra": ImageRow.ra_deg,
    "dec": ImageRow.dec_deg,
    "name": ImageRow.name,
    "kind": ImageRow.kind,
    "state": ImageRow.state,
}
"""Column of each field but tags."""

CHOICES: dict[str, type[Grade | ImageKind | ImageState]] = {"grade": Grade, "kind": ImageKind, "state": ImageState}


def compile_rule(rule: Rule, lists: Lists = NO_LISTS) -> Condition:
    """Return a rule as a condition for statements over `image` LEFT JOIN `measure`.

    It is true, false or NULL where `evaluate` is True, False or None.

    Raises
    ------
    RecipeError
        The rule asks for a list that is not in `lists`.
    """
    match rule:
        case And(rules):
            return and_(*(compile_rule(r, lists) for r in rules))
        case Or(rules):
            return or_(*(compile_rule(r, lists) for r in rules))
        case Not(inner):
            return not_(compile_rule(inner, lists))
        case leaf:
            return _leaf(leaf, lists)


def _leaf(leaf: Leaf, lists: Lists) -> Condition:
    match leaf:
        case Within():
            return _within(leaf)
        case InList(name):
            return ImageRow.name == any_(literal(sorted(named_list(lists, name)), ARRAY(Text)))
    field = FIELDS[leaf.field]
    if field.kind is FieldKind.TAG:
        return _tagged(leaf)
    column = COLUMNS[field.name]
    if isinstance(leaf, IsKnown):
        known: Condition = column.is_not(None) if leaf.known else column.is_(None)
        return known
    return _compared(leaf, field, column)


def _compared(leaf: Compare | Between | OneOf | Like, field: Field, column: Any) -> Condition:
    ordered = column.collate("C") if field.kind is FieldKind.TEXT else column
    condition: Condition
    match leaf:
        case Compare(_, "=" | "!=" as sign, value):
            condition = ORDERS[sign](column, _bound(field, value))  # type: ignore[assignment]
        case Compare(_, sign, value):
            condition = ORDERS[sign](ordered, _bound(field, value))  # type: ignore[assignment]
        case Between(_, low, high):
            condition = ordered.between(_bound(field, low), _bound(field, high))
        case OneOf(_, values):
            condition = column.in_([_bound(field, v) for v in values])
        case Like(_, pattern):
            condition = column.like(_like(str(compared(field, pattern))), escape="\\")
    return condition


def _bound(field: Field, value: Literal) -> Any:
    """Return a literal as a bound value of its own type: 0.5 stars must not be rounded to a whole number."""
    if field.name in CHOICES:
        return CHOICES[field.name](str(value))
    plain = compared(field, value)
    if isinstance(plain, date):
        return literal(plain, Date())
    return literal(plain, Text()) if isinstance(plain, str) else literal(plain, Double())


def _like(pattern: str) -> str:
    """Return the pattern of LIKE for one with * and ?."""
    signs = {"*": "%", "?": "_", "%": "\\%", "_": "\\_", "\\": "\\\\"}
    return "".join(signs.get(c, c) for c in pattern)


def _tagged(leaf: Compare | Between | OneOf | Like | IsKnown) -> Condition:
    tags = select(TagRow.image_id).where(TagRow.image_id == ImageRow.id).correlate(ImageRow)
    match leaf:
        case IsKnown(_, known):
            return tags.exists() if known else ~tags.exists()
        case Compare(_, sign, value):
            found = tags.where(TagRow.name == str(value)).exists()
            return found if sign == "=" else ~found
        case OneOf(_, values):
            return tags.where(TagRow.name.in_([str(v) for v in values])).exists()
        case Like(_, pattern):
            return tags.where(TagRow.name.like(_like(pattern), escape="\\")).exists()
        case Between():
            raise AssertionError("tags have no order; the parser lets none through")


def _within(circle: Within) -> Condition:
    """Haversine as in `evaluate`: sin^2 of half the distance, exact for small angles."""
    half_dec = func.sin((func.radians(ImageRow.dec_deg) - math.radians(circle.dec_deg)) / 2.0)
    half_ra = func.sin(func.radians(ImageRow.ra_deg - literal(circle.ra_deg, Double())) / 2.0)
    cosines = func.cos(func.radians(ImageRow.dec_deg)) * math.cos(math.radians(circle.dec_deg))
    condition: Condition = half_dec * half_dec + cosines * half_ra * half_ra <= literal(limit_of(circle), Double())
    return condition


ATTRIBUTES: dict[str, Any] = {
    "image_id": ImageRow.id,
    "object": ImageRow.object,
    "file_id": ImageRow.file_id,
    "quality_id": ImageRow.quality_id,
    "grade_id": ImageRow.grade_id,
    "solution_id": ImageRow.solution_id,
} | {field.attribute: COLUMNS[name] for name, field in FIELDS.items() if name not in ("tag", "date")}
"""Column of each attribute of `Candidate` but tags and polygons."""


def select_candidates(
    session: Session,
    where: Sequence[Condition] = (),
    *,
    kind: ImageKind | None = ImageKind.EXPOSURE,
    footprints: bool = True,
) -> list[Candidate]:
    """Read images as rules and grouping see them, by id: three statements, however many there are.

    Of exposures only science frames, in whatever state. `where` speaks of `ImageRow` and `MeasureRow`; `footprints`
    False leaves the polygons empty.
    """
    conditions = list(where)
    if kind is not None:
        conditions.append(ImageRow.kind == kind)
    if kind is ImageKind.EXPOSURE:
        conditions.append(ImageRow.frame_type == FrameType.SCIENCE)
    query = _from_images(select(*(c.label(f"c_{name}") for name, c in ATTRIBUTES.items())), conditions)
    rows = session.execute(query.order_by(ImageRow.id)).all()
    ids = [row[0] for row in rows]
    tags, polygons = _tags(session, ids), _polygons(session, ids) if footprints else {}
    return [
        Candidate(
            **dict(zip(ATTRIBUTES, row, strict=True)),
            tags=frozenset(tags.get(row[0], ())),
            polygons_deg=tuple(polygons.get(row[0], ())),
        )
        for row in rows
    ]


def _from_images(query: Select[Any], conditions: Sequence[Condition]) -> Select[Any]:
    joined = query.select_from(ImageRow).outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
    return joined.where(*conditions)


def _tags(session: Session, ids: list[int]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    query = select(TagRow.image_id, TagRow.name).where(TagRow.image_id == any_(literal(ids, ARRAY(BigInteger))))
    for image_id, name in session.execute(query):
        found[image_id].append(name)
    return found


def _polygons(session: Session, ids: list[int]) -> dict[int, list[tuple[tuple[float, float], ...]]]:
    found: dict[int, list[tuple[tuple[float, float], ...]]] = defaultdict(list)
    query = (
        select(DetectorRow.image_id, DetectorRow.polygon_ra_deg, DetectorRow.polygon_dec_deg)
        .where(DetectorRow.image_id == any_(literal(ids, ARRAY(BigInteger))))
        .order_by(DetectorRow.image_id, DetectorRow.number)
    )
    for image_id, ra, dec in session.execute(query):
        if ra and dec and len(ra) == len(dec):
            found[image_id].append(tuple(zip(ra, dec, strict=True)))
    return found


def association_filter(
    session: Session,
    *,
    object_key: str | None = None,
    instrument: str | None = None,
    filter_name: str | None = None,
    circle: Circle | None = None,
    kind: ImageKind = ImageKind.EXPOSURE,
) -> list[Condition]:
    """Return the conditions that bound the candidates of an association; None does not bound."""
    bounds = {ImageRow.object_key: object_key, ImageRow.instrument: instrument, ImageRow.filter: filter_name}
    conditions: list[Condition] = [column == value for column, value in bounds.items() if value is not None]
    if circle is not None:
        inside = images_in_circle(session, circle, kind)
        conditions.append(ImageRow.id == any_(literal(inside, ARRAY(BigInteger))))
    return conditions


@dataclass(frozen=True)
class LeftOut:
    """A candidate that was not taken, and the clause that kept it out."""

    candidate: Candidate
    clause: Clause


@dataclass(frozen=True)
class Judged:
    """All candidates of an association: taken, or left out with the clause; both by id."""

    rule: Rule
    chosen: tuple[Candidate, ...]
    left_out: tuple[LeftOut, ...]


def judge(
    session: Session,
    rule: Rule,
    where: Sequence[Condition] = (),
    *,
    kind: ImageKind = ImageKind.EXPOSURE,
    lists: Lists = NO_LISTS,
    footprints: bool = True,
) -> Judged:
    """Judge all candidates by a rule; rejected images and those without quality are left out before it.

    Raises
    ------
    RecipeError
        The rule asks for a list that is not in `lists`.
    """
    return judge_candidates(rule, select_candidates(session, where, kind=kind, footprints=footprints), lists)


def judge_candidates(rule: Rule, candidates: Sequence[Candidate], lists: Lists = NO_LISTS) -> Judged:
    """Judge candidates that were read before; see `judge`."""
    chosen, left_out = [], []
    for candidate in candidates:
        clause = _unusable(candidate)
        if clause is None and evaluate(rule, candidate, lists) is not True:
            clause = explain(rule, candidate, lists)
        if clause is None:
            chosen.append(candidate)
        else:
            left_out.append(LeftOut(candidate, clause))
    return Judged(rule, tuple(chosen), tuple(left_out))


def _unusable(candidate: Candidate) -> Clause | None:
    """Return why an image cannot be used at all, whatever the rule says."""
    if candidate.state is ImageState.REJECTED:
        return Clause("state != rejected", ImageState.REJECTED.value, False, "state")
    if candidate.quality_id is None:
        return Clause("quality is known", "unknown", True, "quality")
    return None


def record_selection(
    session: Session, judged: Judged, person_id: int | None = None, rule_version_id: int | None = None
) -> int:
    """Keep a rule as it was judged, with each candidate in or out, clause, value and rows judged; return its id.

    The text kept is the rule's one spelling, so that equal rules have equal hashes. `rule_version_id` names the saved
    version it came from, None where it is none.
    """
    row = SelectionRow(
        rule=format_rule(judged.rule),
        rule_sha256=rule_sha256(judged.rule),
        person_id=person_id,
        rule_version_id=rule_version_id,
    )
    session.add(row)
    session.flush()
    members = [_member(row.id, c, None) for c in judged.chosen]
    members += [_member(row.id, o.candidate, o.clause) for o in judged.left_out]
    if members:
        session.execute(insert(SelectionMemberRow), members)
    return row.id


def _member(selection_id: int, candidate: Candidate, clause: Clause | None) -> dict[str, Any]:
    return {
        "selection_id": selection_id,
        "image_id": candidate.image_id,
        "chosen": clause is None,
        "clause": None if clause is None else clause.text,
        "value": None if clause is None else clause.value,
        "quality_id": candidate.quality_id,
        "grade_id": candidate.grade_id,
    }
