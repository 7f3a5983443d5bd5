"""The door `python -m spica_web`: its one line, and how it refuses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from spica.files.workspace import Workspace
from spica_web.__main__ import address_of

ROOT = Path(__file__).resolve().parents[2]


def start(*words: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "web")])
    return subprocess.Popen(
        [sys.executable, "-m", "spica_web", *words],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_prints_one_line_serves_and_leaves_on_a_signal(workspace: Workspace) -> None:
    process = start("--workspace", str(workspace.folder), "--port", "0")
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    with httpx.Client(follow_redirects=True) as client:
        reply = client.get(address, headers={"accept": "text/html"})
        assert reply.status_code == 200
        assert "No exposures yet" in reply.text
        with client.stream("GET", address.partition("?")[0] + "events") as events:
            assert next(events.iter_text()).startswith("retry:")
            process.send_signal(signal.SIGTERM)  # an open page does not keep the server
            begun = time.monotonic()
            out, err = process.communicate(timeout=20)
    assert process.returncode is not None
    assert time.monotonic() - begun < 15
    assert out == ""
    assert "Traceback" not in err


def test_a_taken_port_is_one_line_and_exit_5(workspace: Workspace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start("--workspace", str(workspace.folder), "--port", str(port))
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (5, "")
    assert err.count("\n") == 1
    assert f"port {port} on 127.0.0.1 cannot be opened" in err


@pytest.mark.parametrize("words", [("--host", "0.0.0.0"), ("--host", "::")])
def test_beyond_loopback_is_refused_without_a_password(workspace: Workspace, words: tuple[str, str]) -> None:
    process = start("--workspace", str(workspace.folder), "--port", "0", *words)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert "spica person add" in err


def test_no_workspace_is_one_line(tmp_path: Path) -> None:
    process = start("--workspace", str(tmp_path))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert "spica init" in err


def test_addresses() -> None:
    assert address_of("127.0.0.1", 8765, "t") == "http://127.0.0.1:8765/?token=t"
    assert address_of("::1", 1, None) == "http://[::1]:1/login"
