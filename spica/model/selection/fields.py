"""The words of the rule language: fields with kind, unit and meaning, and the image they are read from."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from datetime import date

from spica.model.grade import Grade
from spica.model.image import ImageKind, ImageState, normalise_object

Literal = float | str | date
"""What a rule compares with."""

MJD_ZERO = date(1858, 11, 17)
"""Day 0 of the modified Julian date."""


class FieldKind(enum.StrEnum):
    """What a field holds; it decides which comparisons are allowed."""

    NUMBER = "number"
    TEXT = "text"
    DATE = "date"
    CHOICE = "choice"
    TAG = "tag"


ORDERED = ("=", "!=", "<", "<=", ">", ">=", "in", "between", "is")
OPERATORS: dict[FieldKind, tuple[str, ...]] = {
    FieldKind.NUMBER: ORDERED,
    FieldKind.TEXT: (*ORDERED, "like"),
    FieldKind.DATE: ORDERED,
    FieldKind.CHOICE: ("=", "!=", "in", "is"),
    FieldKind.TAG: ("=", "!=", "in", "like", "is"),
}
"""Operators that each kind of field knows; `not` may stand before `in`, `between` and `like`."""


@dataclass(frozen=True)
class Field:
    """One word of the language: its kind, the attribute of `Candidate` it reads, unit and meaning."""

    name: str
    kind: FieldKind
    attribute: str
    unit: str
    text: str
    choices: tuple[str, ...] = ()

    @property
    def operators(self) -> tuple[str, ...]:
        """Operators that it knows."""
        return OPERATORS[self.kind]


def _number(name: str, attribute: str, unit: str, text: str) -> Field:
    return Field(name, FieldKind.NUMBER, attribute, unit, text)


def _choice(name: str, cls: type[enum.StrEnum], text: str) -> Field:
    return Field(name, FieldKind.CHOICE, name, "-", text, tuple(m.value for m in cls))


FIELDS: dict[str, Field] = {
    f.name: f
    for f in (
        _number("seeing", "seeing_arcsec", "arcsec", "FWHM of stars, median over detectors"),
        _number("exptime", "exptime_s", "s", "exposure time"),
        _number("skyprobe", "skyprobe_mag", "mag", "attenuation of the sky"),
        _number("airmass", "airmass", "-", "airmass"),
        _number("ellipticity", "ellipticity", "-", "1 - b/a of stars, median over detectors"),
        _number("background", "background_adu", "ADU", "sky background"),
        _number("noise", "noise_adu", "ADU", "background noise of a pixel"),
        _number("limiting_mag", "limiting_mag", "mag", "5 sigma in an aperture of 2 arcsec diameter"),
        _number("zero_point", "zero_point_mag", "mag", "magnitude of 1 ADU/s"),
        _number("n_stars", "n_stars", "-", "stars accepted for the PSF"),
        _choice("grade", Grade, "the grade that counts"),
        Field("object", FieldKind.TEXT, "object_key", "-", "object; case, spaces, _ and - do not count"),
        Field("filter", FieldKind.TEXT, "filter", "-", "filter, canonical"),
        Field("run", FieldKind.TEXT, "run", "-", "observing run"),
        Field("instrument", FieldKind.TEXT, "instrument", "-", "name of the instrument's profile"),
        Field("night", FieldKind.DATE, "night", "-", "local noon to noon of the observatory"),
        Field("date", FieldKind.DATE, "mjd", "-", "day (UTC) of the middle of the exposure"),
        _number("mjd", "mjd", "day", "middle of the exposure, MJD UTC"),
        _number("ra", "ra_deg", "degree", "right ascension of the centre, ICRS"),
        _number("dec", "dec_deg", "degree", "declination of the centre, ICRS"),
        Field("name", FieldKind.TEXT, "name", "-", "name of the image"),
        Field("tag", FieldKind.TAG, "tags", "-", "free words on the image; true where any of them fits"),
        _choice("kind", ImageKind, "what the image is"),
        _choice("state", ImageState, "how far the image has come"),
    )
}
"""All fields by name."""


@dataclass(frozen=True)
class Candidate:
    """One image as a rule sees it; None is unknown. Units ride in the names.

    The ids tell which rows were judged; `polygons_deg` are the footprints of its detectors as (ra, dec) corners,
    empty where unknown or not asked for.
    """

    image_id: int = 0
    name: str = ""
    kind: ImageKind = ImageKind.EXPOSURE
    state: ImageState = ImageState.ASSESSED
    object: str | None = None
    object_key: str | None = None
    instrument: str | None = None
    filter: str | None = None
    run: str | None = None
    night: date | None = None
    mjd: float | None = None
    ra_deg: float | None = None
    dec_deg: float | None = None
    exptime_s: float | None = None
    airmass: float | None = None
    seeing_arcsec: float | None = None
    ellipticity: float | None = None
    background_adu: float | None = None
    noise_adu: float | None = None
    limiting_mag: float | None = None
    n_stars: int | None = None
    zero_point_mag: float | None = None
    skyprobe_mag: float | None = None
    grade: Grade | None = None
    tags: frozenset[str] = frozenset()
    file_id: int | None = None
    quality_id: int | None = None
    grade_id: int | None = None
    solution_id: int | None = None
    polygons_deg: tuple[tuple[tuple[float, float], ...], ...] = ()


def known_value(candidate: Candidate, field: Field) -> Literal | None:
    """Return what a field compares with, None where it is unknown; not for tags.

    A `date` is compared as its whole MJD number, a `night` as a date, choices as their words.
    """
    value: Literal | enum.Enum | None = getattr(candidate, field.attribute)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if field.name == "date" and isinstance(value, float):
        return float(math.floor(value)) if math.isfinite(value) else value
    return str(value.value) if isinstance(value, enum.Enum) else value


def compared(field: Field, literal: Literal) -> Literal:
    """Return a literal of a rule in the form that `known_value` gives."""
    if field.name == "object":
        return normalise_object(str(literal))
    if field.name == "date" and isinstance(literal, date):
        return float((literal - MJD_ZERO).days)
    return literal


def like(text: str, pattern: str) -> bool:
    """Tell whether a whole text fits a pattern: `*` any characters, `?` exactly one; time grows as the product.

    >>> like("744123p", "7441*p"), like("744123p", "7441?p")
    (True, False)
    """
    at = in_pattern = 0
    star = resume = -1  # the last star, and where in the text it is tried to end
    while at < len(text):
        sign = pattern[in_pattern : in_pattern + 1]
        if sign == "*":
            star, resume = in_pattern, at
            in_pattern += 1
        elif sign in ("?", text[at]):
            in_pattern, at = in_pattern + 1, at + 1
        elif star >= 0:
            resume += 1
            in_pattern, at = star + 1, resume
        else:
            return False
    return set(pattern[in_pattern:]) <= {"*"}
