"""Profiles: shipped, of plug-ins, of the workspace; slips are named with file, table and key."""

import importlib.metadata
from pathlib import Path

import pytest

from spica.files.header import make_cards
from spica.instruments.profile import parse_profile
from spica.instruments.registry import ENTRY_POINT_GROUP, load_instruments
from spica.model.errors import RecipeError

SIM = (make_cards([("INSTRUME", "SPICASIM", "")]),)
MINE = 'name = "{}"\npriority = {}\n[recognise]\nall = [{{ keyword = "INSTRUME", equals = "spicasim" }}]\n'


def test_shipped_profiles_load_and_recognise():
    registry = load_instruments(plugin_folders=())
    assert {"generic", "spicasim", "microobservatory", "megaprime"} <= {i.name for i in registry.instruments}
    assert registry.recognise(SIM).name == "spicasim"
    assert registry.recognise((make_cards([("INSTRUME", "else", "")]),)).name == "generic"
    assert registry.recognise((make_cards([]),)).name == "generic"
    assert registry.get("generic:else").name == "generic"
    with pytest.raises(RecipeError, match="known are"):
        registry.get("nothing")


def test_the_workspace_wins_over_plug_ins_and_shipped_profiles(tmp_path):
    user, plugin = tmp_path / "user", tmp_path / "plugin"
    for folder, title in ((user, "mine"), (plugin, "theirs")):
        folder.mkdir()
        (folder / "s.toml").write_text(f'title = "{title}"\n' + MINE.format("spicasim", 0))
    assert load_instruments(user, [plugin]).recognise(SIM).title == "mine"
    assert load_instruments(None, [plugin]).recognise(SIM).title == "theirs"
    assert load_instruments(tmp_path / "absent", ()).recognise(SIM).title.startswith("simulated")
    (plugin / "t.toml").write_text(MINE.format("other", 5))
    assert load_instruments(user, [plugin]).recognise(SIM).name == "other"
    (user / "again.toml").write_text(MINE.format("spicasim", 0))
    with pytest.raises(RecipeError, match="both describe"):
        load_instruments(user, ())


def test_entry_points_yield_folders(tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "starcam_plugin.py").write_text(
        "from pathlib import Path\ndef folder():\n    return Path(__file__).parent / 'profiles'\n"
    )
    (tmp_path / "site" / "profiles").mkdir()
    (tmp_path / "site" / "profiles" / "starcam.toml").write_text(MINE.format("starcam", 9))
    info = tmp_path / "site" / "starcam-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: starcam\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\nstarcam = starcam_plugin:folder\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    importlib.invalidate_caches()
    assert load_instruments().recognise(SIM).name == "starcam"
    (info / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\nstarcam = starcam_plugin:nothing\n")
    with pytest.raises(RecipeError, match="starcam"):
        load_instruments()


@pytest.mark.parametrize(
    ("text", "table", "key"),
    [
        ("title = 'x'", "", "name"),
        ("name = 3", "", "name"),
        ("name = 'x'\nparity = 2", "", "parity"),
        ("name = 'x'\npixel_scale_arcsec = -1", "", "pixel_scale_arcsec"),
        ("name = 'x'\npixelscale = 1", "", "pixelscale"),
        ("name = 'x'\n[facts.object]\nkeyword = ['A']", "facts.object", "keyword"),
        ("name = 'x'\n[facts.object]\nkeywords = 'A'", "facts.object", "keywords"),
        ("name = 'x'\n[facts.exptime]\nunit = 'hours'", "facts.exptime", "unit"),
        ("name = 'x'\n[facts.colour]\nvalue = 1", "facts", "colour"),
        ("name = 'x'\n[recognise]\nall = [{keyword='A', matches='('}]", "recognise.all[0]", "matches"),
        ("name = 'x'\n[recognise]\nall = [{keyword='A'}]", "recognise.all[0]", "equals"),
        ("name = 'x'\n[[frames]]\ntype = 'twilight'", "frames[0]", "type"),
        ("name = 'x'\n[[time.sources]]\nform = 'julian'\nkeywords = ['A']", "time.sources[0]", "form"),
        ("name = 'x'\n[grades.r]\nE = {}", "grades.r", "E"),
        ("name = 'x'\n[grades.r]\nA = {seeing_arcsec = 'good'}", "grades.r.A", "seeing_arcsec"),
        ("name = 'x'\n[filters.names]\nr = 1", "filters.names", "r"),
        ("name = 'x'\n[layout.detectors.c]\nxi_arcsec = 1", "layout.detectors.c", "xi_arcsec"),
    ],
)
def test_a_slip_is_named(text, table, key):
    with pytest.raises(RecipeError, match=r"bad\.toml") as caught:
        parse_profile(text, "bad.toml")
    assert caught.value.values["table"] == table
    assert caught.value.values["key"] == key
    assert "edit the profile" in str(caught.value)


def test_files_that_are_no_toml_are_named(tmp_path):
    (tmp_path / "broken.toml").write_text("name = = 3")
    with pytest.raises(RecipeError, match=r"broken\.toml is no valid TOML"):
        load_instruments(tmp_path, ())
    (tmp_path / "broken.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(RecipeError, match="UTF-8"):
        load_instruments(tmp_path, ())


def test_grade_limits_fall_back_on_the_default():
    instrument = load_instruments(plugin_folders=()).get("megaprime")
    assert instrument.grade_limits("u")["A"].seeing_arcsec == 1.0
    assert instrument.grade_limits("r")["A"].seeing_arcsec == 0.8
    assert instrument.zero_point_mag("r") == 25.978
    assert instrument.zero_point_mag("Halpha") is None
    assert instrument.reference_band("r") == "r"


def test_every_shipped_profile_is_plain_text_without_paths():
    import spica.instruments.registry as registry

    for path in (Path(registry.__file__).parent / "profiles").glob("*.toml"):
        text = path.read_text(encoding="ascii")
        assert text.startswith("#")
        assert path.stem == load_instruments(plugin_folders=()).get(path.stem).name
