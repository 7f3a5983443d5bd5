"""Recipes: every parameter of every step, with unit, default, bounds and help; frozen, hashed, kept with the plan.

Layers: the shipped defaults, then recipe files, then `--set section.key=value`. `docs/recipes.md` is made from here.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spica.model.errors import RecipeError
from spica.model.record import canonical_sha256, to_json


def parameter(
    default: Any,
    unit: str,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Declare one recipe parameter: default, unit (`-` where none), help, bounds, choices."""
    return field(default=default, metadata={"unit": unit, "help": text, "low": low, "high": high, "choices": choices})


ENGINES = ("native", "astromatic")


@dataclass(frozen=True)
class EngineSection:
    """Which engine runs each step: `native` (Spica's own) or `astromatic` (the real tools)."""

    quality: str = parameter("native", "-", "engine of source extraction and quality")
    astrometry: str = parameter("native", "-", "engine of the joint solution")
    stack: str = parameter("native", "-", "engine of resampling and combination")
    catalogue: str = parameter("native", "-", "engine of the stack's catalogue")


@dataclass(frozen=True)
class VerifySection:
    """Verification of incoming files."""

    checksums: str = parameter(
        "profile",
        "-",
        "a DATASUM or CHECKSUM that does not match: `require` rejects the file, `warn` records it, `ignore` is silent; "
        "`profile`: as the instrument's profile says",
        choices=("profile", "require", "warn", "ignore"),
    )


@dataclass(frozen=True)
class QualitySection:
    """Source extraction and quality of one image."""

    threshold_sigma: float = parameter(
        1.5, "sigma", "detection threshold above the background noise", low=0.5, high=100
    )
    min_area_pix: int = parameter(5, "pixel", "connected pixels of a source at least", low=1, high=1000)
    mesh_pix: int = parameter(64, "pixel", "mesh of the background map", low=8, high=2048)
    star_sigma: float = parameter(20.0, "S/N", "signal to noise of a star used for the PSF at least", low=3, high=1000)
    max_stars: int = parameter(200, "-", "stars fitted for the PSF in each detector at most", low=5, high=10000)
    cosmics: bool = parameter(True, "-", "search cosmic rays and mask them")
    cosmic_sigma: float = parameter(5.0, "sigma", "significance of a cosmic-ray pixel", low=2, high=100)
    trails: bool = parameter(True, "-", "search satellite trails and mask them")
    bad_columns: bool = parameter(True, "-", "search bad columns and mask them")
    detrend: bool = parameter(False, "-", "subtract dark and divide by flat where masters are registered")
    plots: bool = parameter(True, "-", "draw the diagnostic plots")


@dataclass(frozen=True)
class MasterSection:
    """Combination of raw calibration frames to masters."""

    min_frames: int = parameter(3, "-", "frames a master needs at least", low=1, high=1000)
    clip_sigma: float = parameter(4.0, "sigma", "clipping around the median", low=2, high=20)
    min_level_adu: float = parameter(500.0, "ADU", "a flat fainter than this is left out", low=0)
    max_level_fraction: float = parameter(
        0.8, "-", "a flat brighter than this part of the saturation level is left out", low=0.01, high=1
    )
    bad_pixels: bool = parameter(True, "-", "make a bad-pixel map with each flat")


@dataclass(frozen=True)
class AstrometrySection:
    """Match to the reference and joint fit."""

    source: str = parameter(
        "solve",
        "-",
        "where positions come from: `solve` fits them to a reference; `header` takes the WCS of exposures that are "
        "calibrated already as it is, whatever the engine, and holds them against each other; a reference is then used "
        "where one covers the field, and is not needed",
        choices=("solve", "header"),
    )
    header_tolerance_pix: float = parameter(
        0.5,
        "pixel",
        "with `source = header`: an exposure whose sources lie further from those of the others, or scatter more about "
        "them per axis (by the median), is left out",
        low=0.01,
        high=10,
    )
    reference: str = parameter("", "-", "name of the reference catalogue; empty: the best that covers the field")
    detection_sigma: float = parameter(10.0, "S/N", "sources used in the solution at least", low=3, high=1000)
    search_radius_arcmin: float = parameter(
        0.0, "arcmin", "pointing error searched; 0: of the instrument", low=0, high=300
    )
    match_radius_arcsec: float = parameter(1.5, "arcsec", "final association radius", low=0.01, high=60)
    distortion_degree: int = parameter(3, "-", "degree of the shared distortion polynomial", low=1, high=4)
    share_distortion: bool = parameter(True, "-", "one distortion for all exposures of a camera; false: one each")
    min_reference: int = parameter(6, "stars", "reference stars an exposure needs at least", low=3, high=1000)
    max_reference_rms_arcsec: float = parameter(
        0.0,
        "arcsec",
        "reference rms beyond which the solution fails; 0: a fifth of the seeing or 0.5 pixel, the larger",
        low=0,
    )
    position_floor_mas: float = parameter(
        1.0, "mas", "systematic floor of positional errors; at least 0.01 pixel", low=0, high=1000
    )
    proper_motion: bool = parameter(True, "-", "move the reference to the epoch of the exposures")


@dataclass(frozen=True)
class PhotometrySection:
    """Relative and absolute zero points."""

    aperture_arcsec: float = parameter(
        0.0, "arcsec", "aperture of the solution's fluxes; 0: 3.7 arcsec or 3 FWHM, the larger", low=0, high=60
    )
    min_snr: float = parameter(20.0, "S/N", "stars used at least", low=3, high=10000)
    clip_sigma: float = parameter(3.0, "sigma", "clipping of residuals", low=1.5, high=10)
    min_reference: int = parameter(5, "stars", "reference stars for an absolute zero point at least", low=1, high=10000)
    max_skyprobe_mag: float = parameter(3.0, "mag", "an exposure attenuated by more is left out", low=0.01, high=20)
    offset_mag: float = parameter(0.0, "mag", "added to the reference magnitudes", low=-10, high=10)
    target_system: str = parameter("", "-", "magnitude system after the offset; empty: that of the reference")
    band: str = parameter("", "-", "reference band; empty: of the instrument's profile or the filter itself")


@dataclass(frozen=True)
class StackSection:
    """Frame, resampling and combination."""

    combine: str = parameter("clipped", "-", "how pixels are combined", choices=("weighted", "median", "clipped"))
    kernel: str = parameter(
        "lanczos3", "-", "interpolation kernel", choices=("lanczos3", "lanczos2", "bilinear", "nearest")
    )
    subtract_background: bool = parameter(True, "-", "subtract each detector's background mesh")
    background_mesh_pix: int = parameter(128, "pixel", "mesh of the subtracted background", low=16, high=4096)
    clip_sigma: float = parameter(4.0, "sigma", "clipping around the median", low=2, high=20)
    clip_fraction: float = parameter(0.3, "-", "fraction of the flux added to the clipping error", low=0, high=2)
    pixel_scale_arcsec: float = parameter(0.0, "arcsec", "pixel of the stack; 0: median of the inputs", low=0, high=60)
    max_frame_px: int = parameter(400_000_000, "pixel", "a larger frame is refused", low=10_000)
    memory_mb: int = parameter(600, "MB", "memory that strips may take", low=64)
    zero_point_mag: float = parameter(30.0, "mag", "zero point of the stack", low=0, high=60)
    exclude_trailing_mag: float = parameter(
        0.0, "mag", "inputs attenuated by more than this are left out; 0: none", low=0
    )
    min_inputs: int = parameter(1, "-", "exposures a stack needs at least", low=1)
    split: str = parameter("none", "-", "separate stacks by run or by night", choices=("none", "run", "night"))
    use_weight: bool = parameter(True, "-", "use the weight maps; false: noise only")


@dataclass(frozen=True)
class CatalogueSection:
    """Catalogue of a stack."""

    make: bool = parameter(True, "-", "make the catalogue; false: none")
    threshold_sigma: float = parameter(1.5, "sigma", "detection threshold", low=0.5, high=100)
    min_area_pix: int = parameter(5, "pixel", "connected pixels of a source at least", low=1, high=1000)
    apertures_arcsec: tuple[float, ...] = parameter((1.0, 2.0, 3.7, 5.0), "arcsec", "diameters of MAG_APER")
    mesh_pix: int = parameter(128, "pixel", "mesh of the background map", low=8, high=2048)


@dataclass(frozen=True)
class DeliverSection:
    """Delivery of the products."""

    make: bool = parameter(True, "-", "deliver; false: stop when the stack is judged")
    pdf: bool = parameter(True, "-", "write the quality page as PDF too")


@dataclass(frozen=True)
class ResourceSection:
    """Limits of jobs."""

    time_limit_s: int = parameter(7200, "s", "a job is ended after this", low=1)
    memory_mb: int = parameter(4000, "MB", "resident memory of a job; doubled when it was too little", low=64)
    memory_cap_mb: int = parameter(32000, "MB", "memory is not doubled beyond this", low=64)
    tries: int = parameter(4, "-", "attempts at a job at most", low=1, high=100)
    batch: int = parameter(4, "-", "exposures assessed by one job", low=1, high=1000)
    threads: int = parameter(1, "-", "threads of one job", low=1, high=256)


@dataclass(frozen=True)
class Recipe:
    """A frozen recipe: one section a step."""

    name: str = "default"
    engine: EngineSection = field(default_factory=EngineSection)
    verify: VerifySection = field(default_factory=VerifySection)
    quality: QualitySection = field(default_factory=QualitySection)
    master: MasterSection = field(default_factory=MasterSection)
    astrometry: AstrometrySection = field(default_factory=AstrometrySection)
    photometry: PhotometrySection = field(default_factory=PhotometrySection)
    stack: StackSection = field(default_factory=StackSection)
    catalogue: CatalogueSection = field(default_factory=CatalogueSection)
    deliver: DeliverSection = field(default_factory=DeliverSection)
    resources: ResourceSection = field(default_factory=ResourceSection)

    def sha256(self) -> str:
        """Return the hash of the parameters; the name does not count."""
        return canonical_sha256({k: v for k, v in to_json(self).items() if k != "name"})


def section_names() -> tuple[str, ...]:
    """Return the names of the sections in order."""
    return tuple(f.name for f in dataclasses.fields(Recipe) if f.name != "name")


def section_class(name: str) -> type:
    """Return the dataclass of a section."""
    return typing.cast(type, typing.get_type_hints(Recipe)[name])


def read_recipe(layers: list[Path], settings: list[str]) -> Recipe:
    """Read recipe files in order over the defaults, then `section.key=value` settings.

    Raises
    ------
    RecipeError
        Names the file or setting, the word, and the nearest known one.
    """
    tables: dict[str, dict[str, Any]] = {}
    name = "default"
    for path in layers:
        name = path.stem
        for section, values in _read_file(path).items():
            tables.setdefault(section, {}).update(_checked_table(section, values, str(path.name)))
    for setting in settings:
        section, key, value = _parse_setting(setting)
        tables.setdefault(section, {})[key] = value
    return build_recipe(name, tables)


def build_recipe(name: str, tables: dict[str, dict[str, Any]]) -> Recipe:
    """Build a recipe from plain tables over the defaults, each value checked."""
    sections = {}
    for section, values in tables.items():
        _known(section, section_names(), "section")
        cls = section_class(section)
        _check_keys(cls, section, values)
        sections[section] = cls(**{k: _checked(cls, section, k, v) for k, v in values.items()})
    return Recipe(name=name, **sections)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"recipe {path} cannot be read ({error.strerror}); name an existing file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path.name} is not TOML: {error}; correct that line") from error


def _checked_table(section: str, values: Any, where: str) -> dict[str, Any]:
    _known(section, section_names(), "section")
    if not isinstance(values, dict):
        raise RecipeError(f"{where}: [{section}] must be a table; write [{section}] above its keys")
    return values


def _parse_setting(setting: str) -> tuple[str, str, Any]:
    path, equals, text = setting.partition("=")
    section, dot, key = path.strip().partition(".")
    if not (equals and dot):
        raise RecipeError(f"setting {setting!r} is not section.key=value; see docs/recipes.md")
    _known(section, section_names(), "section")
    _check_keys(section_class(section), section, {key: None})
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    return section, key, value


def _known(word: str, words: tuple[str, ...], noun: str) -> None:
    if word not in words:
        near = difflib.get_close_matches(word, words, 1)
        cure = f"did you mean {near[0]!r}?" if near else "known: " + " ".join(words)
        raise RecipeError(f"recipe has no {noun} {word!r}; {cure}", word=word)


def _check_keys(cls: type, section: str, values: dict[str, Any]) -> None:
    keys = tuple(f.name for f in dataclasses.fields(cls))
    for key in values:
        _known(key, keys, f"parameter in [{section}]")


def _checked(cls: type, section: str, key: str, value: Any) -> Any:
    hint = typing.get_type_hints(cls)[key]
    meta = next(f.metadata for f in dataclasses.fields(cls) if f.name == key)
    where = f"[{section}] {key}"
    value = _converted(hint, value, where)
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = meta.get("low"), meta.get("high")
        if (low is not None and value < low) or (high is not None and value > high):
            raise RecipeError(f"{where} = {value} is out of bounds; give {low} to {high} {meta['unit']}", word=key)
    choices = meta.get("choices") or ()
    if choices and value not in choices:
        raise RecipeError(f"{where} = {value!r} is unknown; one of {' '.join(choices)}", word=key)
    return value


def _converted(hint: Any, value: Any, where: str) -> Any:
    if isinstance(hint, types.GenericAlias) and isinstance(value, list | tuple):
        return tuple(_converted(float, v, where) for v in value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint in (bool, str) and isinstance(value, hint):
        return value
    name = getattr(hint, "__name__", str(hint))
    raise RecipeError(f"{where} = {value!r} is not {name}; see docs/recipes.md")
