"""One card of a FITS header: its keyword, value and comment from text, and text from them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

CARD_LENGTH = 80

CardValue = bool | int | float | complex | str | None

_INTEGER = re.compile(r"[+-]?\d+\Z")
_REAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([EeDd][+-]?\d+)?\Z")
_COMPLEX = re.compile(r"\(\s*([^,\s]+)\s*,\s*([^,\s]+)\s*\)\Z")
_QUOTED = re.compile(r"\s*'((?:[^']|'')*)'?")
_PLAIN_KEYWORD = re.compile(r"[A-Z0-9_-]{1,8}\Z")
COMMENTARY = frozenset({"COMMENT", "HISTORY", ""})
VALUELESS = COMMENTARY | {"CONTINUE"}
"""Keywords of cards that state no value of their own."""


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
    if token.isdecimal() or _INTEGER.match(token):
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
    quoted = _QUOTED.match(field) if "'" in field else None
    if quoted:
        rest = field[quoted.end() :]
        comment = rest.partition("/")[2].strip()
        return quoted.group(1).replace("''", "'").rstrip(" "), comment
    token, _, comment = field.partition("/")
    return _parse_number(token.strip(" \0\t\r\n")), comment.strip()


@lru_cache(maxsize=16384)
def keyword_key(keyword: str) -> str:
    """Return the form under which a keyword is looked up: upper case, single blanks, without HIERARCH."""
    words = keyword.upper().split()
    while len(words) > 1 and words[0] == "HIERARCH":
        del words[0]
    return " ".join(words)


def card_keyword(card: str) -> str:
    """Return the lookup form of the keyword of a card."""
    if card[:8] == "HIERARCH" and "=" in card:
        return keyword_key(card[8:].partition("=")[0])
    return keyword_key(card[:8])


@lru_cache(maxsize=4096)
def parse_card(card: str) -> Card:
    """Parse one 80-character card (fixed or free format, HIERARCH); CONTINUE is joined by `HeaderCards`.

    Text that is no valid value is returned as it stands, a blank value as None; this never raises.
    """
    keyword = card_keyword(card)
    if card[:8] == "HIERARCH" and "=" in card:
        return Card(keyword, *_parse_field(card.partition("=")[2]))
    if keyword in COMMENTARY:
        return Card(keyword, None, card[8:].rstrip())
    if card[8:9] == "=":
        return Card(keyword, *_parse_field(card[9:]))
    if keyword == "CONTINUE":
        return Card(keyword, *_parse_field(card[8:]))
    return Card(keyword, None, card[8:].strip())


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
    if key in COMMENTARY:
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
