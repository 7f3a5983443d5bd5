"""FITS header cards as text: parsing, formatting, and a compressed form that round-trips card by card."""

from __future__ import annotations

import lzma
import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from spica.model.errors import DataError

CARD_LENGTH = 80
BLOCK_LENGTH = 2880
MAX_UNPACKED_HEADERS = 256 * 1024 * 1024

CardValue = bool | int | float | complex | str | None

_INTEGER = re.compile(r"[+-]?\d+\Z")
_REAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([EeDd][+-]?\d+)?\Z")
_COMPLEX = re.compile(r"\(\s*([^,\s]+)\s*,\s*([^,\s]+)\s*\)\Z")
_QUOTED = re.compile(r"\s*'((?:[^']|'')*)'?")
_PLAIN_KEYWORD = re.compile(r"[A-Z0-9_-]{1,8}\Z")
_COMMENTARY = frozenset({"COMMENT", "HISTORY", ""})
_MAGIC = b"SPH1"
_UNPACK_MEMORY = 64 * 1024 * 1024


@dataclass(frozen=True)
class Card:
    """One header card: keyword, parsed value (None: undefined or commentary) and comment."""

    keyword: str
    value: CardValue
    comment: str


def _parse_number(token: str) -> CardValue:
    """Turn the token of a free- or fixed-format value into T/F, a number, or the token itself."""
    if token == "T":  # noqa: S105
        return True
    if token == "F":  # noqa: S105
        return False
    if _INTEGER.match(token):
        return int(token)
    if _REAL.match(token):
        return float(token.upper().replace("D", "E"))
    pair = _COMPLEX.match(token)
    if pair and all(_REAL.match(part) for part in pair.groups()):
        real, imaginary = (float(part.upper().replace("D", "E")) for part in pair.groups())
        return complex(real, imaginary)
    return token or None


def _parse_field(field: str) -> tuple[CardValue, str]:
    """Split the text behind the value indicator into value and comment."""
    quoted = _QUOTED.match(field)
    if quoted:
        rest = field[quoted.end() :]
        comment = rest.partition("/")[2].strip()
        return quoted.group(1).replace("''", "'").rstrip(" "), comment
    token, _, comment = field.partition("/")
    return _parse_number(token.strip(" \0\t\r\n")), comment.strip()


def keyword_key(keyword: str) -> str:
    """Return the form under which a keyword is looked up: upper case, single blanks, without HIERARCH."""
    words = keyword.upper().split()
    while len(words) > 1 and words[0] == "HIERARCH":
        del words[0]
    return " ".join(words)


def _card_keyword(card: str) -> str:
    """Return the lookup form of the keyword of a card."""
    if card[:8] == "HIERARCH" and "=" in card:
        return keyword_key(card[8:].partition("=")[0])
    return keyword_key(card[:8])


def parse_card(card: str) -> Card:
    """Parse one 80-character card (fixed or free format, HIERARCH); CONTINUE is joined by `HeaderCards`.

    Text that is no valid value is returned as it stands, a blank value as None; this never raises.
    """
    keyword = _card_keyword(card)
    if card[:8] == "HIERARCH" and "=" in card:
        return Card(keyword, *_parse_field(card.partition("=")[2]))
    if keyword in _COMMENTARY:
        return Card(keyword, None, card[8:].rstrip())
    if card[8:9] == "=":
        return Card(keyword, *_parse_field(card[9:]))
    if keyword == "CONTINUE":
        return Card(keyword, *_parse_field(card[8:]))
    return Card(keyword, None, card[8:].strip())


@dataclass(frozen=True)
class HeaderCards(Mapping[str, CardValue]):
    """The cards of one header unit in order, each 80 characters, without END; a mapping keyword to value.

    Keywords are looked up without regard to case; HIERARCH ones by their words with or without `HIERARCH`. Of a
    repeated keyword the first card counts (`all_values` gives every one). Characters are Latin-1, so any byte survives.
    """

    cards: tuple[str, ...]

    @cached_property
    def _first(self) -> dict[str, int]:
        first: dict[str, int] = {}
        for position, card in enumerate(self.cards):
            keyword = _card_keyword(card)
            if keyword not in _COMMENTARY and keyword != "CONTINUE":
                first.setdefault(keyword, position)
        return first

    def __getitem__(self, keyword: str) -> CardValue:
        return self._card_at(self._first[keyword_key(keyword)]).value

    def __contains__(self, keyword: object) -> bool:
        return isinstance(keyword, str) and keyword_key(keyword) in self._first

    def __iter__(self) -> Iterator[str]:
        return iter(self._first)

    def __len__(self) -> int:
        return len(self._first)

    def _card_at(self, position: int) -> Card:
        card = parse_card(self.cards[position])
        if not isinstance(card.value, str) or not card.value.endswith("&"):
            return card
        parts, comment = [card.value], card.comment
        for text in self.cards[position + 1 :]:
            if text[:8] != "CONTINUE" or not parts[-1].endswith("&"):
                break
            follower = parse_card(text)
            if not isinstance(follower.value, str):
                break
            parts[-1] = parts[-1][:-1]
            parts.append(follower.value)
            comment = f"{comment} {follower.comment}".strip()
        return Card(card.keyword, "".join(parts), comment)

    def card(self, keyword: str) -> Card:
        """Return the first card of the keyword, long strings joined; KeyError where it is absent."""
        return self._card_at(self._first[keyword_key(keyword)])

    def all_values(self, keyword: str) -> tuple[CardValue, ...]:
        """Return the values of every card of the keyword in order; of COMMENT and HISTORY their texts."""
        key = keyword_key(keyword)
        found = []
        for position in range(len(self.cards)):
            if parse_card(self.cards[position]).keyword == key:
                card = self._card_at(position)
                found.append(card.comment if key in _COMMENTARY else card.value)
        return tuple(found)

    def parsed(self) -> Iterator[Card]:
        """Yield every card in order; CONTINUE cards are joined to the card they continue."""
        for position, text in enumerate(self.cards):
            if text[:8] != "CONTINUE":
                yield self._card_at(position)

    def with_cards(self, cards: Iterable[str]) -> HeaderCards:
        """Return these cards without the keywords that the new cards bring, followed by the new cards."""
        new = tuple(cards)
        replaced = {parse_card(card).keyword for card in new} - _COMMENTARY
        return HeaderCards((*self.without(replaced).cards, *new))

    def without(self, keywords: Iterable[str]) -> HeaderCards:
        """Return the cards without those of the given keywords and their CONTINUE cards."""
        unwanted = {keyword_key(keyword) for keyword in keywords}
        kept: list[str] = []
        dropping = False
        for card in self.cards:
            if card[:8] != "CONTINUE":
                dropping = parse_card(card).keyword in unwanted
            if not dropping:
                kept.append(card)
        return HeaderCards(tuple(kept))

    def to_bytes(self) -> bytes:
        """Return the cards with END, padded with blanks to full blocks of 2880 bytes."""
        text = "".join(self.cards) + "END".ljust(CARD_LENGTH)
        return text.encode("latin-1", "replace") + b" " * (-len(text) % BLOCK_LENGTH)


NO_CARDS = HeaderCards(())
"""A header without cards."""


def cards_from_text(text: str) -> HeaderCards:
    """Read cards from one run of 80-character cards or from one card a line; stops at END, drops what is behind it."""
    if "\n" in text[: CARD_LENGTH + 2]:
        lines = text.splitlines()
    else:
        lines = [text[start : start + CARD_LENGTH] for start in range(0, len(text), CARD_LENGTH)]
    cards = []
    for line in lines:
        if line[:8].rstrip() == "END":
            break
        cards.append(line[:CARD_LENGTH].ljust(CARD_LENGTH))
    return HeaderCards(tuple(cards))


def _printable(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text)


def _format_real(value: float) -> str:
    text = repr(float(value)).upper()
    if "E" in text:
        mantissa, exponent = text.split("E")
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}E{int(exponent):+03d}"
    return text


def _format_value(value: CardValue) -> str:
    """Return the value field (fixed format where it fits); NaN and infinity become undefined."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return ("T" if value else "F").rjust(20)
    if isinstance(value, int):
        return str(value).rjust(20)
    if isinstance(value, float):
        return _format_real(value).rjust(20)
    if isinstance(value, complex):
        return f"({_format_real(value.real)}, {_format_real(value.imag)})"
    return "'{}'".format(_printable(value).replace("'", "''").ljust(8))


def format_card(keyword: str, value: CardValue, comment: str = "") -> tuple[str, ...]:
    """Return the 80-character card or cards (CONTINUE for long strings, HIERARCH for long keywords) of one keyword.

    Characters outside printable ASCII become `?`; NaN, infinity and None give an undefined value; a comment that does
    not fit is cut. Raises ValueError where the keyword leaves no room for its value.
    """
    key = keyword_key(keyword)
    if key in _COMMENTARY:
        text = _printable(f"{value or ''}{comment}")
        return tuple(
            f"{key:8}{text[start : start + 72]}".ljust(CARD_LENGTH) for start in range(0, max(len(text), 1), 72)
        )
    plain = bool(_PLAIN_KEYWORD.match(key))
    if not plain and ("=" in key or _printable(key) != key):
        raise ValueError(f"{keyword!r} cannot be a FITS keyword; use letters, digits, '-' and '_'")
    head = f"{key:8}= " if plain else f"HIERARCH {key} = "
    field = _format_value(value)
    if not plain and not isinstance(value, str):
        field = field.strip()
    if len(head) + len(field) > CARD_LENGTH:
        if isinstance(value, str) and len(head) + 12 < CARD_LENGTH:
            return _continued(head, value, comment)
        raise ValueError(f"the keyword {keyword!r} leaves no room for its value; use a shorter one")
    card = head + field
    if comment and len(card) + 4 <= CARD_LENGTH:
        card = f"{card.ljust(30)} / {_printable(comment)}"
    return (card[:CARD_LENGTH].ljust(CARD_LENGTH),)


def _continued(head: str, value: str, comment: str) -> tuple[str, ...]:
    """Split a long string over CONTINUE cards; a doubled quote is never cut in two."""
    pieces = [c if c != "'" else "''" for c in _printable(value)]
    cards: list[str] = []
    start = head
    while pieces:
        room, part = CARD_LENGTH - len(start) - 3, ""
        while pieces and len(part) + len(pieces[0]) <= room:
            part += pieces.pop(0)
        cards.append(f"{start}'{part}{'&' if pieces else ''}'")
        start = "CONTINUE  "
    if comment and len(cards[-1]) + 4 <= CARD_LENGTH:
        cards[-1] += f" / {_printable(comment)}"
    return tuple(card[:CARD_LENGTH].ljust(CARD_LENGTH) for card in cards)


def make_cards(items: Iterable[tuple[str, CardValue, str]]) -> HeaderCards:
    """Format (keyword, value, comment) triples into cards."""
    return HeaderCards(
        tuple(card for keyword, value, comment in items for card in format_card(keyword, value, comment))
    )


def pack_headers(headers: Sequence[HeaderCards]) -> bytes:
    """Compress the headers of a file (LZMA of the joined 80-character cards); `unpack_headers` gives them back exactly.

    The extensions of a mosaic repeat each other over more than the 32 kB that zlib can look back: LZMA makes 17 kB of a
    header of 37 units where zlib makes 297 kB.

    Raises ValueError where a card is not 80 Latin-1 characters.
    """
    for header in headers:
        if any(len(card) != CARD_LENGTH for card in header.cards):
            raise ValueError("a header card must have 80 characters; read headers with read_headers")
    counts = struct.pack(f">I{len(headers)}I", len(headers), *(len(header.cards) for header in headers))
    text = "".join(card for header in headers for card in header.cards).encode("latin-1")
    return _MAGIC + lzma.compress(counts + text, preset=1)


def unpack_headers(packed: bytes, max_bytes: int = MAX_UNPACKED_HEADERS) -> tuple[HeaderCards, ...]:
    """Give back what `pack_headers` packed; DataError where it is damaged or unpacks beyond `max_bytes`."""
    worker = lzma.LZMADecompressor(memlimit=_UNPACK_MEMORY)
    try:
        if packed[:4] != _MAGIC:
            raise ValueError("no packed header")
        raw = worker.decompress(packed[4:], max_bytes)
        if not worker.eof or worker.unused_data:
            raise ValueError(f"incomplete, or larger than {max_bytes} bytes")
        n_headers = struct.unpack_from(">I", raw)[0]
        counts = struct.unpack_from(f">{n_headers}I", raw, 4)
        start = 4 + 4 * n_headers
        if len(raw) != start + CARD_LENGTH * sum(counts):
            raise ValueError("wrong length")
    except (ValueError, EOFError, lzma.LZMAError, struct.error) as trouble:
        raise DataError(f"the stored header is damaged ({trouble}); read the header again from the file") from trouble
    text = raw[start:].decode("latin-1")
    headers, position = [], 0
    for count in counts:
        end = position + CARD_LENGTH * count
        headers.append(HeaderCards(tuple(text[p : p + CARD_LENGTH] for p in range(position, end, CARD_LENGTH))))
        position = end
    return tuple(headers)
