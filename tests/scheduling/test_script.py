"""Scripts: readable, run by hand, the same on every node, and harmless whatever headers say."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from spica.model.job import FileRef, Input, Request
from spica.scheduling.script import render_script

HOSTILE = ["$(touch harm)", "`touch harm`", "x\ntouch harm\n", "x\r\ntouch harm", "'; touch harm #", "é\x00\x1b[31m"]


def _request(label: str, name: str) -> Request:
    given = Input("exposure", "file:1", FileRef(1, "a" * 64, name, 10))
    made = Input("head", "image:1", job=7, product="head")
    return Request("stack", "native", {}, "0" * 64, inputs=(given, made), label=label)


def test_a_script_says_what_it_is_for() -> None:
    text = render_script("stack", _request("stack D1_r", "744123p.fits.fz"))
    lines = text.splitlines()
    assert lines[0] == "#!/bin/sh"
    assert "# stack D1_r" in lines
    assert "# input exposure: 744123p.fits.fz aaaaaaaa (file:1)" in lines
    assert "# input head: head of job 7 (image:1)" in lines
    assert 'exec "$SPICA_PYTHON" -m spica.steps run --attempt "$attempt"' in lines
    assert text == render_script("stack", _request("stack D1_r", "744123p.fits.fz"))


@pytest.mark.parametrize("hostile", HOSTILE)
def test_header_text_stays_in_comments(hostile: str, tmp_path: Any) -> None:
    text = render_script("stack", _request(hostile, hostile))
    calm = render_script("stack", _request("calm", "calm"))
    commands = [[x for x in t.splitlines() if not x.startswith("#")] for t in (text, calm)]
    assert commands[0] == commands[1]
    assert text.isascii()
    script = tmp_path / "run.sh"
    script.write_text(text)
    (tmp_path / "attempt").mkdir()
    subprocess.run(
        ["sh", str(script), str(tmp_path / "attempt")], env={"SPICA_PYTHON": "true", "PATH": "/usr/bin:/bin"},
        check=True, cwd=tmp_path, timeout=10,
    )  # fmt: skip
    assert not list(tmp_path.rglob("harm"))


def test_a_script_enters_its_attempt_wherever_it_is_called_from(tmp_path: Any) -> None:
    attempt = tmp_path / "with blank" / "attempt-1"
    attempt.mkdir(parents=True)
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\npwd\necho "$@"\n')
    python.chmod(0o755)
    script = attempt.parent / "run.sh"
    script.write_text(render_script("stack", _request("a", "b")))
    done = subprocess.run(
        ["sh", str(script), "with blank/attempt-1"], env={"SPICA_PYTHON": str(python), "PATH": "/usr/bin:/bin"},
        check=True, capture_output=True, text=True, cwd=tmp_path, timeout=10,
    )  # fmt: skip
    assert done.stdout.splitlines() == [str(attempt), f"-m spica.steps run --attempt {attempt}"]
