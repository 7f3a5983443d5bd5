"""A first profile for a camera, written from what `generic` finds in one of its headers; a person corrects it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from spica.files.header import CardValue, HeaderCards
from spica.files.scan import image_shape
from spica.files.slug import slug
from spica.files.wcs import find_wcs, parity, pixel_scale_arcsec
from spica.instruments.base import FactSource, Instrument, TimeSource
from spica.instruments.hints import image_units, keywords_like, plain_text
from spica.instruments.lookup import find_mjd, find_number, find_value, last_value, parse_section, to_number

RECOGNISE = ("INSTRUME", "DETECTOR", "CAMERA", "TELESCOP", "OBSERVAT")
NAMES = ("EXTNAME", "DETNAME", "CCDNAME", "CHIPNAME", "CCDID", "CHIPID")
FRAME_KEYWORDS = ("OBSTYPE", "IMAGETYP", "FRAME", "OBSMODE")
COADDS = ("COADDS", "NCOADDS", "NCOADD", "NUMCOADD")
BINNINGS = ("CCDSUM", "BINNING", "XBINNING", "CCDBIN1")
SPECTRAL = ("GRISM", "GRATING", "DISPERSR", "SLIT", "SLITNAME", "MASKNAME", "MOSPOS", "DECKER")
_DAY_S = 86400.0
_AGREE_S = 1.0
_CONVERTER_END_ADU = 65535.0
_BAND = re.compile(r"(?i)^(?:sdss|ps1|des)?[-_ ]*([ugrizyvbjhk])(?![a-z])")
_SKY = re.compile(r"(?i)^(object|science|sci|expose|exposure|light|sky|target)\b")
_NO_SLIT = re.compile(r"(?i)(open|none|clear|mirror|imag|empty|out)[a-z]*")
_OPEN = "(?i)^(open|clear|empty|none|air|blank)"
_COMMENTS = {
    "object": "name of the field or target",
    "exptime": "in all; times = [...] multiplies co-adds",
    "filter": "join = '+' puts several wheels together, skip = 'pattern' passes open positions over",
    "ra": "units: deg, hourangle, auto_ra (sexagesimal hours, plain degrees)",
    "dec": "",
    "airmass": "unit = 'altitude_deg' where the header gives the altitude",
    "run": "masters and groups go by it; left out: the month",
}
_NUMBERS = {"exptime", "ra", "dec", "airmass", "gain", "read_noise", "saturation", "pixel_scale"}


def starter_profile(generic: Instrument, headers: Sequence[HeaderCards], name: str = "") -> str:
    """Return the TOML text of a profile that reads these headers as `generic` does, and says what to look at.

    What is missing stands as a comment marked MISSING, with the header's keywords that sound like it; what is doubtful
    is marked CHECK.

    Parameters
    ----------
    generic : Instrument
        The profile `generic`, whose keywords are tried.
    headers : sequence of HeaderCards
        Units of one exposure, primary first.
    name : str
        Name of the camera; by default the slug of INSTRUME.
    """
    parts = (_top, _observatory, _facts, _time, _frames, _filters, _detectors)
    lines = [line for part in parts for line in (*part(generic, headers), "")]
    lines[0] = lines[0].replace("NAME", _text(slug(name or _title(headers), "mycam").lower()), 1)
    counts = [sum(line.count(word) for line in lines) for word in ("MISSING", "CHECK")]
    first = (
        f"# {counts[0]} lines are marked MISSING, {counts[1]} CHECK: correct them; look at it with spica camera explain"
    )
    return "\n".join((first, *lines))


def _text(value: object) -> str:
    """Return a TOML string (of the basic kind) or number or truth value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return '"' + plain_text(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _list(words: Sequence[str]) -> str:
    return "[" + ", ".join(_text(word) for word in words) + "]"


def _found_number(headers: Sequence[HeaderCards], source: FactSource) -> tuple[float, str] | None:
    """Return a number that a keyword states within the first image or the primary, and that keyword."""
    images = image_units(headers)
    hdu = next((i for i, header in enumerate(headers) if images and header is images[0]), None)
    return find_number(headers, FactSource(source.keywords, source.unit, where=source.where), hdu)


def _missing(headers: Sequence[HeaderCards], fact: str, tried: Sequence[str]) -> str:
    """Return why a fact is missing, and the keywords that may hold it."""
    hints = keywords_like(headers, fact)
    return f"MISSING: none of {', '.join(tried)}" + (f"; perhaps {hints}" if hints else "")


# Parts of the profile, in its order ----------------------------------------------------------------------------------


def _title(headers: Sequence[HeaderCards]) -> str:
    said = find_value(headers, FactSource(RECOGNISE))
    return str(said.value).strip() if said else "my camera"


def _top(generic: Instrument, headers: Sequence[HeaderCards]) -> Iterator[str]:
    said = find_value(headers, FactSource(RECOGNISE))
    yield "name = NAME    # in rules, folders and pages; the name of a shipped profile replaces that"
    telescope = find_value(headers, FactSource(("TELESCOP", "OBSERVAT")))
    yield f"telescope = {_text(str(telescope.value).strip() if telescope else '')}"
    yield f"title = {_text(_title(headers))}"
    yield from _scale(generic, headers)
    yield "pointing_accuracy_arcmin = 5.0    # the true centre lies within this of the header's"
    yield ""
    yield "[recognise]    # what only headers of this camera say"
    if said is None:
        yield "# MISSING: none of " + ", ".join(RECOGNISE) + " is there: name keywords that only this camera writes"
        yield 'all = [{ keyword = "SIMPLE", exists = true }]'
    else:
        yield f"all = [{{ keyword = {_text(said.who_said)}, equals = {_text(str(said.value).strip())} }}]"


def _scale(generic: Instrument, headers: Sequence[HeaderCards]) -> Iterator[str]:
    wcs = next((w for header in image_units(headers) if (w := find_wcs(header)) is not None), None)
    source = generic.detectors.facts["pixel_scale"]
    stated = _found_number(headers, source)
    if wcs is not None:
        keyword, text, factor = _binning(headers) or ("", "", 1)
        note = f", unbinned ({keyword} says {plain_text(text)})" if factor > 1 else ""
        yield f"pixel_scale_arcsec = {pixel_scale_arcsec(wcs) / factor:.4g}    # of this header's WCS{note}"
        yield f"parity = {parity(wcs)}"
        return
    if stated is None:
        yield f"# pixel_scale_arcsec = ...    # {_missing(headers, 'scale', source.keywords)}; unbinned pixels"
    else:
        yield f"# pixel_scale_arcsec = ...    # left out: {stated[1]} of the header says {stated[0]:.4g}"
    yield "parity = 1    # CHECK: there is no WCS; 1: sky seen directly, -1: mirrored"
    yield "position_angle_deg = 0.0    # CHECK: of +y, from north through east"


def _binning(headers: Sequence[HeaderCards]) -> tuple[str, CardValue, int] | None:
    """Return the keyword of the binning, its text and its first factor."""
    for header in [*image_units(headers)[:1], headers[0]]:
        for keyword in BINNINGS:
            factor = re.search(r"\d+", str(header.get(keyword) or "")[:40])
            if factor and 1 <= int(factor.group(0)) <= 64:
                return keyword, header.get(keyword), int(factor.group(0))
    return None


def _observatory(generic: Instrument, headers: Sequence[HeaderCards]) -> Iterator[str]:
    yield "[observatory]    # decides to which night an exposure belongs; degrees, east and north positive"
    for place, source in (("longitude", generic.longitude_deg), ("latitude", generic.latitude_deg)):
        found = find_number(headers, FactSource(source.keywords, source.unit))
        if found:
            yield f"{place}.keywords = [{_text(found[1])}]    # {found[0]:.6g}"
        else:
            yield f"# {place}.value = ...    # {_missing(headers, place, source.keywords)}"


def _facts(generic: Instrument, headers: Sequence[HeaderCards]) -> Iterator[str]:
    yield "[facts]"
    for fact, note in _COMMENTS.items():
        source = generic.facts[fact]
        keyword = _said(headers, source, fact in _NUMBERS)
        if not keyword:
            end = f"; {note}" if note else ""
            yield f"# {fact} = {{ keywords = [...] }}    # {_missing(headers, fact, source.keywords)}{end}"
            continue
        keywords, more = _more(headers, fact, keyword)
        unit = f", unit = {_text(source.unit)}" if source.unit else ""
        others = keywords_like(headers, "run", keyword) if fact == "run" else ""
        end = "; ".join(part for part in (more[1] or note, f"CHECK: or {others}" if others else "") if part)
        yield f"{fact} = {{ keywords = {_list(keywords)}{unit}{more[0]} }}" + (f"    # {end}" if end else "")
    equinox = find_number(headers, FactSource(("EQUINOX", "EPOCH")))
    if equinox is not None and equinox[0] != 2000.0 and 1850.0 < equinox[0] < 2150.0:
        yield f"equinox = {{ keywords = [{_text(equinox[1])}] }}    # CHECK: {equinox[0]:.10g}; of ra and dec?"


def _more(headers: Sequence[HeaderCards], fact: str, keyword: str) -> tuple[list[str], tuple[str, str]]:
    """Return the keywords of a fact, further keys of its source, and what is to check about them."""
    if fact == "exptime":
        coadds = next((k for k in COADDS if find_value(headers, FactSource((k,))) is not None), "")
        if coadds:
            return [keyword], (f", times = [{_text(coadds)}]", f"CHECK: is {keyword} that of one co-add?")
    if fact == "filter" and keyword == "FILTER1":
        wheels = [k for k in (f"FILTER{i}" for i in range(1, 7)) if find_value(headers, FactSource((k,))) is not None]
        if len(wheels) > 1:
            return wheels, (f', join = "+", skip = {_text(_OPEN)}', "CHECK: words of open positions")
    return [keyword], ("", "")


def _said(headers: Sequence[HeaderCards], source: FactSource, number: bool) -> str:
    """Return the keyword that gives a fact, empty where none does."""
    if number:
        found = find_number(headers, FactSource(source.keywords, source.unit))
        return found[1] if found else ""
    text = find_value(headers, FactSource(source.keywords))
    return text.who_said if text else ""


def _time(generic: Instrument, headers: Sequence[HeaderCards]) -> Iterator[str]:
    """Yield the way to read the time; where ways disagree a date counts before days, and the others are named."""
    found = []
    for source in generic.time.sources:
        mjd = find_mjd(headers, replace(generic.time, sources=(source,)))
        if mjd is not None:
            found.append((source, mjd[0]))
    yield "[time]"
    if not found:
        tried = ["+".join(source.keywords) for source in generic.time.sources]
        yield f"# {_missing(headers, 'time', tried)}"
        yield '# sources = [{ form = "iso", keywords = ["DATE-OBS", "UT"] }]'
        return
    chosen, when = found[0]
    if any(abs(mjd - when) * _DAY_S > _AGREE_S for _, mjd in found):
        chosen, when = next((pair for pair in found if pair[0].form == "iso"), found[0])
    said = _said_of(headers, chosen.keywords)
    marks = "mid" if re.search(r"(?i)\bmid", said) else "start"
    yield f"marks = {_text(marks)}    # CHECK: start, mid or end? is it UTC?{' ' + said if said else ''}"
    yield f"sources = [{{ form = {_text(chosen.form)}, keywords = {_list(chosen.keywords)} }}]"
    yield from _disagreements(found, when)
    scale = str(find_value(headers, FactSource(("TIMESYS",), default="UTC")).value).strip()  # type: ignore[union-attr]
    if scale.upper() not in {"UTC", "UT"}:
        yield f'# scale = "header"    # CHECK: TIMESYS says {plain_text(scale)}; "header" brings TAI to UTC'


def _said_of(headers: Sequence[HeaderCards], keywords: Sequence[str]) -> str:
    """Return keywords with their comments."""
    told = []
    for keyword in keywords:
        header = next((h for h in (headers[0], *image_units(headers)[:1]) if keyword in h), None)
        if header is not None and header.card(keyword).comment:
            told.append(f"{keyword}: {plain_text(header.card(keyword).comment)}")
    return "; ".join(told)


def _disagreements(found: Sequence[tuple[TimeSource, float]], when: float) -> Iterator[str]:
    for source, mjd in found:
        late = (mjd - when) * _DAY_S
        if abs(late) > _AGREE_S:
            side = "later" if late > 0 else "earlier"
            yield f"# CHECK: {'+'.join(source.keywords)} is {abs(late):.6g} s {side}"


def _frames(generic: Instrument, headers: Sequence[HeaderCards]) -> Iterator[str]:
    kind = find_value(headers, FactSource(FRAME_KEYWORDS))
    keyword = kind.who_said if kind else "IMAGETYP"
    said = str(kind.value).strip() if kind else ""
    told = f"this header says {_text(said)}" if kind else "MISSING here: name the keyword"
    yield f"# What is no exposure of the sky; the first rule that holds counts ({keyword}; {told})"
    for frame in ("bias", "dark", "flat"):
        if frame == "flat":
            yield from _spectra(headers)
        pattern = "(?i)^(bias|zero)" if frame == "bias" else f"(?i){frame}"
        yield "[[frames]]"
        yield f"type = {_text(frame)}"
        yield f"all = [{{ keyword = {_text(keyword)}, matches = {_text(pattern)} }}]"
    if _SKY.match(said):
        yield "[[frames]]"
        yield 'type = "other"    # CHECK: all else: focus, lamps, pointing'
        yield f"all = [{{ keyword = {_text(keyword)}, matches = {_text(f'(?i)^(?!{re.escape(said)})')} }}]"
    else:
        yield '# CHECK: a rule of type "other" for focus frames, lamps, spectra'


def _spectra(headers: Sequence[HeaderCards]) -> Iterator[str]:
    """Yield a rule for spectra and slit views where the header names grisms or slits and says that none is in."""
    rows = []
    for keyword in SPECTRAL:
        said = find_value(headers, FactSource((keyword,)))
        word = _NO_SLIT.match(str(said.value).strip()) if said is not None else None
        if word is not None:
            pattern = f"(?i)^(?!{word.group(0)})"
            rows.append(f"  {{ keyword = {_text(keyword)}, matches = {_text(pattern)} }},")
    if rows:
        yield from (
            "[[frames]]",
            'type = "other"    # CHECK: spectra, slit views, and their flats',
            "any = [",
            *rows,
            "]",
        )


def _filters(generic: Instrument, headers: Sequence[HeaderCards]) -> Iterator[str]:
    keyword = _said(headers, generic.facts["filter"], False)
    keywords, more = _more(headers, "filter", keyword)
    skip = re.compile(_OPEN) if more[0] else None
    raw = (
        find_value(headers, FactSource(tuple(keywords), skip=skip, join="+" if more[0] else None)) if keyword else None
    )
    yield "[filters.names]    # raw to canonical; add the others"
    if raw is not None:
        text = str(raw.value).strip()
        band = _BAND.match(text)
        yield f"{_text(text)} = {_text(band.group(1) if band else slug(text, 'unknown'))}"


# Detectors -----------------------------------------------------------------------------------------------------------


def _detectors(generic: Instrument, headers: Sequence[HeaderCards]) -> Iterator[str]:
    images = image_units(headers)
    yield f"[detectors]    # {len(images)} {'unit holds' if len(images) == 1 else 'units hold'} pixels here"
    names = [_word(header, "EXTNAME") for header in images]
    stem = re.match(r"[A-Za-z_]*", names[0]).group(0) if names and names[0] else ""  # type: ignore[union-attr]
    if len(images) > 1 and stem and all(name.startswith(stem) for name in names):
        yield f'select.all = [{{ keyword = "EXTNAME", matches = {_text("^" + re.escape(stem))} }}]'
    planes = [shape for header in images if (shape := image_shape(header)) is not None and len(shape) > 2]
    if planes:
        many = max(shape[0] for shape in planes)
        note = f"CHECK: cubes of {many} planes here: first, mean or sum" if many > 1 else "cubes of one plane here"
        yield f'planes = "{"sum" if many > 1 else "first"}"    # {note}'
    yield from _assembly(images)
    yield from _detector_facts(generic, headers, images)
    if len(images) > 1 and _group(images) != "" and all("DETSEC" in header for header in images):
        size = find_value(headers, FactSource(("DETSIZE",)), headers.index(images[0]))
        if size is not None and parse_section(size.value) is not None:
            yield from ("", "[layout]", 'section_keyword = "DETSEC"', 'size_keyword = "DETSIZE"')


def _word(header: HeaderCards, keyword: str) -> str:
    return str(last_value(header, keyword) or "").strip()


def _group(images: Sequence[HeaderCards]) -> str | None:
    """Return the keyword that units of one detector share, empty where all are of one; None where none are amplifiers.

    They are amplifiers where several name one chip, or none names a chip and all bear one name but lie apart (DETSEC).
    """
    for keyword in NAMES[1:]:
        words = [_word(header, keyword) for header in images]
        if all(words):
            return keyword if len(set(words)) < len(words) else None
    names = {_word(header, "EXTNAME") for header in images}
    sections = {_word(header, "DETSEC") for header in images}
    return "" if len(names) == 1 and len(sections) == len(images) and "" not in sections else None


def _assembly(images: Sequence[HeaderCards]) -> Iterator[str]:
    group = _group(images) if len(images) > 1 else None
    if group is not None:
        yield 'amplifiers = "assemble"    # CHECK: these units look like amplifiers'
        yield (
            f"group.keywords = [{_text(group)}]"
            if group
            else "# group.keywords = [...]    # left out: all form one detector"
        )
        yield 'target_section = { keywords = ["DETSEC"], where = "hdu" }'
    elif len(images) > 1:
        yield '# amplifiers = "assemble"    # where units are amplifiers: with target_section, and group for mosaics'


def _detector_facts(
    generic: Instrument, headers: Sequence[HeaderCards], images: Sequence[HeaderCards]
) -> Iterator[str]:
    group = _group(images) if len(images) > 1 else None
    distinct = (k for k in NAMES if len({_word(h, k) for h in images} - {""}) == len(images) > 0)
    name = group or (None if group is not None else next(distinct, None))
    if name:
        yield f'name = {{ keywords = [{_text(name)}], where = "hdu" }}'
    for fact, source in generic.detectors.facts.items():
        if fact != "name":
            yield from _detector_fact(headers, images, fact, source)
    binning = _binning(headers)
    if binning:
        yield f"binning.keywords = [{_text(binning[0])}]"


def _detector_fact(
    headers: Sequence[HeaderCards], images: Sequence[HeaderCards], fact: str, source: FactSource
) -> Iterator[str]:
    hdu = next((i for i, header in enumerate(headers) if images and header is images[0]), None)
    found = find_value(headers, FactSource(source.keywords, where=source.where), hdu)
    if found is None:
        if fact in {"gain", "read_noise", "saturation"}:
            yield f"# {fact}.value = ...    # {_missing(headers, fact, source.keywords)}"
        return
    number = to_number(found.value, "") if fact in _NUMBERS else 1.0
    if number is None or number <= 0:
        yield f"# {fact}.value = ...    # MISSING: {found.who_said} says {plain_text(found.value)}"
        return
    where = f", where = {_text(source.where)}" if source.where != "any" else ""
    unit = f", unit = {_text(source.unit)}" if source.unit else ""
    full = fact == "saturation" and number >= _CONVERTER_END_ADU
    note = "    # CHECK: the converter's end; detectors saturate before" if full else ""
    yield f"{fact} = {{ keywords = [{_text(found.who_said)}]{unit}{where} }}{note}"
