"""Region files of DS9: circles and polygons in sky coordinates, or in pixels of one image, from 1 as DS9 counts.

DS9 draws a region file in sky coordinates over every extension of a mosaic where they lie, so one file serves a whole
exposure; `image` coordinates are those of the one extension that is shown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from spica.model.errors import DataError
from spica.model.mark import MarkShape

MAX_BYTES = 1_000_000
MAX_REGIONS = 1000
MAX_CORNERS = 1000
HEADER = "# Region file format: DS9 version 4.1"
SKY_SYSTEMS = frozenset({"icrs", "fk5", "j2000"})
PIXEL_SYSTEMS = frozenset({"image"})
_OTHER_SYSTEMS = frozenset({"physical", "fk4", "b1950", "galactic", "ecliptic", "linear", "amplifier", "detector"})
_RADIUS_DEG = {'"': 1.0 / 3600.0, "'": 1.0 / 60.0, "d": 1.0, "": 1.0}
_NUMBER = re.compile(r"[-+]?(?:\d{1,30}\.?\d{0,30}|\.\d{1,30})(?:[eE][-+]?\d{1,3})?")
_SHAPE = re.compile(
    r"([-+]?)([a-z]{1,20})\s*\(([^()]{0,60000})\)|([-+]?)([a-z]{1,20})\s+([-+0-9.][^#|]{0,60000})", re.I
)
_TEXT = re.compile(r"text\s*=\s*(?:\{([^}]*)\}|\"([^\"]*)\"|'([^']*)')", re.I)


@dataclass(frozen=True)
class Region:
    """A circle (one point and a radius) or polygon (three corners or more) with what it says.

    `sky` True: x is right ascension, y declination, and the radius a length, all degrees. Else pixels from 0.
    """

    shape: MarkShape
    x: tuple[float, ...]
    y: tuple[float, ...]
    radius: float | None = None
    sky: bool = False
    text: str = ""


def format_regions(regions: Sequence[Region], note: str = "", colour: str = "red") -> str:
    """Return a region file: sky regions as `icrs`, others as `image` with pixels from 1.

    Text is kept to what a comment in braces can hold: braces and control characters become blanks.
    """
    lines = [HEADER]
    lines += [f"# {_plain(note)}"] if note else []
    lines.append(f"global color={colour} width=1 select=1 edit=1 move=1 delete=1")
    system = ""
    for region in regions:
        wanted = "icrs" if region.sky else "image"
        if wanted != system:
            lines.append(wanted)
            system = wanted
        said = _plain(region.text)
        lines.append(_line(region) + (f" # text={{{said}}}" if said else ""))
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() and c not in "{}" else " " for c in text).strip()[:500]


def _line(region: Region) -> str:
    digits, shift = (8, 0.0) if region.sky else (3, 1.0)
    points = [f"{x + shift:.{digits}f},{y + shift:.{digits}f}" for x, y in zip(region.x, region.y, strict=True)]
    if region.shape is MarkShape.POLYGON:
        return f"polygon({','.join(points)})"
    radius = region.radius or 0.0
    return f'circle({points[0]},{radius * 3600.0:.4f}")' if region.sky else f"circle({points[0]},{radius:.3f})"


def read_regions(text: str) -> tuple[Region, ...]:
    """Read circles, polygons and boxes of a region file; a box comes as the polygon of its corners.

    Lines may hold several regions apart by `;`. Sky positions are degrees or sexagesimal. What DS9 shows but marks no
    pixels (points, texts, lines, rulers) is passed over.

    Raises
    ------
    DataError
        The file is too large, or a line cannot be read: a system, shape, unit or number that is not known here, or an
        excluded region (`-circle`). The message names the line.
    """
    if len(text) > MAX_BYTES:
        raise DataError(f"the region file has more than {MAX_BYTES} bytes; export fewer regions")
    system, found = "", []
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if not bare or bare.startswith("#") or bare.lower().startswith("global"):
            continue
        words, _, comment = bare.partition("#")
        for part in words.split(";"):
            word = part.strip().lower()
            if word in SKY_SYSTEMS | PIXEL_SYSTEMS | _OTHER_SYSTEMS:
                system = word
            elif word:
                region = _read_one(part.strip(), system, _said(comment), number)
                found += [region] if region is not None else []
            if len(found) > MAX_REGIONS:
                raise DataError(f"the region file has more than {MAX_REGIONS} regions; export fewer")
    return tuple(found)


def _said(comment: str) -> str:
    match = _TEXT.search(comment)
    return next((g for g in match.groups() if g), "") if match else ""


_PASSED_OVER = frozenset({"point", "text", "line", "vector", "ruler", "compass", "projection", "segment", "panda"})


def _read_one(part: str, system: str, said: str, number: int) -> Region | None:
    match = _SHAPE.fullmatch(part.removeprefix("||").strip())
    if match is None:
        raise DataError(f"line {number} of the region file cannot be read ({part[:60]!r}); save it from DS9 again")
    sign, name, values = match.group(1, 2, 3) if match.group(2) else match.group(4, 5, 6)
    name = name.lower()
    if name in _PASSED_OVER:
        return None
    if sign == "-":
        raise DataError(f"line {number} of the region file excludes a region; delete it and save again")
    if name not in ("circle", "polygon", "box"):
        raise DataError(f"line {number} of the region file is of shape {name}; use circles, polygons and boxes")
    if system not in SKY_SYSTEMS | PIXEL_SYSTEMS:
        raise DataError(
            f"line {number} of the region file has {system or 'no'} coordinates; save it as image, fk5 or icrs"
        )
    items = [v for v in re.split(r"[\s,]+", values.strip()) if v]
    if len(items) > 2 * MAX_CORNERS + 3:
        raise DataError(f"line {number} of the region file has more than {MAX_CORNERS} corners; simplify it")
    return _shaped(name, items, system in SKY_SYSTEMS, said, number)


def _shaped(name: str, items: list[str], sky: bool, said: str, number: int) -> Region:
    wanted = {"circle": (3,), "box": (4, 5)}.get(name)
    fits = len(items) in wanted if wanted else len(items) >= 6 and len(items) % 2 == 0
    if not fits:
        raise DataError(f"line {number} of the region file is a {name} of {len(items)} numbers; save it from DS9 again")
    points = items if name == "polygon" else items[:2]
    x = tuple(_place(v, sky, 15.0, number) for v in points[0::2])
    y = tuple(_place(v, sky, 1.0, number) for v in points[1::2])
    if name == "polygon":
        return Region(MarkShape.POLYGON, x, y, None, sky, said)
    if name == "circle":
        radius = _length(items[2], sky, number)
        if radius <= 0:
            raise DataError(f"line {number} of the region file is a circle of radius 0; delete it")
        return Region(MarkShape.CIRCLE, x, y, radius, sky, said)
    angle = _number(items[4], number) if len(items) == 5 else 0.0
    size = (_length(items[2], sky, number), _length(items[3], sky, number))
    return Region(MarkShape.POLYGON, *_box((x[0], y[0]), size, angle, sky), None, sky, said)


def _box(
    centre: tuple[float, float], size: tuple[float, float], angle_deg: float, sky: bool
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the corners of a box; on the sky its width runs along right ascension, its angle from west to north."""
    c, s = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    stretch = -1.0 / max(math.cos(math.radians(centre[1])), 1e-6) if sky else 1.0
    corners = [(i * size[0] / 2.0, j * size[1] / 2.0) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    turned = [(u * c - v * s, u * s + v * c) for u, v in corners]
    return tuple(centre[0] + stretch * u for u, _ in turned), tuple(centre[1] + v for _, v in turned)


def _number(word: str, number: int) -> float:
    if not _NUMBER.fullmatch(word):
        raise DataError(f"line {number} of the region file: {word[:30]!r} is no number; save it from DS9 again")
    value = float(word)
    if not math.isfinite(value):
        raise DataError(f"line {number} of the region file: {word[:30]!r} is too large; save it from DS9 again")
    return value


def _place(word: str, sky: bool, hour_deg: float, number: int) -> float:
    """Return pixels from 0, or degrees of a decimal or sexagesimal word (`hour_deg` 15: hours)."""
    if not sky:
        return _number(word.removesuffix("i"), number) - 1.0
    if ":" not in word:
        return _number(word.removesuffix("d"), number)
    parts = word.split(":")
    if len(parts) != 3:
        raise DataError(f"line {number} of the region file: {word[:30]!r} is no position; save it from DS9 again")
    whole, minutes, seconds = (abs(_number(p, number)) for p in parts)
    return math.copysign(whole + minutes / 60.0 + seconds / 3600.0, -1.0 if word.startswith("-") else 1.0) * hour_deg


def _length(word: str, sky: bool, number: int) -> float:
    """Return a length in pixels, or in degrees."""
    if not sky:
        return abs(_number(word.removesuffix("i"), number))
    unit = word[-1:] if word[-1:] in _RADIUS_DEG else ""
    return abs(_number(word.removesuffix(unit), number)) * _RADIUS_DEG[unit]
