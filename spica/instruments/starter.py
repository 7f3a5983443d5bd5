"""A first profile for a camera, written from what `generic` finds in one of its headers; a person corrects it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from spica.files.header import HeaderCards
from spica.files.scan import StructureError, image_shape
from spica.files.slug import slug
from spica.files.wcs import find_wcs, parity, pixel_scale_arcsec
from spica.instruments.base import FactSource, Instrument
from spica.instruments.lookup import find_mjd, find_number, find_value, last_value

RECOGNISE = ("INSTRUME", "DETECTOR", "CAMERA", "TELESCOP", "OBSERVAT")
_BAND = re.compile(r"(?i)^(?:sdss|ps1|des)?[-_ ]*([ugrizyvbjhk])(?![a-z])")
_COMMENTS = {
    "object": "name of the field or target",
    "exptime": "in total; times = [...] multiplies co-adds",
    "filter": "join = '+' puts several wheels together, skip = 'pattern' passes open positions over",
    "ra": "units: deg, hourangle, auto_ra (sexagesimal hours, plain degrees)",
    "dec": "",
    "airmass": "unit = 'altitude_deg' where the header gives the altitude",
    "run": "left out: the month",
}


def starter_profile(generic: Instrument, headers: Sequence[HeaderCards], name: str = "") -> str:
    """Return the TOML text of a profile that reads these headers as `generic` does; the missing stands as a comment.

    Parameters
    ----------
    generic : Instrument
        The profile `generic`, whose keywords are tried.
    headers : sequence of HeaderCards
        Units of one exposure, primary first.
    name : str
        Name of the camera; by default the slug of INSTRUME.
    """
    return "\n".join((*_top(headers, name), *_facts(generic, headers), *_rest(generic, headers))) + "\n"


def _text(value: object) -> str:
    """Return a TOML string (of the basic kind) or number or truth value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = "".join(c if c.isprintable() else "?" for c in str(value))
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _images(headers: Sequence[HeaderCards]) -> list[HeaderCards]:
    found = []
    for header in headers:
        try:
            if image_shape(header) is not None:
                found.append(header)
        except StructureError:
            continue
    return found


def _top(headers: Sequence[HeaderCards], name: str) -> Iterator[str]:
    said = find_value(headers, FactSource(RECOGNISE))
    title = str(said.value).strip() if said else "my camera"
    yield f"name = {_text(slug(name or title, 'mycam').lower())}    # in rules, folders and pages"
    telescope = find_value(headers, FactSource(("TELESCOP", "OBSERVAT")))
    yield f"telescope = {_text(str(telescope.value).strip() if telescope else '')}"
    yield f"title = {_text(title)}"
    yield from _scale(headers)
    yield "pointing_accuracy_arcmin = 5.0    # the true centre lies within this of the header's"
    yield ""
    yield "[recognise]    # what only headers of this camera say"
    if said is None:
        yield "# none of " + ", ".join(RECOGNISE) + " is there: name keywords that only this camera writes"
        yield 'all = [{ keyword = "SIMPLE", exists = true }]'
    else:
        yield f"all = [{{ keyword = {_text(said.who_said)}, equals = {_text(str(said.value).strip())} }}]"
    yield ""


def _scale(headers: Sequence[HeaderCards]) -> Iterator[str]:
    wcs = next((w for header in _images(headers) if (w := find_wcs(header)) is not None), None)
    if wcs is None:
        yield "pixel_scale_arcsec = 1.0    # MISSING: there is no WCS; give the nominal scale"
        yield "parity = 1    # 1: sky seen directly, -1: mirrored"
        return
    yield f"pixel_scale_arcsec = {pixel_scale_arcsec(wcs):.4g}    # of this header's WCS"
    yield f"parity = {parity(wcs)}"


def _facts(generic: Instrument, headers: Sequence[HeaderCards]) -> Iterator[str]:
    yield "[observatory]    # decides which night an exposure belongs to; east and north positive"
    for place, source in (("longitude", generic.longitude_deg), ("latitude", generic.latitude_deg)):
        keyword = _said(headers, source, number=True)
        yield f"{place}.keywords = [{_text(keyword)}]" if keyword else f"{place}.value = 0.0    # MISSING"
    yield ""
    yield "[facts]"
    for fact, note in _COMMENTS.items():
        source = generic.facts[fact]
        keyword = _said(headers, source, number=fact in {"exptime", "ra", "dec", "airmass"})
        end = f"    # {note}" if note else ""
        if keyword:
            unit = f", unit = {_text(source.unit)}" if source.unit else ""
            yield f"{fact} = {{ keywords = [{_text(keyword)}]{unit} }}{end}"
        else:
            tried = ", ".join(source.keywords)
            yield f"# {fact} = {{ keywords = [...] }}    # MISSING: none of {tried}; {note or 'name its keyword'}"
    yield ""


def _said(headers: Sequence[HeaderCards], source: FactSource, number: bool) -> str:
    """Return the keyword that gives a fact, empty where none does."""
    if number:
        found = find_number(headers, FactSource(source.keywords, source.unit))
        return found[1] if found else ""
    text = find_value(headers, FactSource(source.keywords))
    return text.who_said if text else ""


def _rest(generic: Instrument, headers: Sequence[HeaderCards]) -> Iterator[str]:
    yield "[time]    # is the stated instant UTC? is it start, mid or end?"
    yield 'marks = "start"'
    time = find_mjd(headers, generic.time)
    if time is None:
        tried = ", ".join("+".join(s.keywords) for s in generic.time.sources)
        yield f"# MISSING: none of {tried}"
        yield 'sources = [{ form = "iso", keywords = ["DATE-OBS"] }]'
    else:
        keywords = time[1].split("+")
        form = next(s.form for s in generic.time.sources if [k.upper() for k in s.keywords] == keywords)
        yield f"sources = [{{ form = {_text(form)}, keywords = [{', '.join(_text(k) for k in keywords)}] }}]"
    yield ""
    yield from _frames(headers)
    yield from _filters(generic, headers)
    yield from _detectors(generic, headers)


def _frames(headers: Sequence[HeaderCards]) -> Iterator[str]:
    kind = find_value(headers, FactSource(("OBSTYPE", "IMAGETYP", "FRAME", "OBSMODE")))
    keyword = kind.who_said if kind else "IMAGETYP"
    said = f"this header says {_text(str(kind.value).strip())}" if kind else "MISSING here: name the keyword"
    yield f"# What is no exposure of the sky ({keyword}; {said})"
    for frame in ("bias", "dark", "flat"):
        pattern = "(?i)^(bias|zero)" if frame == "bias" else f"(?i){frame}"
        yield "[[frames]]"
        yield f"type = {_text(frame)}"
        yield f"all = [{{ keyword = {_text(keyword)}, matches = {_text(pattern)} }}]"
    yield ""


def _filters(generic: Instrument, headers: Sequence[HeaderCards]) -> Iterator[str]:
    raw = find_value(headers, FactSource(generic.facts["filter"].keywords))
    yield "[filters.names]    # raw to canonical; add the others"
    if raw is not None:
        text = str(raw.value).strip()
        band = _BAND.match(text)
        yield f"{_text(text)} = {_text(band.group(1) if band else slug(text, 'unknown'))}"
    yield ""


def _detectors(generic: Instrument, headers: Sequence[HeaderCards]) -> Iterator[str]:
    images = _images(headers)
    yield f"[detectors]    # {len(images)} units hold pixels here"
    names = [str(last_value(header, "EXTNAME") or "").strip() for header in images]
    stem = re.match(r"[A-Za-z_]*", names[0]).group(0) if names and names[0] else ""  # type: ignore[union-attr]
    if len(images) > 1 and stem and all(name.startswith(stem) for name in names):
        yield f'select.all = [{{ keyword = "EXTNAME", matches = {_text("^" + re.escape(stem))} }}]'
    if len(images) > 1:
        yield '# amplifiers = "assemble"    # where these units are amplifiers: needs target_section; group = {...}'
    first = images[0] if images else HeaderCards(())
    hdu = next((i for i, header in enumerate(headers) if header is first), None)
    for fact, source in generic.detectors.facts.items():
        found = find_value(headers, FactSource(source.keywords, where=source.where), hdu)
        if found is not None:
            where = f", where = {_text(source.where)}" if source.where != "any" else ""
            unit = f", unit = {_text(source.unit)}" if source.unit else ""
            yield f"{fact} = {{ keywords = [{_text(found.who_said)}]{unit}{where} }}"
