"""Recipes: layers, settings, bounds, hashes, and messages that name the word."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

import pytest

from spica.model.errors import RecipeError
from spica.model.recipe import Recipe, build_recipe, read_recipe, section_class, section_names
from spica.model.record import from_json, to_json

PARAMETERS = [(section, f) for section in section_names() for f in dataclasses.fields(section_class(section))]
NAMES = [f"{section}.{f.name}" for section, f in PARAMETERS]


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(("section", "field"), PARAMETERS, ids=NAMES)
def test_every_parameter_has_unit_help_and_a_default_within_its_bounds(
    section: str, field: dataclasses.Field[object]
) -> None:
    assert field.metadata["unit"]
    assert field.metadata["help"]
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    recipe = build_recipe("default", {section: {field.name: default}})
    assert recipe == Recipe()
    hint = typing.get_type_hints(section_class(section))[field.name]
    assert hint in (bool, int, float, str, tuple[float, ...])


@pytest.mark.parametrize(("section", "field"), PARAMETERS, ids=NAMES)
def test_bounds_and_choices_hold(section: str, field: dataclasses.Field[object]) -> None:
    meta = field.metadata
    wrong = [meta["low"] - 1] if meta["low"] is not None else []
    wrong += [meta["high"] + 1] if meta["high"] is not None else []
    wrong += ["no such choice"] if meta["choices"] else []
    for value in wrong:
        with pytest.raises(RecipeError, match=rf"\[{section}\] {field.name}"):
            build_recipe("x", {section: {field.name: value}})


def test_layers_later_over_earlier_and_settings_over_files(tmp_path: Path) -> None:
    first = write(tmp_path, "wide.toml", "[stack]\ncombine = 'median'\nclip_sigma = 5\n[quality]\nmin_area_pix = 9\n")
    second = write(tmp_path, "deep.toml", "[stack]\ncombine = 'weighted'\n")
    recipe = read_recipe([first, second], ["quality.min_area_pix=7", "stack.split = run"])
    assert recipe.name == "deep"
    assert (recipe.stack.combine, recipe.stack.clip_sigma, recipe.stack.split) == ("weighted", 5.0, "run")
    assert recipe.quality.min_area_pix == 7
    assert recipe.catalogue == Recipe().catalogue
    assert read_recipe([], []) == Recipe()


def test_settings_are_read_as_toml_or_as_text() -> None:
    recipe = read_recipe([], ["catalogue.apertures_arcsec=[1, 2.5]", "deliver.make=false", "astrometry.reference=gaia"])
    assert recipe.catalogue.apertures_arcsec == (1.0, 2.5)
    assert recipe.deliver.make is False
    assert recipe.astrometry.reference == "gaia"


def test_the_name_does_not_count_in_the_hash_and_each_value_does() -> None:
    assert Recipe(name="a").sha256() == Recipe(name="b").sha256()
    hashes = {Recipe().sha256()}
    for section, field in PARAMETERS:
        default = field.default
        other: object
        if isinstance(default, bool):
            other = not default
        elif isinstance(default, tuple):
            other = (*default, 9.0)
        elif isinstance(default, str):
            other = default + "x"
        else:
            other = default + 1  # type: ignore[operator]
        changed = dataclasses.replace(getattr(Recipe(), section), **{field.name: other})
        hashes.add(dataclasses.replace(Recipe(), **{section: changed}).sha256())
    assert len(hashes) == len(PARAMETERS) + 1


def test_through_json_and_back() -> None:
    recipe = read_recipe([], ["stack.combine=median", "catalogue.apertures_arcsec=[3]"])
    assert from_json(Recipe, to_json(recipe)) == recipe
    assert from_json(Recipe, to_json(recipe)).sha256() == recipe.sha256()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("stack.combin=median", "no parameter in [stack] 'combin'; did you mean 'combine'?"),
        ("stak.combine=median", "no section 'stak'; did you mean 'stack'?"),
        ("zzz.combine=median", "known: engine verify quality"),
        ("stack.combine", "is not section.key=value"),
        ("combine=median", "is not section.key=value"),
        ("stack.combine=mean", "[stack] combine = 'mean' is unknown; one of weighted median clipped"),
        ("stack.clip_sigma=1", "[stack] clip_sigma = 1.0 is out of bounds; give 2 to 20 sigma"),
        ("stack.clip_sigma=high", "[stack] clip_sigma = 'high' is not float"),
        ("stack.min_inputs=2.5", "[stack] min_inputs = 2.5 is not int"),
        ("stack.min_inputs=true", "[stack] min_inputs = True is not int"),
        ("deliver.make=1", "[deliver] make = 1 is not bool"),
        ("catalogue.apertures_arcsec=['a']", "[catalogue] apertures_arcsec = 'a' is not float"),
    ],
)
def test_settings_that_are_refused(setting: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe([], [setting])
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[stack\n", "bad.toml is not TOML"),
        ("[stak]\n", "no section 'stak'; did you mean 'stack'?"),
        ("stack = 3\n", "bad.toml: [stack] must be a table"),
        ("[stack]\ncombin = 'median'\n", "did you mean 'combine'?"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe([write(tmp_path, "bad.toml", text)], [])
    assert words in str(caught.value)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no\.toml cannot be read"):
        read_recipe([tmp_path / "no.toml"], [])
    binary = tmp_path / "raw.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"raw\.toml is not TOML"):
        read_recipe([binary], [])
