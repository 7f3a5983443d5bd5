"""Values as people read them: unknown is a dash, units are dim, times are UTC."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

DASH = "–"
SPOKEN = {
    "seeing_arcsec": ("seeing", "arcsec"),
    "ellipticity": ("ellipticity", ""),
    "background_adu": ("background", "ADU"),
    "noise_adu": ("noise", "ADU"),
    "limiting_mag": ("depth", "mag"),
    "zero_point_mag": ("zero point", "mag"),
    "skyprobe_mag": ("SkyProbe", "mag"),
    "n_stars": ("stars", ""),
}


def fixed(value: float | None, digits: int = 2) -> str:
    """Return a number with so many decimals, a dash where it is unknown."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:,.{digits}f}".replace(",", " ").replace("-", "−")


def whole(value: float | None) -> str:
    """Return a whole number with its thousands apart."""
    return fixed(value, 0)


def percent(value: float | None, digits: int = 1) -> str:
    """Return a fraction as per cent."""
    return DASH if value is None else f"{fixed(100.0 * value, digits)} %"


def short(value: Any) -> str:
    """Return any value of a reason: numbers to four digits, texts as they are."""
    if value is None:
        return DASH
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return f"{number:.4g}".replace("-", "−")


def plain(words: str) -> str:
    """Return a reason as people say it: `seeing 1.32 > 1 arcsec: B` for `seeing_arcsec 1.32 > 1: B`."""
    for name, (label, unit) in SPOKEN.items():
        if words.startswith(name):
            said = words.replace(name, label, 1)
            return re.sub(r"([<>] \S+?)(?=:|$)", rf"\1 {unit}", said, count=1) if unit else said
    return words


def sentence(words: str) -> str:
    """Return words as a sentence: a capital first, a mark at the end."""
    said = words.strip()
    return said[:1].upper() + said[1:] + ("" if said.endswith((".", "!", "?", "…")) else ".")


def size(value: int | None) -> str:
    """Return a number of bytes in words."""
    if value is None:
        return DASH
    number = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def seconds(value: float | None) -> str:
    """Return a time span in words: 0.8 s, 42 s, 3 min 10 s, 2 h 05 min, 3 d 4 h."""
    if value is None:
        return DASH
    if value < 10:
        return f"{value:.1f} s"
    n = round(value)
    if n < 60:
        return f"{n} s"
    if n < 3600:
        return f"{n // 60} min {n % 60:02d} s"
    if n < 86400:
        return f"{n // 3600} h {n % 3600 // 60:02d} min"
    return f"{n // 86400} d {n % 86400 // 3600} h"


def instant(value: datetime | str | None) -> str:
    """Return a time as 2006-12-12 03:12:07, UTC."""
    if value is None:
        return DASH
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def day(value: date | None) -> str:
    """Return a date."""
    return DASH if value is None else value.isoformat()


def text(value: Any) -> str:
    """Return a text, a dash where there is none."""
    return DASH if value is None or value == "" else str(value)


def plural(n: int, one: str, many: str = "") -> str:
    """Return a number with its noun: 1 exposure, 2 exposures."""
    return f"{whole(n)} {one if n == 1 else many or one + 's'}"


def pretty(value: str) -> str:
    """Return JSON indented, other text as it is."""
    try:
        return json.dumps(json.loads(value), indent=1, ensure_ascii=False)
    except ValueError:
        return value


FILTERS: dict[str, Callable[..., str]] = {
    "fixed": fixed,
    "whole": whole,
    "percent": percent,
    "short": short,
    "plain": plain,
    "sentence": sentence,
    "size": size,
    "seconds": seconds,
    "instant": instant,
    "day": day,
    "text": text,
    "plural": plural,
    "pretty": pretty,
}
