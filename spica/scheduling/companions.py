"""Files beside an image that hold its weight, error or data quality: told by their names, given to its assessment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from spica.instruments.base import Instrument
from spica.model.product import MAP_ROLES, Role


@dataclass(frozen=True)
class Pair:
    """An image and a file in its folder that a profile calls its map."""

    image: Path
    map: Path
    role: Role


def find_pairs(files: Sequence[Path], instruments: Iterable[Instrument]) -> list[Pair]:
    """Return the pairs in the folders of some files in which at least one of the two is such a file.

    Both lie in one folder under the names that a profile's companion rules couple, whatever camera the image is of.
    """
    rules = [rule for instrument in instruments for rule in instrument.companions]
    if not rules:
        return []
    wanted = set(files)
    pairs: dict[Pair, None] = {}
    for folder in sorted({path.parent for path in files}):
        try:
            names = set(os.listdir(folder))
        except OSError:
            names = {path.name for path in files if path.parent == folder}
        for name in sorted(names):
            for rule in rules:
                other = rule.name_for(name)
                if other is None or other == name or other not in names:
                    continue
                pair = Pair(folder / name, folder / other, MAP_ROLES[rule.kind])
                if (pair.image in wanted or pair.map in wanted) and pair.map.is_file():
                    pairs[pair] = None
    return list(pairs)
