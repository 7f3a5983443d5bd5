"""Rules that come with Spica: how known surveys chose their exposures, said in Spica's language."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path

from spica.model.errors import RecipeError
from spica.model.selection.parse import parse_rule

FOLDER = Path(__file__).resolve().parents[2] / "rules"


@dataclass(frozen=True)
class ShippedRule:
    """One example: the rule, what it is for, where it was published, and what it does not say.

    `best_percent` is the share of the best seeing that was taken, None where there was none; `settings` are those of
    the recipe (`section.key=value`) that go with it.
    """

    key: str
    title: str
    rule: str
    about: str
    source: str
    caveats: tuple[str, ...]
    best_percent: int | None = None
    settings: tuple[str, ...] = ()


@functools.cache
def shipped_rules(folder: Path = FOLDER) -> tuple[ShippedRule, ...]:
    """Return the rules of a folder of TOML files, by file name.

    Raises
    ------
    RecipeError
        A file is not TOML, lacks a key, or its rule cannot be read.
    """
    return tuple(_read(path) for path in sorted(folder.glob("*.toml")))


def _read(path: Path) -> ShippedRule:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        parse_rule(table["rule"])
        return ShippedRule(
            key=path.stem,
            title=table["title"],
            rule=table["rule"],
            about=table["about"],
            source=table["source"],
            caveats=tuple(table["caveats"]),
            best_percent=table.get("best_percent"),
            settings=tuple(table.get("settings", ())),
        )
    except (tomllib.TOMLDecodeError, KeyError) as error:
        raise RecipeError(f"rule {path.name} cannot be read: {error}; correct that file") from error
