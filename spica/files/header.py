"""Headers as runs of cards: looked up by keyword, put together, and packed so that each card comes back."""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from spica.files.card import (
    CARD_LENGTH,
    COMMENTARY,
    VALUELESS,
    Card,
    CardValue,
    card_keyword,
    format_card,
    keyword_key,
    parse_card,
)
from spica.model.errors import DataError

__all__ = [
    "BLOCK_LENGTH",
    "CARD_LENGTH",
    "NO_CARDS",
    "Card",
    "CardValue",
    "HeaderCards",
    "cards_from_text",
    "format_card",
    "keyword_key",
    "make_cards",
    "pack_headers",
    "parse_card",
    "unpack_headers",
]

BLOCK_LENGTH = 2880
MAX_UNPACKED_HEADERS = 256 * 1024 * 1024
_MAGIC_LZMA, _MAGIC_ZLIB = b"SPH1", b"SPH2"
_ZLIB_LIMIT = 32 * 1024
_UNPACK_MEMORY = 64 * 1024 * 1024


def _indexed(keys: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, int]]:
    first = dict.fromkeys(keys, 0)
    first.update(zip(reversed(keys), range(len(keys) - 1, -1, -1), strict=True))
    for key in VALUELESS:
        first.pop(key, None)
    return keys, first


def _keywords(text: str) -> str:
    """Return the first eight characters of each card in one run."""
    if not text.isascii():
        return "".join([text[start : start + 8] for start in range(0, len(text), CARD_LENGTH)])
    raw = np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    return raw.reshape(-1, CARD_LENGTH)[:, :8].tobytes().decode("ascii")


@lru_cache(maxsize=64)
def _positions(keys: tuple[str, ...], wanted: Callable[[str], bool]) -> tuple[int, ...]:
    return tuple([position for position, key in enumerate(keys) if wanted(key)])


@lru_cache(maxsize=64)
def _index_of(keywords: str) -> tuple[tuple[str, ...], dict[str, int]]:
    """Index cards by the first eight characters of each, in one run; the extensions of a mosaic share theirs."""
    return _indexed(tuple([keyword_key(keywords[start : start + 8]) for start in range(0, len(keywords), 8)]))


@dataclass(frozen=True)
class HeaderCards(Mapping[str, CardValue]):
    """The cards of one header unit in order, each 80 characters, without END; a mapping keyword to value.

    Keywords are looked up without regard to case; HIERARCH ones by their words with or without `HIERARCH`. Of a
    repeated keyword the first card counts (`all_values` gives every one). Characters are Latin-1, so any byte survives.
    Cards made `from_text` are cut apart, indexed and parsed only as far as they are asked for.
    """

    cards: tuple[str, ...]

    @classmethod
    def from_text(cls, text: str) -> HeaderCards:
        """Return the cards of one run of 80-character cards without END; ValueError where the last one is cut short."""
        if len(text) % CARD_LENGTH:
            raise ValueError("a header card must have 80 characters; read headers with read_headers")
        made = cls.__new__(cls)
        made.__dict__["text"] = text
        return made

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> tuple[str, ...]:
            """Cut the text into `cards` when they are first asked for."""
            if name != "cards" or "text" not in self.__dict__:
                raise AttributeError(name)
            text = self.__dict__["text"]
            cards = tuple([text[start : start + CARD_LENGTH] for start in range(0, len(text), CARD_LENGTH)])
            self.__dict__["cards"] = cards
            return cards

    @cached_property
    def text(self) -> str:
        """All cards in one run."""
        return "".join(self.cards)

    @cached_property
    def _index(self) -> tuple[tuple[str, ...], dict[str, int]]:
        """Lookup forms of the keywords of all cards, and the first card of each."""
        if "cards" in self.__dict__ or "HIERARCH" in self.text:
            return _indexed(tuple(card_keyword(card) for card in self.cards))
        return _index_of(_keywords(self.text))

    @cached_property
    def _keys(self) -> tuple[str, ...]:
        return self._index[0]

    @cached_property
    def _first(self) -> dict[str, int]:
        return self._index[1]

    @cached_property
    def _parsed(self) -> dict[int, Card]:
        return {}

    def __getitem__(self, keyword: str) -> CardValue:
        return self._card_at(self._first[keyword_key(keyword)]).value

    def get(self, keyword: str, default: CardValue = None) -> CardValue:  # type: ignore[override]
        """Return the value of the first card of a keyword, `default` where there is none."""
        position = self._first.get(keyword_key(keyword))
        return default if position is None else self._card_at(position).value

    def __contains__(self, keyword: object) -> bool:
        return isinstance(keyword, str) and keyword_key(keyword) in self._first

    def __iter__(self) -> Iterator[str]:
        return iter(self._first)

    def __len__(self) -> int:
        return len(self._first)

    def _card_at(self, position: int) -> Card:
        card = self._parsed.get(position)
        if card is None:
            card = self._parsed[position] = self._joined(position)
        return card

    def _card_text(self, position: int) -> str:
        if "cards" in self.__dict__:
            return self.cards[position]
        return self.text[position * CARD_LENGTH : (position + 1) * CARD_LENGTH]

    def _joined(self, position: int) -> Card:
        """Parse one card and the CONTINUE cards that follow it."""
        card = parse_card(self._card_text(position))
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
        if key not in self._first and key not in VALUELESS:
            return ()
        cards = [self._card_at(position) for position in self._positions_of(key)]
        return tuple(card.comment if key in COMMENTARY else card.value for card in cards)

    def _positions_of(self, key: str) -> Iterator[int]:
        position = -1
        for _ in range(self._keys.count(key)):
            position = self._keys.index(key, position + 1)
            yield position

    def parsed(self, wanted: Callable[[str], bool] | None = None) -> Iterator[Card]:
        """Yield every card in order, or those whose keyword is `wanted` (a function that always says the same).

        CONTINUE cards are joined to the card they continue.
        """
        for position in range(len(self._keys)) if wanted is None else _positions(self._keys, wanted):
            if self._card_text(position)[:8] != "CONTINUE":
                yield self._card_at(position)

    def with_cards(self, cards: Iterable[str]) -> HeaderCards:
        """Return these cards without the keywords that the new cards bring, followed by the new cards."""
        new = tuple(cards)
        replaced = {card_keyword(card) for card in new} - COMMENTARY
        return HeaderCards((*self.without(replaced).cards, *new))

    def without(self, keywords: Iterable[str]) -> HeaderCards:
        """Return the cards without those of the given keywords and their CONTINUE cards."""
        unwanted = {keyword_key(keyword) for keyword in keywords}
        kept: list[str] = []
        dropping = False
        for card, key in zip(self.cards, self._keys, strict=True):
            if card[:8] != "CONTINUE":
                dropping = key in unwanted
            if not dropping:
                kept.append(card)
        return HeaderCards(tuple(kept))

    def to_bytes(self) -> bytes:
        """Return the cards with END, padded with blanks to full blocks of 2880 bytes."""
        text = self.text + "END".ljust(CARD_LENGTH)
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


def make_cards(items: Iterable[tuple[str, CardValue, str]]) -> HeaderCards:
    """Format (keyword, value, comment) triples into cards."""
    return HeaderCards(
        tuple(card for keyword, value, comment in items for card in format_card(keyword, value, comment))
    )


def pack_headers(headers: Sequence[HeaderCards]) -> bytes:
    """Compress the headers of a file; `unpack_headers` gives them back exactly.

    Short headers go through zlib (0.05 ms). The extensions of a mosaic repeat each other over more than the 32 kB that
    zlib can look back: LZMA makes 19 kB of a header of 41 units where zlib makes 340 kB.

    Raises ValueError where a card is not 80 Latin-1 characters.
    """
    for header in headers:
        if "text" not in header.__dict__ and any(len(card) != CARD_LENGTH for card in header.cards):
            raise ValueError("a header card must have 80 characters; read headers with read_headers")
    texts = [header.text for header in headers]
    counts = struct.pack(f">I{len(texts)}I", len(texts), *(len(text) // CARD_LENGTH for text in texts))
    raw = counts + "".join(texts).encode("latin-1")
    if len(raw) <= _ZLIB_LIMIT:
        return _MAGIC_ZLIB + zlib.compress(raw, 6)
    return _MAGIC_LZMA + lzma.compress(raw, preset=1)


def unpack_headers(packed: bytes, max_bytes: int = MAX_UNPACKED_HEADERS) -> tuple[HeaderCards, ...]:
    """Give back what `pack_headers` packed; DataError where it is damaged or unpacks beyond `max_bytes`."""
    try:
        raw = _unpacked(packed, max_bytes)
        n_headers = struct.unpack_from(">I", raw)[0]
        counts = struct.unpack_from(f">{n_headers}I", raw, 4)
        start = 4 + 4 * n_headers
        if len(raw) != start + CARD_LENGTH * sum(counts):
            raise ValueError("wrong length")
    except (ValueError, EOFError, lzma.LZMAError, zlib.error, struct.error) as trouble:
        raise DataError(f"the stored header is damaged ({trouble}); read the header again from the file") from trouble
    text = raw[start:].decode("latin-1")
    headers: list[HeaderCards] = []
    position = 0
    for count in counts:
        end = position + CARD_LENGTH * count
        headers.append(HeaderCards.from_text(text[position:end]))
        position = end
    return tuple(headers)


def _unpacked(packed: bytes, max_bytes: int) -> bytes:
    """Undo the compression that the first bytes name; ValueError where the stream is not whole or too long."""
    magic = packed[:4]
    if magic == _MAGIC_LZMA:
        unxz = lzma.LZMADecompressor(memlimit=_UNPACK_MEMORY)
        raw, whole, rest = unxz.decompress(packed[4:], max_bytes), unxz.eof, unxz.unused_data
    elif magic == _MAGIC_ZLIB:
        inflate = zlib.decompressobj()
        raw = inflate.decompress(packed[4:], max_bytes)
        whole, rest = inflate.eof, inflate.unused_data
    else:
        raise ValueError("no packed header")
    if not whole or rest:
        raise ValueError(f"incomplete, or larger than {max_bytes} bytes")
    return raw
