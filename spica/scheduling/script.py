"""Renders the shell script of a job from its kind and request: readable, run by hand, the same on every node."""

from __future__ import annotations

import re

from spica.model.job import Request
from spica.steps.base import find_step

_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_STEP = '"$SPICA_PYTHON" -m spica.steps'
_HEAD = ("set -eu", 'attempt=$(cd "$1" && pwd)', 'cd "$attempt"', ': "${SPICA_PYTHON:=python3}"')
_RUN = f'exec {_STEP} run --attempt "$attempt"'


def render_script(kind: str, request: Request) -> str:
    """Return the text of `run.sh`.

    Called as `sh run.sh ATTEMPT_FOLDER`; `SPICA_PYTHON` names the Python that has Spica, by default `python3`.
    Header text appears only in comments, stripped to printable ASCII.
    """
    step = find_step(kind, request.engine)
    lines = ["#!/bin/sh", *_comments(kind, request), *_HEAD]
    if step.run is not None:
        lines.append(_RUN)
    else:
        assert step.tool_lines is not None
        lines.append(f'{_STEP} prepare --attempt "$attempt"')
        lines += ['cd "$attempt/work"', *step.tool_lines(request), 'cd "$attempt"']
        lines.append(f'exec {_STEP} finish --attempt "$attempt"')
    return "\n".join(lines) + "\n"


def calls_step_alone(script: str) -> bool:
    """Whether a script does nothing but call the runner of a step, so that the runner may be begun in another way."""
    return [line for line in script.splitlines() if not line.startswith("#")] == [*_HEAD, _RUN]


def _comments(kind: str, request: Request) -> list[str]:
    """Return what the script is for and what it reads, a comment line each."""
    head = [f"# Spica: {kind} by the {request.engine} engine", f"# {_plain(request.label)}"]
    for given in request.inputs:
        what = f"{given.file.name} {given.file.sha256[:8]}" if given.file else f"{given.product} of job {given.job}"
        head.append(f"# input {given.role}: {_plain(what)}" + (f" ({given.item})" if given.item else ""))
    return head


def _plain(text: str) -> str:
    return _UNPRINTABLE.sub("?", text)[:200]
