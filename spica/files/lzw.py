"""Reading files of the UNIX `compress` program (.Z), which older archives still serve."""

from __future__ import annotations

import io
from typing import IO

_BLOCK_MODE, _WIDTH_MASK, _CLEAR = 0x80, 0x1F, 256
_PIECE_BYTES = 256


class LzwReader(io.RawIOBase):
    """Forward reader of one LZW stream; memory is bounded by its table of at most 65,536 strings.

    Codes grow from 9 to at most 16 bits, are packed from the lowest bit in groups of eight codes, and a group is
    padded where the width changes (behaviour of compress 4.0; own derivation from its file format).
    """

    def __init__(self, raw: IO[bytes]) -> None:
        """Read the 3-byte head; OSError where it announces an impossible code width."""
        super().__init__()
        self._raw = raw
        flags = raw.read(3)[2:]
        if not flags or not 9 <= flags[0] & _WIDTH_MASK <= 16:
            raise OSError("no valid head of a .Z file")
        self._max_width = flags[0] & _WIDTH_MASK
        self._block_mode = bool(flags[0] & _BLOCK_MODE)
        self._codes: list[int] = []
        self._pending = bytearray()
        self._finished = False
        self._reset()
        self._previous = -1

    def readable(self) -> bool:
        """Return True."""
        return True

    def _reset(self) -> None:
        """Empty the table: each string is a last piece of at most 256 bytes and the code of what stands before it."""
        first_free = 257 if self._block_mode else 256
        self._before = [-1] * first_free
        self._piece = [bytes([code & 0xFF]) for code in range(first_free)]
        self._width = 9

    def _next_group(self) -> None:
        """Read one group of eight codes of the present width, last code first."""
        group = self._raw.read(self._width)
        bits = int.from_bytes(group, "little")
        mask = (1 << self._width) - 1
        self._codes = [(bits >> (k * self._width)) & mask for k in reversed(range(len(group) * 8 // self._width))]
        self._finished = not self._codes

    def _text(self, code: int) -> bytes:
        """Return the string of a code by walking its pieces."""
        pieces = []
        while code >= 0:
            pieces.append(self._piece[code])
            code = self._before[code]
        return b"".join(reversed(pieces))

    def _add(self, prefix: int, last: bytes) -> None:
        """Add the string of a code and one more byte to the table."""
        piece = self._piece[prefix]
        is_full = len(piece) >= _PIECE_BYTES
        self._before.append(prefix if is_full else self._before[prefix])
        self._piece.append(last if is_full else piece + last)

    def _take(self, code: int) -> None:
        """Decode one code into the pending bytes and grow the table."""
        if self._block_mode and code == _CLEAR:
            self._reset()
            self._previous, self._codes = -1, []
            return
        known = len(self._piece)
        if code > known or (self._previous < 0 and code > 255) or (code == known and self._previous < 0):
            raise OSError("a code of the .Z stream is not in its table")
        if code == known:
            text = self._text(self._previous)
            text += text[:1]
        else:
            text = self._text(code)
        if self._previous >= 0 and known < 1 << self._max_width:
            self._add(self._previous, text[:1])
            if known + 1 >= 1 << self._width and self._width < self._max_width:
                self._width += 1
                self._codes = []
        self._pending += text
        self._previous = code

    def read(self, count: int = -1) -> bytes:
        """Return up to `count` bytes; fewer only at the end of the stream."""
        while not self._finished and (count < 0 or len(self._pending) < count):
            if self._codes:
                self._take(self._codes.pop())
            else:
                self._next_group()
        taken = bytes(self._pending[: count if count >= 0 else None])
        del self._pending[: len(taken)]
        return taken
