"""All cameras known here (shipped, of plug-ins, of the workspace), and which of them a header belongs to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from spica.files.header import HeaderCards
from spica.instruments.base import Instrument
from spica.instruments.lookup import meets
from spica.instruments.profile import read_profile
from spica.instruments.translate import explain, translate
from spica.model.errors import RecipeError

__all__ = ["ENTRY_POINT_GROUP", "Registry", "explain", "load_instruments", "translate"]

ENTRY_POINT_GROUP = "spica.instruments"
GENERIC = "generic"
_SHIPPED = Path(__file__).resolve().parent / "profiles"


@dataclass(frozen=True)
class Registry:
    """Instruments in order of preference: the workspace's, plug-ins', shipped ones; `generic` last."""

    instruments: tuple[Instrument, ...]

    def get(self, name: str) -> Instrument:
        """Return an instrument by name (`generic:<camera>` is `generic`); RecipeError where it is not known."""
        stem = name.partition(":")[0]
        for instrument in self.instruments:
            if instrument.name == stem:
                return instrument
        known = ", ".join(instrument.name for instrument in self.instruments)
        raise RecipeError(f"no profile is called {name!r}; known are {known}")

    def recognise(self, headers: Sequence[HeaderCards], file_name: str = "") -> Instrument:
        """Return the instrument whose conditions the headers meet, `generic` where none does.

        Of several the highest `priority` counts, then the workspace's before plug-ins' before shipped ones.
        """
        named = [instrument for instrument in self.instruments if instrument.name != GENERIC]
        fitting = [
            instrument
            for instrument in named
            if headers and not instrument.recognise.is_empty and meets(instrument.recognise, headers, file_name)
        ]
        return max(fitting, key=lambda instrument: instrument.priority) if fitting else self.get(GENERIC)


def _folder_profiles(folder: Path) -> list[Instrument]:
    """Read every profile of a folder; RecipeError where two of them bear one name."""
    found: dict[str, Instrument] = {}
    for path in sorted(folder.glob("*.toml")):
        instrument = read_profile(path)
        if instrument.name in found:
            first = found[instrument.name].source
            raise RecipeError(f"{first} and {path.name} both describe {instrument.name!r}; rename or remove one")
        found[instrument.name] = instrument
    return list(found.values())


def _plugin_folders() -> list[Path]:
    """Return the profile folders that entry points of the group `spica.instruments` yield.

    An entry point is a callable that returns a folder, or a folder (text or path) itself; RecipeError where one fails.
    """
    folders: list[Path] = []
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
        try:
            target = point.load()
            folder = target() if callable(target) else target
            folders.append(Path(os.fspath(folder)))
        except (ImportError, AttributeError, TypeError, OSError, ValueError) as trouble:
            raise RecipeError(
                f"the instrument plug-in {point.name!r} cannot be used ({trouble}); repair or uninstall it"
            ) from trouble
    return folders


def load_instruments(
    user_folder: str | os.PathLike[str] | None = None, plugin_folders: Iterable[Path] | None = None
) -> Registry:
    """Read all profiles: the workspace's folder (it may be absent), plug-ins', the shipped ones.

    Parameters
    ----------
    user_folder : path, optional
        Folder of the workspace's own `*.toml` profiles; one of the same name replaces a shipped one.
    plugin_folders : iterable of Path, optional
        Folders instead of those of the installed entry points.

    Raises
    ------
    RecipeError
        Where a profile has a slip (file, table and key are named), or two of one folder bear one name.
    """
    folders = [Path(user_folder)] if user_folder is not None and Path(user_folder).is_dir() else []
    folders += list(_plugin_folders() if plugin_folders is None else plugin_folders)
    folders.append(_SHIPPED)
    chosen: dict[str, Instrument] = {}
    for folder in folders:
        for instrument in _folder_profiles(folder):
            chosen.setdefault(instrument.name, instrument)
    return Registry(tuple(chosen.values()))
