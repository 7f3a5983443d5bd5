"""Command lines that no text can break out of, and the causes that a tool's end stands for."""

from __future__ import annotations

import os
import subprocess

import pytest

from spica.astromatic.tools import (
    SCAMP,
    SOURCE_EXTRACTOR,
    SWARP,
    check_exit,
    command_line,
    find_line,
    find_tool,
    format_value,
    loop_lines,
)
from spica.model.errors import DataError, TransientError


def _fake_tool(folder, name, body):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_a_missing_tool_names_the_cure(tmp_path):
    """Nothing on the path: trying again elsewhere may help, and the sentence says what to install."""
    for tool, package in ((SOURCE_EXTRACTOR, "source-extractor"), (SCAMP, "scamp"), (SWARP, "swarp")):
        with pytest.raises(TransientError, match=rf"not installed on this node; apt-get install {package} or u"):
            find_tool(tool, str(tmp_path))


def test_the_other_usual_name_is_found(tmp_path):
    """A node that calls it `sex` works; script and Python find the same file."""
    path = _fake_tool(tmp_path / "bin", "sex", "true")
    found = find_tool(SOURCE_EXTRACTOR, str(tmp_path / "bin"))
    assert found == tmp_path / "bin" / "sex"
    script = f'{find_line(SOURCE_EXTRACTOR)}\necho "$extractor"'
    environment = {"PATH": str(tmp_path / "bin")}
    out = subprocess.run(["/bin/sh", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == str(found), path


@pytest.mark.parametrize("word", ["a b", "$(reboot)", "x;y", "`id`", "a\nb", "", "'", "ü", "a|b", "$HOME"])
def test_words_that_are_no_words_are_refused(word):
    """Nothing that a shell or the tools' own parser would take apart is written."""
    with pytest.raises(ValueError, match="no word"):
        format_value(word)
    with pytest.raises(ValueError, match="no name"):
        command_line(SCAMP, ("a",), ((f"X{word} ", 1),), "s", 5)


def test_values_are_written_as_the_tools_read_them():
    """Booleans as Y and N, lists with commas."""
    assert [format_value(v) for v in (True, False, 3, 1.5, "FILE", (1.0, 2, "a"))] == [
        "Y", "N", "3", "1.5", "FILE", "1.0,2,a",
    ]  # fmt: skip


def test_a_loop_runs_every_image_and_keeps_the_exit_codes(tmp_path):
    """The script goes on behind an image that fails, and says which and how."""
    path = _fake_tool(tmp_path / "bin", "scamp", 'echo "ran $1"; case $1 in b-2) echo "Error: no stars"; exit 3;; esac')
    (tmp_path / "all.list").write_text("1\n2\n3\n")
    lines = [find_line(SCAMP), *loop_lines("all.list", command_line(SCAMP, ("b-%n",), (("X", 1),), "run-%n", 5))]
    script = "\n".join(["set -eu", *lines, "echo end"])
    done = subprocess.run(
        ["/bin/sh", "-c", script], cwd=tmp_path, env={"PATH": path}, capture_output=True, text=True, check=True
    )
    assert "end" in done.stdout
    assert "no stars" in done.stdout
    assert sorted(p.name for p in tmp_path.glob("*.exit")) == ["run-2.exit"]
    assert [(tmp_path / f"run-{n}.log").read_text().split()[1] for n in (1, 2, 3)] == ["b-1", "b-2", "b-3"]
    check_exit(SCAMP, tmp_path, "run-1", "b-1")
    with pytest.raises(DataError, match="scamp failed on b-2 with exit code 3: Error: no stars; look"):
        check_exit(SCAMP, tmp_path, "run-2", "b-2")


def test_a_tool_that_waits_for_ever_is_ended(tmp_path):
    """The time limit ends it, and the cause is said."""
    path = _fake_tool(tmp_path / "bin", "scamp", "exec sleep 60")
    script = f"{find_line(SCAMP)}\n{command_line(SCAMP, ('a',), (), 'x', 1)}"
    subprocess.run(["/bin/sh", "-c", script], cwd=tmp_path, env={"PATH": path}, check=True, timeout=20)
    with pytest.raises(DataError, match="did not end in time"):
        check_exit(SCAMP, tmp_path, "x", "3 exposures")


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        ("kill -9 $$", TransientError, "ended by signal 9"),
        ("kill -11 $$", DataError, "crashed on it .segmentation fault"),
        ("exit 127", TransientError, "could not be started"),
    ],
)
def test_signals_and_crashes_are_told_apart(tmp_path, monkeypatch, body, error, words):
    """Killed from outside: try again; crashed by itself: these data."""
    path = _fake_tool(tmp_path / "bin", "scamp", body)
    monkeypatch.setenv("PATH", f"{path}:{os.environ['PATH']}")
    script = f"{find_line(SCAMP)}\n{command_line(SCAMP, ('a',), (), 'x', 5)}"
    subprocess.run(["/bin/sh", "-c", script], cwd=tmp_path, env={"PATH": path}, check=True, capture_output=True)
    with pytest.raises(error, match=words):
        check_exit(SCAMP, tmp_path, "x", "it")
