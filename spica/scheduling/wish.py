"""What a person asks for: the mode, the rule, and what bounds the candidates."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from spica.model.association import Circle, Mode
from spica.model.errors import TransientError, UsageError
from spica.model.image import normalise_object
from spica.model.selection import list_names, parse_list, parse_rule

DEFAULT_RULE = "grade in (A, B, C)"
LISTED = "listed"
MAX_LIST_BYTES = 10_000_000


@dataclass(frozen=True)
class Wish:
    """What a person asks for: the mode, the rule, and what bounds the candidates.

    `lists` are image names by list; `rule_version_id` is the saved version that the rule came from.
    """

    mode: Mode
    rule: str = DEFAULT_RULE
    object_key: str | None = None
    filter: str | None = None
    circle: Circle | None = None
    lists: dict[str, frozenset[str]] = field(default_factory=dict)
    targets: frozenset[str] | None = None
    person_id: int | None = None
    rule_version_id: int | None = None


def wish_of(
    mode: str,
    rule: str | None = None,
    object_name: str | None = None,
    filter_name: str | None = None,
    ra: float | None = None,
    dec: float | None = None,
    radius: float | None = None,
    images_file: Path | None = None,
    aliases: dict[str, str] | None = None,
    images: frozenset[str] | None = None,
) -> Wish:
    """Build a wish from the words of a command; `images` are names that came otherwise than in a file.

    Raises
    ------
    UsageError, RecipeError, TransientError
        A circle that is incomplete or not on the sky; a rule with a fault; a list that cannot be read.
    """
    chosen = Mode(mode)
    lists: dict[str, frozenset[str]] = {}
    targets = None
    text = rule or DEFAULT_RULE
    if images_file is not None or images is not None:
        lists[LISTED] = _read_list(images_file) if images_file is not None else images or frozenset()
        targets = lists[LISTED] if chosen is Mode.SINGLE else None
        if chosen is not Mode.SINGLE:
            text = f'image in list("{LISTED}")' + (f" and ({rule})" if rule else "")
    for name in list_names(parse_rule(text)):
        if name not in lists:
            lists[name] = _read_list(Path(name))
    return Wish(
        mode=chosen,
        rule=text,
        object_key=normalise_object(object_name, aliases) if object_name else None,
        filter=filter_name,
        circle=_circle(chosen, ra, dec, radius),
        lists=lists,
        targets=targets,
    )


def _circle(mode: Mode, ra: float | None, dec: float | None, radius: float | None) -> Circle | None:
    given = [v is not None for v in (ra, dec, radius)]
    if mode is Mode.AREA and not all(given):
        raise UsageError("area mode needs --ra, --dec and --radius in degrees")
    if mode is not Mode.AREA and any(given):
        raise UsageError("--ra, --dec and --radius belong to area mode; use within(ra, dec, radius) in a rule")
    if ra is None or dec is None or radius is None:
        return None
    if not (0 <= ra <= 360 and -90 <= dec <= 90 and 0 < radius <= 90):
        raise UsageError(f"the circle {ra} {dec} {radius} is not on the sky; give degrees: ra 0 to 360, dec -90 to 90")
    return Circle(ra % 360.0, dec, radius)


def _read_list(path: Path) -> frozenset[str]:
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise UsageError(f"list {path.name} has more than {MAX_LIST_BYTES} bytes; name one image a line")
        return parse_list(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise TransientError(f"list {path} cannot be read ({error.strerror}); name an existing file") from error
