"""The workspace: made without harm, found from anywhere inside, its files named without absolute paths."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from spica.files.source import FileLimits
from spica.files.workspace import ROOTS, Workspace, find_workspace, init_workspace, place_below, read_workspace
from spica.model.errors import RecipeError, TransientError, UsageError


@pytest.fixture
def made(tmp_path: Path) -> Workspace:
    """Return a new workspace."""
    return init_workspace(tmp_path / "My Survey")


def configure(workspace: Workspace, text: str) -> Workspace:
    """Replace the configuration and read it again."""
    (workspace.folder / "spica.toml").write_text(text)
    return read_workspace(workspace.folder)


def test_init(made: Workspace) -> None:
    """All folders, a configuration that says what can be said, defaults that hold."""
    for name in (*ROOTS, "db", "reference", "recipes", "instruments"):
        assert (made.folder / name).is_dir()
    assert made.survey == "My_Survey"
    assert made.roots == {name: made.folder / name for name in ROOTS}
    assert made.database_url is None
    assert made.limits == FileLimits()
    assert made.fsync
    assert (made.web_host, made.slots, made.place_mode) == ("127.0.0.1", 0, "copy")


def test_commented_lines_are_the_defaults(made: Workspace) -> None:
    """Each commented setting, once uncommented, is valid TOML and a key that is known; limits equal the defaults."""
    text = (made.folder / "spica.toml").read_text()
    opened = re.sub(r"^# (?=[\"a-z_ 0-9]+ = )", "", text, flags=re.MULTILINE)
    data = tomllib.loads(opened)
    assert {"database", "node", "slots", "place"} <= set(data)
    assert data["limits"] == {f: getattr(FileLimits(), f) for f in data["limits"]}
    read = configure(made, opened)
    assert (read.slots, read.place_mode, read.web_port, read.node) == (made.slots, "copy", made.web_port, made.node)
    assert read.object_aliases == {"ngc 224": "M31"}
    assert read.roots["archive"] == Path("/data/archive")


def test_init_overwrites_nothing(made: Workspace) -> None:
    """Again in the same place: what was written stays, what was lost comes back."""
    config = made.folder / "spica.toml"
    config.write_text('survey = "mine"\n')
    (made.folder / "data" / "x").write_text("x")
    (made.folder / "recipes").rmdir()
    assert init_workspace(made.folder).survey == "mine"
    assert (made.folder / "data" / "x").read_text() == "x"
    assert (made.folder / "recipes").is_dir()


def test_found_from_below(made: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Named, by the environment, or from any folder inside; in this order."""
    monkeypatch.delenv("SPICA_WORKSPACE", raising=False)
    deep = made.folder / "data" / "a" / "b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert find_workspace().folder == made.folder
    other = init_workspace(tmp_path / "other")
    monkeypatch.setenv("SPICA_WORKSPACE", str(other.folder))
    assert find_workspace().folder == other.folder
    assert find_workspace(made.folder).folder == made.folder
    assert find_workspace(made.folder / "spica.toml").folder == made.folder


def test_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way not to find it says what to run."""
    monkeypatch.delenv("SPICA_WORKSPACE", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no workspace here; run: spica init"):
        find_workspace()
    with pytest.raises(UsageError, match="run: spica init"):
        find_workspace(tmp_path)
    with pytest.raises(TransientError, match=r"gone is not there; mount it") as caught:
        find_workspace(tmp_path / "gone")
    assert caught.value.door_code == 5


def test_settings(made: Workspace, tmp_path: Path) -> None:
    """What is written is read."""
    read = configure(
        made,
        'survey = "CFHT"\ndatabase = "postgresql+psycopg://u@h/d"\nnode = "n7"\nslots = 12\nplace = "leave"\n'
        f'[web]\nhost = "0.0.0.0"\nport = 80\n[roots]\narchive = "{tmp_path}"\nincoming = "/in"\n'
        '[aliases]\n"ngc 224" = "M31"\n[limits]\nmax_hdus = 50\n',
    )
    assert (read.survey, read.database_url, read.node) == ("CFHT", "postgresql+psycopg://u@h/d", "n7")
    assert (read.slots, read.place_mode, read.web_host, read.web_port) == (12, "leave", "0.0.0.0", 80)
    assert read.roots["archive"] == tmp_path
    assert read.roots["incoming"] == Path("/in")
    assert read.object_aliases == {"ngc 224": "M31"}
    assert read.limits == FileLimits(max_hdus=50)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("slot = 3", "'slot'"),
        ('slots = "3"', "slots"),
        ("slots = true", "slots"),
        ("slots = -1", "slots"),
        ('place = "move"', "place"),
        ("node = 'a b'", "node"),
        ("node = '../x'", "node"),
        ("survey = 3", "survey"),
        ("[web]\nport = 70000", "web.port"),
        ("[web]\nhosts = 'x'", "'web.hosts'"),
        ("[roots]\narchive = 'relative'", "roots.archive"),
        ("[roots]\nat-1 = '/x'", "roots.at-1"),
        ("[roots]\n'a/b' = '/x'", "roots.a/b"),
        ("[limits]\nmax_hdu = 3", "'limits.max_hdu'"),
        ("[limits]\nmax_hdus = 0", "limits.max_hdus"),
        ("[aliases]\nx = 1", "aliases.x"),
        ("slots = \nnode = 'a'", "line 1"),
    ],
)
def test_wrong_settings_name_the_key(made: Workspace, text: str, key: str) -> None:
    """The file, the key, what would do."""
    with pytest.raises(RecipeError) as caught:
        configure(made, text)
    assert key in str(caught.value)
    assert "spica.toml" in str(caught.value)


def test_place_and_locate_are_inverse(made: Workspace) -> None:
    """A path in a root goes there and back; the deepest root that holds it counts."""
    path = made.place("data", "megacam/run/r/744123p-0123abcd.fits.fz")
    assert path == made.folder / "data/megacam/run/r/744123p-0123abcd.fits.fz"
    assert made.locate(path) == ("data", "megacam/run/r/744123p-0123abcd.fits.fz")
    inner = configure(made, f'[roots]\ndeep = "{made.folder}/data/deep"\n')
    assert inner.locate(made.folder / "data/deep/x.fits") == ("deep", "x.fits")


@pytest.mark.parametrize("relative", ["../x", "a/../../x", "/etc/passwd", "", "a/../b", "a\0b"])
def test_place_refuses_ways_out(made: Workspace, relative: str) -> None:
    """No path leaves its root, and none is absolute."""
    with pytest.raises(UsageError, match="no path below"):
        made.place("data", relative)


def test_place_refuses_a_link_out(made: Workspace, tmp_path: Path) -> None:
    """Nor by a symbolic link below the root; a root that is a link itself is fine."""
    (made.folder / "data" / "out").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="leads out"):
        made.place("data", "out/x")
    (tmp_path / "alias").symlink_to(made.folder / "data")
    assert place_below(tmp_path / "alias", "x") == tmp_path / "alias" / "x"


def test_place_of_unknown_root(made: Workspace) -> None:
    """The message says where roots are named."""
    with pytest.raises(RecipeError, match=r"no root 'tape'; name its folder under \[roots\]"):
        made.place("tape", "x")


def test_locate_outside_makes_a_root_of_this_node(made: Workspace, tmp_path: Path) -> None:
    """A file elsewhere: a root named by its folder's hash, kept for later commands and neighbours, found again."""
    outside = tmp_path / "disk2" / "night 1"
    outside.mkdir(parents=True)
    (outside / "a.fits").write_text("x")
    root, relative = made.locate(outside / "a.fits")
    assert re.fullmatch(r"at-[0-9a-f]{8}", root)
    assert relative == "a.fits"
    later = read_workspace(made.folder)
    assert later.place(root, relative) == outside / "a.fits"
    assert later.locate(outside / "b.fits") == (root, "b.fits")
    other = tmp_path / "disk3"
    other.mkdir()
    assert later.locate(other / "a.fits")[0] != root
    peer = init_workspace(made.folder).as_node("n2")
    found = peer.peer_roots(made.node)
    assert found is not None
    assert found[root] == outside
    assert found["data"] == made.folder / "data"


def test_locate_through_a_link(made: Workspace, tmp_path: Path) -> None:
    """A link to a folder in a root is the root; a link to a file keeps its own name."""
    (tmp_path / "link").symlink_to(made.folder / "incoming")
    assert made.locate(tmp_path / "link" / "a.fits") == ("incoming", "a.fits")
    (made.folder / "incoming" / "b.fits").symlink_to(tmp_path / "elsewhere.fits")
    assert made.locate(made.folder / "incoming" / "b.fits") == ("incoming", "b.fits")


def test_roots_found_by_two_processes_are_both_kept(made: Workspace, tmp_path: Path) -> None:
    """Two commands that take in folders at the same time do not lose each other's roots."""
    code = (
        "import sys; from pathlib import Path; from spica.files.workspace import read_workspace\n"
        "for n in range(15):\n"
        "    folder = Path(sys.argv[2], f'{sys.argv[3]}{n}'); folder.mkdir()\n"
        "    read_workspace(Path(sys.argv[1])).locate(folder / 'a.fits')\n"
    )
    words = [sys.executable, "-c", code, str(made.folder), str(tmp_path)]
    runs = [subprocess.Popen([*words, name]) for name in ("a", "b", "c")]
    assert [run.wait(60) for run in runs] == [0, 0, 0]
    assert len([name for name in read_workspace(made.folder).roots if name.startswith("at-")]) == 45


def test_second_node_of_a_host(made: Workspace, tmp_path: Path) -> None:
    """Its own name and data; each finds the other's."""
    second = made.as_node("n2", tmp_path / "data2")
    assert second.roots["data"] == tmp_path / "data2"
    assert second.roots["incoming"] == made.roots["incoming"]
    assert second.locate(tmp_path / "data2" / "x.fits") == ("data", "x.fits")
    assert made.peer_roots("n2") == second.roots
    assert second.peer_roots(made.node) == made.roots
    assert made.peer_roots("n3") is None
    assert made.peer_roots("../../etc") is None
    again = made.as_node("n2", tmp_path / "data2")
    assert again.roots == second.roots


def test_damaged_node_file(made: Workspace) -> None:
    """It may be deleted; the message says so."""
    path = made.folder / "nodes" / f"{made.node}.json"
    for text in ("{", '["x"]', '{"a": 1}'):
        path.write_text(text)
        with pytest.raises(RecipeError, match="delete it"):
            read_workspace(made.folder)
    path.unlink()
    assert read_workspace(made.folder).roots == made.roots
    assert json.loads(init_workspace(made.folder).folder.joinpath("nodes", f"{made.node}.json").read_text())


def test_moved_workspace(made: Workspace, tmp_path: Path) -> None:
    """Everything below the workspace moves with it: the node's file does not hold it back."""
    made.folder.rename(tmp_path / "moved")
    moved = read_workspace(tmp_path / "moved")
    assert moved.roots["data"] == tmp_path / "moved" / "data"
    moved.save_roots()
    assert moved.peer_roots(moved.node) == moved.roots


def test_runtime_folder_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However deep the workspace lies a socket fits in; two workspaces do not share; it may be moved."""
    monkeypatch.delenv("SPICA_RUNTIME", raising=False)
    deep = init_workspace(tmp_path / ("d" * 200) / ("e" * 200))
    other = init_workspace(tmp_path / "other")
    assert len(str(deep.runtime_folder / ".s.PGSQL.5432")) < 60
    assert deep.runtime_folder != other.runtime_folder
    monkeypatch.setenv("SPICA_RUNTIME", "/run/mine")
    assert deep.runtime_folder.is_relative_to("/run/mine")


def test_folder_that_cannot_be_written() -> None:
    """A place where not even root can write: one line with the cure."""
    with pytest.raises(TransientError, match="make it writable or choose another folder") as caught:
        init_workspace(Path("/proc/spica"))
    assert caught.value.door_code == 5


def test_unreadable_configuration(made: Workspace) -> None:
    """A configuration that is a folder cannot be read; the file is named."""
    (made.folder / "spica.toml").unlink()
    (made.folder / "spica.toml").mkdir()
    with pytest.raises(TransientError, match=r"spica\.toml cannot be read"):
        read_workspace(made.folder)


def test_no_heavy_imports() -> None:
    """Finding the workspace is the first thing of every command: no database, no arrays."""
    code = (
        "import sys, spica.files.workspace; print([m for m in ('sqlalchemy', 'psycopg', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=os.sep)
    assert done.stdout.strip() == "[]"
