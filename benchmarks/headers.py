"""Files with real headers for the benchmark of intake: mosaics with holes for data, small images, one large."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from spica.files.head import parse_head
from spica.files.header import HeaderCards, cards_from_text, format_card, make_cards
from spica.files.mef import ImageToWrite, write_mef
from spica.files.scan import data_size, padded
from spica.files.source import FileLimits

MOSAICS = (
    "multi_plane__mega__1927963p.fits.header.gz",
    "single_plane__mega__2452990p.fits.header.gz",
    "multi_plane__mega__1927963o.fits.header.gz",
)
_LACKING = (
    ("OBJECT", "DEC-OBS", ""),
    ("INSTRUME", "DECam", ""),
    ("FILTER", "r DECam SDSS c0002 6415.0 1480.0", ""),
    ("EXPTIME", 90.0, ""),
    ("DATE-OBS", "2013-02-12T03:04:05.6", ""),
)
"""What the headers of the cut-outs lack of an exposure."""
SINGLES = ("hatp32_microobservatory", "decam_10exp_256px")


def data_folder() -> Path:
    """Return the folder of real exposures: `SPICA_TEST_DATA`, else `shared/data` beside the checkout."""
    named = os.environ.get("SPICA_TEST_DATA")
    return Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"


def _turned(header: HeaderCards, shift_deg: float) -> HeaderCards:
    """Return the header with RA and CRVAL1 moved, so that no two exposures lie at one place; all else as it is."""
    cards = list(header.cards)
    for i, card in enumerate(cards):
        if card[:9] in {"CRVAL1  =", "RA_DEG  =", "RA      ="} and isinstance(header[card[:8]], float):
            moved = (float(header[card[:8]]) + shift_deg) % 360.0  # type: ignore[arg-type]
            cards[i] = format_card(card[:8], moved)[0]
    return HeaderCards(tuple(cards))


def write_sparse(path: Path, headers: Sequence[HeaderCards]) -> Path:
    """Write headers with the data they announce as a hole in the file: true offsets without bytes."""
    with path.open("wb") as stream:
        for index, header in enumerate(headers):
            stream.write(header.to_bytes())
            stream.seek(padded(data_size(header, index, FileLimits())), os.SEEK_CUR)
        stream.truncate()
    return path


def make_mosaics(folder: Path, count: int) -> list[Path]:
    """Write exposures of 41 header units with the headers of MegaPrime, each at its own right ascension."""
    given = [
        parse_head(gzip.decompress((data_folder() / "headers/cfht" / name).read_bytes()).decode("latin-1"))
        for name in MOSAICS
    ]
    paths = []
    for i in range(count):
        headers = [_turned(header, 0.5 * i) for header in given[i % len(given)]]
        paths.append(write_sparse(folder / f"mosaic{i:04d}.fits", headers))
    return paths


def _unpacked() -> Iterator[tuple[HeaderCards, bytes]]:
    for name in SINGLES:
        for path in sorted((data_folder() / name).glob("*.gz")):
            raw = gzip.decompress(path.read_bytes())
            header = cards_from_text(raw[: 2880 * 100].decode("latin-1"))
            if header.get("NAXIS") != 2:
                continue
            yield (
                header.with_cards(make_cards(_LACKING).cards if "OBJECT" not in header else ()),
                raw[len(header.to_bytes()) :],
            )


def make_singles(folder: Path, count: int) -> list[Path]:
    """Write exposures of one header unit (MicroObservatory and DECam cut-outs), each at its own right ascension."""
    given = list(_unpacked())
    paths = []
    for i in range(count):
        header, data = given[i % len(given)]
        path = folder / f"single{i:04d}.fits"
        path.write_bytes(_turned(header, 0.05 * i).to_bytes() + data)
        paths.append(path)
    return paths


def make_large(path: Path, n_detectors: int = 8, seed: int = 1) -> Path:
    """Write one exposure with pixels, DATASUM and CHECKSUM: detectors of 2048 x 4612 16-bit pixels."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 60000, (4612, 2048), dtype=np.uint16)
    images = [ImageToWrite(pixels + np.uint16(i), name=f"ccd{i:02d}") for i in range(n_detectors)]
    write_mef(path, images)
    return path
