"""The sessions of the camera guide are run against the real headers that they are about."""

from __future__ import annotations

import gzip
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from spica.cli import main as door
from spica.files.dump import read_header_dump
from spica.files.scan import read_headers
from spica.files.workspace import init_workspace
from spica.instruments.base import Instrument
from spica.instruments.profile import read_profile
from spica.instruments.registry import load_instruments, translate

PAGE = Path(__file__).resolve().parents[2] / "docs" / "instruments.md"
FILES = {
    "S20150101S0261.header": "headers/gemini/F2__S20150101S0261.fits.header.gz",
    "S20150622S0011.header": "headers/gemini/F2__S20150622S0011.fits.header.gz",
    "2281792o.header": "headers/cfht/multi_plane__wircam__2281792o.fits.header.gz",
    "840066o.header": "headers/cfht/multi_plane__wircam__840066o.fits.header.gz",
    "elp1m008-fa05-20211007-0042-e00.fits.gz": "lco_sinistro_raw_mef/mef_raw_test_frame.fits.gz",
}
_FENCE = re.compile(r"^```(console|diff)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Command(NamedTuple):
    """A command of a session, the lines shown below it, and what it printed here."""

    words: str
    shown: list[str]
    printed: list[str]


def squeezed(line: str) -> str:
    return " ".join(line.split())


def follows(shown: list[str], printed: list[str]) -> str:
    """Return the first shown line that is not printed in its turn; `...` is any lines, at a line's end any text."""
    lines, at, free = [squeezed(p) for p in printed], 0, False
    for line in map(squeezed, shown):
        if line == "...":
            free = True
            continue
        fits = [p.startswith(line[:-3].rstrip()) if line.endswith("...") else p == line for p in lines[at:]]
        if True not in (fits if free else fits[:1]):
            return line
        at, free = at + fits.index(True) + 1, False
    return "" if free or at == len(lines) else f"(more is printed: {lines[at]})"


def corrected(text: str, change: str) -> str:
    """Return a profile with a change of the page made: `-` is the beginning of a line, `+` comes in its place."""
    lines = text.splitlines()
    at = 0
    for row in change.splitlines():
        mark, content = row[:1], row[1:]
        if mark == "-":
            found = [i for i, line in enumerate(lines) if line.startswith(content)]
            assert len(found) == 1, f"{content!r} begins {len(found)} lines of the starter"
            at = found[0]
            del lines[at]
        elif mark == "+":
            lines.insert(at, content)
            at += 1
    return "\n".join(lines) + "\n"


def run(words: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> list[str]:
    """Run one command as a shell would, with `>` at its end."""
    command, _, target = (part.strip() for part in words.partition(" > "))
    if target:
        (folder / target).write_text("")
    if command.startswith("spica "):
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            door.main(shlex.split(command)[1:])
        out, err = capfd.readouterr()
        assert (ended.value.code, err) == (0, ""), words
    else:
        out = subprocess.run(shlex.split(command), cwd=folder, capture_output=True, text=True, check=True).stdout
    if target:
        (folder / target).write_text(out)
        return []
    return out.splitlines()


def session(folder: Path, capfd: pytest.CaptureFixture[str]) -> list[Command]:
    """Run the fences of the page in order in a workspace; return the commands with what they printed."""
    done: list[Command] = []
    for language, body in _FENCE.findall(PAGE.read_text(encoding="utf-8")):
        if language == "diff":
            name, _, change = body.partition("\n")
            path = folder / name.removeprefix("# ")
            path.write_text(corrected(path.read_text(), change))
            continue
        for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            words, *shown = part.splitlines()
            done.append(Command(words, shown, run(words, folder, capfd)))
    return done


@pytest.fixture
def at_work(test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a workspace with the files of the page in it, as the working folder."""
    monkeypatch.delenv("SPICA_WORKSPACE", raising=False)
    folder = init_workspace(tmp_path / "survey").folder
    for name, source in FILES.items():
        if name.endswith(".header"):
            (folder / name).write_bytes(gzip.decompress((test_data / source).read_bytes()))
        else:
            shutil.copy(test_data / source, folder / name)
    monkeypatch.chdir(folder)
    return folder


def test_the_sessions_of_the_page_are_what_is_printed(at_work, capfd):
    done = session(at_work, capfd)
    assert sum(command.words.startswith("spica camera") for command in done) >= 7
    wrong = {command.words: miss for command in done if (miss := follows(command.shown, command.printed))}
    assert wrong == {}, "\n".join(line for c in done if c.words in wrong for line in ("$ " + c.words, *c.printed))


def read(folder: Path, name: str, instrument: Instrument):
    path = folder / name
    headers = read_header_dump(path) if name.endswith(".header") else read_headers(path)
    return translate(instrument, headers, name)


def test_the_finished_profiles_read_the_headers_as_the_shipped_ones_do(at_work, capfd):
    session(at_work, capfd)
    shipped = load_instruments(plugin_folders=())
    for name, ours, theirs in (
        ("S20150101S0261.header", "f2", "flamingos2"),
        ("S20150622S0011.header", "f2", "flamingos2"),
        ("2281792o.header", "wircam", "wircam"),
        ("840066o.header", "wircam", "wircam"),
        ("elp1m008-fa05-20211007-0042-e00.fits.gz", "sinistro", "sinistro"),
    ):
        told = read(at_work, name, read_profile(at_work / "instruments" / f"{ours}.toml"))
        known = read(at_work, name, shipped.get(theirs))
        for fact in ("object_raw", "frame_type", "filter", "exptime_s", "mjd", "night", "run"):
            assert getattr(told, fact) == getattr(known, fact), (name, fact)
        for d, e in zip(told.detectors, known.detectors, strict=True):
            assert (d.shape, d.gain_e_per_adu, d.position_source) == (e.shape, e.gain_e_per_adu, e.position_source)
            assert [a.target_section for a in d.amplifiers] == [a.target_section for a in e.amplifiers]
        assert told.detectors[0].read_noise_e == known.detectors[0].read_noise_e


def explained(folder: Path, capfd: pytest.CaptureFixture[str], text: str, name: str) -> tuple[int, str]:
    """Return exit code and output of `explain` with a profile that is not in the folder of profiles."""
    (folder / "try.toml").write_text(text)
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        door.main(["camera", "explain", "--profile", "try.toml", name])
    return int(ended.value.code or 0), capfd.readouterr().out


@pytest.mark.parametrize(
    ("name", "lines", "said"),
    [
        ("S20150101S0261.header", "", "CHECK: no longitude: the night is that of Greenwich"),
        ("S20150101S0261.header", "", "CHECK: SCI has no read_noise; see [detectors]"),
        ("840066o.header", "", "CHECK: cubes are refused; say detectors.planes"),
        ("elp1m008-fa05-20211007-0042-e00.fits.gz", "", "CHECK: detectors of one name: are they amplifiers"),
        ("elp1m008-fa05-20211007-0042-e00.fits.gz", 'amplifiers = "assemble"', "SCI cannot be put together"),
    ],
    ids=("longitude", "read noise", "cubes", "one name", "no target section"),
)
def test_what_a_profile_leaves_open_is_said(at_work, capfd, name, lines, said):
    plain = """
name = "plain"
pixel_scale_arcsec = 0.4
[facts]
object.keywords = ["OBJECT"]
exptime.keywords = ["EXPTIME"]
filter.keywords = ["FILTER"]
ra = { keywords = ["RA"], unit = "auto_ra" }
dec.keywords = ["DEC"]
[time]
sources = [{ form = "mjd", keywords = ["MJD-OBS"] }]
[detectors]
name = { keywords = ["EXTNAME"], where = "hdu" }
"""
    code, out = explained(at_work, capfd, plain + lines, name)
    assert code == 0
    assert said in out


def test_what_ingest_would_reject_is_said_and_counts(at_work, capfd):
    code, out = explained(at_work, capfd, 'name = "bare"\nfacts.exptime.keywords = ["EXPTIME"]', "2281792o.header")
    assert code == 3
    assert "ingest would reject it: no object for instrument bare" in out
    assert '[facts.object]\nkeywords = ["OBJECT"]' in out


def test_a_session_that_has_rotted_is_seen():
    printed = ["one  line", "two", "three"]
    assert follows(["one line", "...", "three"], printed) == ""
    assert follows(["one ...", "two", "three"], printed) == ""
    assert follows(["one line", "three"], printed) == "three"
    assert follows(["one line", "..."], printed) == ""
    assert "two" in follows(["one line"], printed)
    assert follows(["...", "four"], printed) == "four"


def test_a_change_must_fit_the_starter():
    assert corrected("a = 1\nb = 2\n", "-a\n+c = 3\n+d = 4") == "c = 3\nd = 4\nb = 2\n"
    with pytest.raises(AssertionError, match="begins 0 lines"):
        corrected("a = 1\n", "-b")
