"""Nights of the survey: noon to noon of local mean time where its newest exposure was taken."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from spica.db.tables.image import ImageRow
from spica.model.errors import RecipeError
from spica.model.image import ImageKind
from spica_web.deps import Site

DAY = timedelta(days=1)
_EVENING_H = 18.0
"""Until this hour of local time `last night` is the one that ended in the morning."""


def read_night(text: str) -> date | None:
    """Return a night of an address as YYYY-MM-DD, None where it is none."""
    try:
        found = date.fromisoformat(text)
    except ValueError:
        return None
    return found if date(1900, 1, 1) <= found <= date(2999, 1, 1) else None


def survey_longitude_deg(site: Site, session: Session) -> float:
    """Return the longitude (degrees, east positive) of the newest exposure's observatory; 0 where none is known."""
    taken = (ImageRow.kind == ImageKind.EXPOSURE, ImageRow.instrument.is_not(None))
    query = select(ImageRow.instrument).where(*taken).order_by(ImageRow.id.desc())
    name = session.scalar(query.limit(1))
    if name is None:
        return 0.0
    try:
        value = site.instruments.get(name).longitude_deg.value
    except RecipeError:
        return 0.0
    return float(value) if isinstance(value, int | float) else 0.0


def night_span(site: Site, session: Session, night: date) -> tuple[datetime, datetime]:
    """Return begin and end of a night, UTC: local mean noon of its date to the next noon."""
    return span_at(night, survey_longitude_deg(site, session))


def span_at(night: date, longitude_deg: float) -> tuple[datetime, datetime]:
    """Return begin and end of a night at a longitude (degrees, east positive), UTC."""
    start = datetime.combine(night, time(12), UTC) - timedelta(hours=longitude_deg / 15.0)
    return start, start + DAY


def last_night(now: datetime, longitude_deg: float) -> date:
    """Return the night that people mean by `last` at an instant: from 18 h local time on it is the one that begins."""
    local = now.astimezone(UTC) + timedelta(hours=longitude_deg / 15.0)
    return (local - timedelta(hours=_EVENING_H)).date()
