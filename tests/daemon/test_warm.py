"""Steps begun by a warm process: the same end as by their script, in a session of their own, and nothing lost."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from spica.files.jobfolder import write_inputs, write_job
from spica.files.workspace import kernel_cache
from spica.model.job import ExitCode, Inputs, Request
from spica.model.record import canonical
from spica.scheduling.script import calls_step_alone, render_script
from spica_daemon.executors.local import StepProcess, find_process, start_process
from spica_daemon.executors.warm import WarmStarter
from spica_daemon.runner import step_environment


def attempt_of(folder: Path, number: int) -> Path:
    """Make the folder of an attempt whose recipe names no step, so that it ends at once with a recipe's code."""
    job = folder / f"job-{number}"
    attempt = job / "attempt-1"
    attempt.mkdir(parents=True)
    request = Request("no such step", "native", {}, "0" * 64)
    write_job(job, "#!/bin/sh\n", canonical(request))
    write_inputs(attempt, Inputs(number, 1, "7", ()))
    return attempt


def environment_of(attempt: Path) -> dict[str, str]:
    words = step_environment(os.environ, kernel_cache(attempt), attempt, 1)
    return words | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


@pytest.fixture
def starter() -> Iterator[WarmStarter]:
    made = WarmStarter(cold_starts=0)
    yield made
    made.close()


def begin(starter: WarmStarter, attempt: Path) -> StepProcess:
    """Begin an attempt as soon as the warm process is ready."""
    until = time.monotonic() + 60.0
    while (process := starter.start(attempt, environment_of(attempt))) is None:
        assert time.monotonic() < until
        time.sleep(0.05)
    return process


def test_the_first_attempts_begin_by_their_script(tmp_path: Path) -> None:
    starter = WarmStarter(cold_starts=2)
    attempt = attempt_of(tmp_path, 1)
    for _ in range(2):
        assert starter.start(attempt, environment_of(attempt)) is None
        assert starter._process is None
    process = starter.start(attempt, environment_of(attempt))
    assert process is not None
    assert process.wait(30.0)
    assert process.close() == ExitCode.RECIPE
    other = environment_of(attempt) | {"NUMBA_NUM_THREADS": "7"}
    assert starter.start(attempt, other) is None  # what was imported knows another number of threads
    starter.close()
    assert starter._process is None


def test_an_attempt_begins_warm_as_soon_as_more_jobs_wait(tmp_path: Path) -> None:
    answers = iter((False, True))
    starter = WarmStarter(cold_starts=9, more_wait=lambda: next(answers))
    attempt = attempt_of(tmp_path, 1)
    assert starter.start(attempt, environment_of(attempt)) is None
    process = starter.start(attempt, environment_of(attempt))
    assert process is not None
    assert process.wait(30.0)
    starter.close()


def test_a_warm_step_ends_as_by_its_script(starter: WarmStarter, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        attempt = attempt_of(tmp_path, number)
        process = begin(starter, attempt)
        assert process.wait(30.0)
        assert process.close() == ExitCode.RECIPE
        assert int((attempt / "process").read_text()) == process.pid
        assert "no step is called 'no such step'" in (attempt / "log.txt").read_text()
        assert (attempt / "result.json").is_file()
    by_script = attempt_of(tmp_path, 4)
    (by_script.parent / "run.sh").write_text(
        '#!/bin/sh\nset -eu\nexec "$SPICA_PYTHON" -m spica.steps run --attempt "$1"\n'
    )
    cold = start_process(by_script.parent / "run.sh", by_script, environment_of(by_script))
    assert cold.wait(60.0)
    assert cold.close() == ExitCode.RECIPE
    assert (by_script / "log.txt").read_text() == (attempt / "log.txt").read_text()


def hung(starter: WarmStarter, tmp_path: Path, number: int = 1) -> tuple[Path, StepProcess]:
    """Begin a step that waits for its request for ever."""
    attempt = attempt_of(tmp_path, number)
    request = attempt.parent / "request.json"
    request.unlink()
    os.mkfifo(request)
    process = begin(starter, attempt)
    until = time.monotonic() + 20.0
    while find_process(None, None, attempt) is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    return attempt, process


def test_it_leads_a_session_and_is_killed_with_it(starter: WarmStarter, tmp_path: Path) -> None:
    attempt, process = hung(starter, tmp_path)
    found = find_process(None, None, attempt)
    assert found is not None
    assert found.pid == process.pid
    assert os.getsid(process.pid) == process.pid
    assert process.memory_mb() > 20.0
    assert not process.wait(0.05)
    process.kill(signal.SIGKILL)
    assert process.wait(10.0)
    assert process.close() == -signal.SIGKILL
    until = time.monotonic() + 5.0
    while psutil.pid_exists(process.pid):  # reaped: its number is free
        assert time.monotonic() < until
        time.sleep(0.01)


def test_it_outlives_the_warm_process(starter: WarmStarter, tmp_path: Path) -> None:
    attempt, process = hung(starter, tmp_path)
    warm = starter._process
    assert warm is not None
    warm.kill()
    warm.wait()
    found = find_process(process.pid, process.started, attempt)
    assert found is not None
    found.kill(signal.SIGKILL)
    assert process.wait(10.0)
    assert process.close() is None  # nobody can tell how it ended
    assert begin(starter, attempt_of(tmp_path, 2)).wait(30.0)  # another warm process takes its place


def test_only_plain_scripts_are_begun_so() -> None:
    native = render_script("deliver", Request("deliver", "native", {}, "0" * 64, label="x\n$(reboot)"))
    assert calls_step_alone(native)
    assert not calls_step_alone(native.replace("set -eu", "set -eu\ntouch /tmp/x"))
    assert not calls_step_alone(render_script("stack", Request("stack", "astromatic", {}, "0" * 64)))
    assert not calls_step_alone("#!/bin/sh\n")
