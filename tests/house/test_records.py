"""The records of the repository: pins, files, entry points, make and the complete run."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = (ROOT / "constraints.txt").read_text(encoding="utf-8")
TEXTS = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".html", ".css", ".js", ".svg", ".json", ".mako", ".cfg", ""}
VENDORED = "/vendor/"


def plain(name: str) -> str:
    """Return the name of a package in its one spelling."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=~! ;]", name)[0]).lower()


def texts(files: list[Path]) -> list[tuple[str, str]]:
    """Return name and text of our own text files but this one."""
    own = [p for p in files if p.suffix in TEXTS and p != Path(__file__) and VENDORED not in p.as_posix()]
    return [(p.relative_to(ROOT).as_posix(), p.read_text(encoding="utf-8")) for p in own]


def test_pins_cover_every_dependency():
    pinned = {plain(line) for line in PINS.splitlines() if re.match(r"[a-z]", line)}
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = {plain(d) for d in PROJECT["project"]["dependencies"] + extras["test"]}
    assert wanted - pinned == set()


def test_pins_name_no_place():
    assert re.findall(r"\w+://\S+|--?(?:index|extra|find|trusted)\S*|\S+\.(?:whl|tar\.gz)| @ \S+", PINS) == []
    lines = [line for line in PINS.splitlines() if line.strip() and not line.strip().startswith("#")]
    loose = [line for line in lines if not re.fullmatch(r"[a-z0-9._-]+==[\w.+!]+( ; .+)?", line)]
    assert loose == []


def test_no_path_of_one_machine(kept_files):
    path = re.compile(r"(?<![\w.$}/<-])/(?:work|root|Users|home/[a-z]\w*|opt/[a-z]\w*)/[\w.]")
    assert all(path.search(t) for t in ("'/root/x'", "cd /work/x", "(/home/ada/x)", "=/opt/w/x"))
    found = [f"{name}: {m.group(0)}" for name, text in texts(kept_files) for m in path.finditer(text)]
    assert found == []


def test_no_numbers_of_tickets(kept_files):
    words = r"\b(?:issue|ticket|bug|pull request|fix(?:es|ed)?|close[sd]?|resolve[sd]?)s? #?[0-9]+\b"
    marks = r"\bGH-[0-9]+|(?<![\w&'\"/(:-])#[0-9]{1,5}\b(?![0-9a-fA-F])"
    ticket = re.compile(f"{words}|{marks}", re.IGNORECASE)
    assert all(ticket.search(t) for t in ("# fixes #12", "see issue 7", "as in GH-9", "# because of #314"))
    kinds = (".py", ".md", ".toml", ".yml", ".html", "Makefile", "run")
    found = [
        f"{name}: {m.group(0)}"
        for name, text in texts(kept_files)
        if name.endswith(kinds)
        for m in ticket.finditer(text)
    ]
    assert found == []


def test_no_work_is_left_for_later(kept_files):
    mark = re.compile(r"\b(?:" + "TO" + "DO|FIX" + r"ME|XXX)\b")
    assert [f"{name}: {m.group(0)}" for name, text in texts(kept_files) for m in mark.finditer(text)] == []


def test_nothing_large_and_no_sky_is_kept(kept_files):
    sky = [p.name for p in kept_files if re.search(r"\.(fits|fit|fts|fz|ldac)(\.\w+)?$", p.name, re.IGNORECASE)]
    assert sky == []
    assert [p.name for p in kept_files if p.stat().st_size > 1_500_000] == []


def test_texts_end_with_a_line_and_hold_no_tabs(kept_files):
    python = [(n, t) for n, t in texts(kept_files) if n.endswith((".py", ".toml", ".md"))]
    assert [n for n, t in python if t and (not t.endswith("\n") or t.endswith("\n\n"))] == []
    assert [n for n, t in python if "\t" in t] == []


def test_versions_agree():
    import spica

    version = PROJECT["project"]["version"]
    assert spica.__version__ == version
    assert f"\n## {version} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_licence_is_the_one_that_is_named():
    assert PROJECT["project"]["license"] == "BSD-3-Clause"
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("BSD 3-Clause License")
    assert "Spica developers" in text


@pytest.mark.parametrize("group", ["spica.steps", "spica.engines"])
def test_seats_hold_what_they_name(group):
    declared = PROJECT["project"]["entry-points"][group]
    for name, target in declared.items():
        module, _, attribute = target.partition(":")
        assert getattr(importlib.import_module(module), attribute).__class__.__name__ in ("Step", "Engine"), name
    installed = {e.name: e.value for e in entry_points(group=group) if e.value.startswith("spica.")}
    assert installed == declared, "the environment is behind pyproject.toml; run: make venv"


# make and the complete run --------------------------------------------------------------------------------------------


def make(*words: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": os.environ.get("HOME", "/"), **environment}
    return subprocess.run(["make", *words], cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_make_says_what_it_can_do():
    done = make()
    assert done.returncode == 0, done.stderr
    listed = re.findall(r"^  make (\w+) ", done.stdout, re.MULTILINE)
    assert {"demo", "test", "lint", "bench", "docs", "clean", "help"} <= set(listed)


@pytest.fixture
def bare(tmp_path) -> Path:
    """Return a folder as a fresh clone sees it: no environment."""
    for name in ("Makefile", "pyproject.toml", "setup.py", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


def test_a_demo_installs_no_tests_and_a_test_installs_them(bare):
    demo = make("-n", "demo", "HEADLESS=1", "DEMO_DIR=there", "SEED=3", folder=bare).stdout
    assert '--editable "."' in demo
    assert ".[test]" not in demo
    assert demo.index("bin/spica warm") < demo.index('bin/spica demo "there" --headless --seed 3')
    test = make("-n", "test", folder=bare).stdout
    assert '--editable ".[test]"' in test
    order = ["ruff check", "ruff format --check", "bin/mypy", "lint-imports", "-m pytest -n 3 --dist loadfile"]
    places = [test.index(word) for word in order]
    assert places == sorted(places)


def test_without_a_python_it_says_what_to_do(bare, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "make", "touch", "rm"):
        found = next(p for p in (Path("/usr/bin") / name, Path("/bin") / name) if p.exists())
        (tools / name).symlink_to(found)
    (tools / "python3").write_text("#!/bin/sh\nexit 1\n")  # too old: its check of the version fails
    (tools / "python3").chmod(0o755)
    done = make("demo", folder=bare, PATH=str(tools))
    assert done.returncode != 0
    assert "no Python >= 3.11 found; install one" in done.stderr
    assert not (bare / ".venv").exists()


def test_the_complete_run_leaves_nothing_out():
    path = ROOT / ".ci/run"
    text = path.read_text(encoding="utf-8")
    assert os.access(path, os.X_OK)
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    assert "set -euo pipefail" in text
    assert "export SPICA_REQUIRE_ALL=1" in text
    for package in ("source-extractor", "scamp", "swarp", "psfex", "weightwatcher", "fitsverify", "chromium"):
        assert f"={package}\n" in text
    assert "plplot-driver-cairo" in text
