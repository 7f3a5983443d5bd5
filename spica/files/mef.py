"""Read and write images: single and multi-extension FITS, plain, gzip and tile-compressed."""

from __future__ import annotations

import os
import struct
import tempfile
import threading
import warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from astropy.io import fits
from astropy.io.fits.hdu.compressed._compression import CfitsioException
from numpy.typing import DTypeLike

from spica.files.checksum import atomic_path
from spica.files.header import NO_CARDS, HeaderCards
from spica.files.scan import HduScan, image_shape, is_compressed_image, scan_hdus
from spica.files.source import CHUNK_BYTES, ByteSource, FileLimits, StructureError
from spica.files.tile import check_packed_tiles, check_tiles
from spica.files.unit import HduToWrite, free_cards, image_hdu, write_hdus
from spica.model.errors import DataError

TILE_ROWS = 16
"""Rows of a compressed tile: rows are read in strips."""
_STRIP_PIXELS = 4 * 1024 * 1024
Section = tuple[slice | int, ...]


@dataclass(frozen=True)
class ImageHdu:
    """One image of a file: header unit, EXTNAME, shape [..., y, x], cards, and whether it is tile-compressed."""

    index: int
    name: str
    shape: tuple[int, ...]
    header: HeaderCards
    compressed: bool


class MefFile:
    """An open FITS file; read pixels with `read_pixels`, close it or use it in a `with` block.

    A gzip, bzip2 or .Z file is unpacked once, on the first pixel, to an unnamed temporary file.
    """

    def __init__(self, path: Path, scans: tuple[HduScan, ...], limits: FileLimits, packed: bool) -> None:
        """Keep what `open_mef` found."""
        self.path = path
        self.headers: tuple[HeaderCards, ...] = tuple(scan.header for scan in scans)
        self.images: tuple[ImageHdu, ...] = tuple(
            _image(scan.index, scan.header, shape) for scan in scans if (shape := image_shape(scan.header)) is not None
        )
        self._scans = scans
        self._limits = limits
        self._packed = packed
        self._stream: BinaryIO | None = None
        self._astropy: fits.HDUList | None = None
        self._lock = threading.RLock()
        self._checked: set[int] = set()

    @property
    def primary(self) -> HeaderCards:
        """Cards of the primary header."""
        return self.headers[0]

    def __enter__(self) -> MefFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and its temporary."""
        if self._astropy is not None:
            self._astropy.close()
        if self._stream is not None:
            self._stream.close()
        self._astropy = self._stream = None

    def image(self, hdu: int | str) -> ImageHdu:
        """Return the image of a header unit's index or EXTNAME; DataError where there is none."""
        for image in self.images:
            if image.index == hdu or (isinstance(hdu, str) and image.name.upper() == hdu.upper()):
                return image
        names = ", ".join(f"{image.index} {image.name}".strip() for image in self.images[:12])
        raise DataError(f"{self.path.name} has no image in HDU {hdu}; its images are: {names or 'none'}")

    def _open(self) -> BinaryIO:
        with self._lock:
            if self._stream is None:
                self._stream = self._unpack() if self._packed else self.path.open("rb")
            return self._stream

    def _unpack(self) -> BinaryIO:
        descriptor, name = tempfile.mkstemp(prefix="spica-unpacked-")
        try:
            with ByteSource(self.path, self._limits.max_unpacked_bytes) as source, open(descriptor, "wb") as unpacked:
                while part := source.read(CHUNK_BYTES):
                    unpacked.write(part)
            return open(name, "rb")
        finally:
            os.unlink(name)

    def read_pixels(
        self, hdu: int | str | ImageHdu, section: Section | None = None, dtype: DTypeLike = np.float32
    ) -> np.ndarray:
        """Read the pixels of one image, scaled by BSCALE and BZERO, in native byte order.

        Parameters
        ----------
        hdu : int, str or ImageHdu
            Index of the header unit, EXTNAME, or an entry of `images`.
        section : tuple of slice or int, optional
            Part to read, one entry an axis [..., y, x], 0-based; only its rows (tiles) are touched. An int takes that
            plane and drops the axis.
        dtype : dtype
            Type of the result. With a floating type undefined integers (BLANK) are NaN; with an integer type they
            keep their scaled value. int32 and 64-bit pixels need float64 to stay exact.

        Raises
        ------
        DataError
            Where the unit holds no image, the section lies outside, or the tiles cannot be unpacked.
        """
        image = hdu if isinstance(hdu, ImageHdu) else self.image(hdu)
        window = _window(image, section)
        if image.compressed:
            raw, scale, zero, blank = self._read_tiles(image, window)
        else:
            raw, scale, zero, blank = self._map_raw(image)[window], *_scaling(image.header)
        return _scaled(raw, scale, zero, blank, np.dtype(dtype))

    def _map_raw(self, image: ImageHdu) -> np.ndarray:
        bitpix = image.header["BITPIX"]
        kind = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}[int(bitpix)]  # type: ignore[arg-type]
        offset = self._scans[image.index].data_offset
        try:
            return np.memmap(self._open(), dtype=kind, mode="r", offset=offset, shape=image.shape)
        except (OSError, ValueError) as trouble:
            raise DataError(
                f"{self.path.name} HDU {image.index} cannot be read ({trouble}); verify the file"
            ) from trouble

    def _check_tiles(self, image: ImageHdu) -> None:
        """Check the tiles of an image, once."""
        with self._lock:
            if image.index in self._checked:
                return
            check_tiles(image.header, image.index)
            stream = self._open()
            place = stream.tell()
            check_packed_tiles(stream, image.header, self._scans[image.index].data_offset, image.index)
            stream.seek(place)  # astropy reads on from where it stands
            self._checked.add(image.index)

    def _read_tiles(self, image: ImageHdu, window: Section) -> tuple[np.ndarray, float, float, int | None]:
        """Unpack the tiles of a window; scaling is left to the caller, quantised floats come out as floats."""
        self._check_tiles(image)
        try:
            with self._lock, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if self._astropy is None:
                    self._astropy = fits.open(
                        self._open(), mode="readonly", do_not_scale_image_data=True, memmap=False, lazy_load_hdus=True
                    )
                unit = self._astropy[image.index]
                raw = np.asarray(unit.section[window])
        except (
            OSError,
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            RuntimeError,
            AttributeError,
            ArithmeticError,
            MemoryError,
            EOFError,
            zlib.error,
            struct.error,
            CfitsioException,
            fits.VerifyError,
        ) as trouble:
            raise DataError(
                f"{self.path.name} HDU {image.index}: tiles cannot be unpacked ({_one_line(trouble)}); fetch it again"
            ) from trouble
        scale, zero, blank = _scaling(image.header)
        if raw.dtype.kind == "f" and int(image.header["ZBITPIX"]) > 0:  # type: ignore[arg-type]
            return raw, 1.0, 0.0, None
        stated = image.header.get("ZBLANK")
        return raw, scale, zero, blank if blank is not None or not isinstance(stated, int) else stated


def _one_line(trouble: BaseException) -> str:
    return " ".join(str(trouble).split())[:160] or type(trouble).__name__


def _image(index: int, header: HeaderCards, shape: tuple[int, ...]) -> ImageHdu:
    name = header.all_values("EXTNAME")[-1:]
    text = name[0].strip() if name and isinstance(name[0], str) else ""
    return ImageHdu(index, text, shape, header, is_compressed_image(header))


def _window(image: ImageHdu, section: Section | None) -> Section:
    """Complete and check a section against the shape."""
    if section is None:
        return tuple(slice(0, n) for n in image.shape)
    if len(section) != len(image.shape):
        raise DataError(
            f"HDU {image.index} has {len(image.shape)} axes, the section {len(section)}; give one slice an axis"
        )
    for part, length in zip(section, image.shape, strict=True):
        start, stop = (
            (part, part + 1) if isinstance(part, int) else (part.start or 0, length if part.stop is None else part.stop)
        )
        if not 0 <= start < stop <= length:
            raise DataError(f"HDU {image.index}: the section {start}:{stop} leaves the axis of {length} pixels")
    return section


def _number(header: HeaderCards, keyword: str, default: float) -> float:
    value = header.get(keyword)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default


def _scaling(header: HeaderCards) -> tuple[float, float, int | None]:
    blank = header.get("BLANK")
    is_integer = int(_number(header, "ZBITPIX", _number(header, "BITPIX", -32))) > 0
    undefined = blank if isinstance(blank, int) and not isinstance(blank, bool) and is_integer else None
    return _number(header, "BSCALE", 1.0), _number(header, "BZERO", 0.0), undefined


def _scaled(raw: np.ndarray, scale: float, zero: float, blank: int | None, dtype: np.dtype) -> np.ndarray:
    """Return raw * scale + zero in the wanted type, worked in strips so that no large float64 copy arises."""
    if scale == 1.0 and zero == 0.0 and (blank is None or dtype.kind != "f"):
        return np.asarray(raw).astype(dtype)
    if scale == 1.0 and blank is None and dtype == np.float32 and raw.dtype.itemsize <= 2 and abs(zero) <= 65536.0:
        exact = np.asarray(raw).astype(np.float32)  # 16-bit integers and their offset are exact in float32
        exact += np.float32(zero)
        return exact
    out = np.empty(raw.shape, dtype)
    rows_out = out.reshape(-1, out.shape[-1]) if out.ndim else out.reshape(1, 1)
    rows_in = raw.reshape(rows_out.shape)
    step = max(1, _STRIP_PIXELS // max(1, rows_out.shape[1]))
    for start in range(0, len(rows_out), step):
        part = rows_in[start : start + step]
        if dtype.kind != "f" and scale == 1.0 and zero.is_integer() and raw.dtype.kind in "iu":
            rows_out[start : start + step] = (part.astype(np.int64) + int(zero)).astype(dtype)
            continue
        values = part.astype(np.float64) * scale + zero
        if blank is not None and dtype.kind == "f":
            values[part == blank] = np.nan
        rows_out[start : start + step] = values
    return out


def open_mef(path: str | os.PathLike[str], limits: FileLimits | None = None) -> MefFile:
    """Open a FITS file for its images; headers are read, pixels are not.

    Raises DataError where the file is missing, not FITS, truncated or beyond the limits.
    """
    chosen = limits or FileLimits()
    scans: list[HduScan] = []
    with ByteSource(path, chosen.max_unpacked_bytes) as source:
        try:
            scans.extend(scan_hdus(source, chosen))
        except StructureError as trouble:
            if trouble.code not in {"no_padding", "trailing_bytes"} or not scans:
                raise DataError(f"{Path(path).name}: {trouble.text}", code=trouble.code) from trouble
    return MefFile(Path(path), tuple(scans), chosen, bool(source.compression))


@dataclass(frozen=True)
class ImageToWrite:
    """One image for `write_mef`: pixels [y, x], its cards (structure is made from the pixels), EXTNAME."""

    data: np.ndarray
    cards: HeaderCards = NO_CARDS
    name: str = ""


def write_image(
    path: str | os.PathLike[str],
    data: np.ndarray,
    cards: HeaderCards = NO_CARDS,
    compress: bool = False,
    checksum: bool = True,
    quantise_level: float = 0.0,
) -> None:
    """Write one image, atomically; with `compress` into the first extension of a tile-compressed file.

    Compression is lossless (RICE_1 for integers, GZIP_2 for floats) unless `quantise_level` q > 0, which stores floats
    with steps of noise/q, dithered by a fixed seed (RICE_1, SUBTRACTIVE_DITHER_2: zeros stay zeros). Cards keep
    their text.
    """
    if compress:
        write_mef(path, [ImageToWrite(data, cards)], compress=True, checksum=checksum, quantise_level=quantise_level)
    else:
        write_hdus(path, [image_hdu(data, cards, primary=True, extend=False)], checksum)


def write_mef(
    path: str | os.PathLike[str],
    images: Iterable[ImageToWrite],
    primary: HeaderCards = NO_CARDS,
    compress: bool = False,
    checksum: bool = True,
    quantise_level: float = 0.0,
) -> None:
    """Write a primary header without pixels and one extension an image; see `write_image` for compression.

    Uncompressed images may come from a generator: each is written, with its checksums, and let go before the next is
    made, so that a mosaic is never held whole. Where the generator raises, no file appears.
    """
    if compress:
        _write_compressed(path, images, primary, checksum, quantise_level)
        return
    write_hdus(path, _units(images, primary), checksum)


def _units(images: Iterable[ImageToWrite], primary: HeaderCards) -> Iterator[HduToWrite]:
    yield image_hdu(None, primary, primary=True, extend=True)
    for image in images:
        unit = image_hdu(image.data, image.cards, primary=False, extend=False, name=image.name)
        del image
        yield unit
        del unit


def _write_compressed(
    path: str | os.PathLike[str], images: Iterable[ImageToWrite], primary: HeaderCards, checksum: bool, level: float
) -> None:
    units = fits.HDUList([fits.PrimaryHDU(header=_astropy_header(primary))])
    for image in images:
        real = image.data.dtype.kind == "f"
        quantised = real and level > 0
        units.append(
            fits.CompImageHDU(
                data=image.data.astype(np.uint8) if image.data.dtype.kind == "b" else image.data,
                header=_astropy_header(image.cards),
                name=image.name or None,
                compression_type="GZIP_2" if real and not quantised else "RICE_1",
                quantize_level=level if quantised else 0.0,
                quantize_method=2 if quantised else -1,
                dither_seed=1,
                tile_shape=(min(TILE_ROWS, image.data.shape[-2]), image.data.shape[-1]),
            )
        )
    with atomic_path(path) as temporary, warnings.catch_warnings(), temporary.open("wb") as stream:
        warnings.simplefilter("ignore")
        units.writeto(stream, checksum=checksum, output_verify="silentfix+ignore")


def _astropy_header(cards: HeaderCards) -> fits.Header:
    return fits.Header.fromstring("".join(free_cards(cards).cards))
