"""The real tools of AstrOmatic on this node: where they are, their command lines, how they ended."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spica.model.errors import DataError, TransientError

OptionValue = bool | int | float | str | tuple[int | float | str, ...]
Options = tuple[tuple[str, OptionValue], ...]

_NAME = re.compile(r"[A-Z][A-Z0-9_]*\Z")
_WORD = re.compile(r"[A-Za-z0-9_./@+%-]+\Z")
_TIMED_OUT, _NOT_EXECUTABLE, _NOT_FOUND, _SIGNAL = 124, 126, 127, 128
_CRASHES = {4: "illegal instruction", 6: "abort", 7: "bus error", 8: "arithmetic error", 11: "segmentation fault"}
_UNPRINTABLE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[^\x20-\x7e]")
_COMPLAINT = re.compile(r"error|not found|cannot|no such|invalid|fail", re.IGNORECASE)
MAX_LOG_BYTES = 1 << 20


@dataclass(frozen=True)
class Tool:
    """One tool: the name for people, its usual commands in the order they are tried, its Debian package.
    `variable` is the name of the shell variable that holds the command in a job's script.
    """

    name: str
    commands: tuple[str, ...]
    package: str
    variable: str


SOURCE_EXTRACTOR = Tool("source-extractor", ("source-extractor", "sex"), "source-extractor", "extractor")
SCAMP = Tool("scamp", ("scamp",), "scamp", "scamp")
SWARP = Tool("SWarp", ("SWarp", "swarp"), "swarp", "swarp")


def find_tool(tool: Tool, path: str | None = None) -> Path:
    """Return the tool's executable on `path` (the environment's PATH where None).

    Raises
    ------
    TransientError
        Where it is not installed here: another node may have it.
    """
    for command in tool.commands:
        found = shutil.which(command, path=path)
        if found:
            return Path(found)
    raise TransientError(
        f"{tool.name} is not installed on this node; apt-get install {tool.package} or use the native engine"
    )


def find_line(tool: Tool) -> str:
    """Return the script line that finds the tool's command, the same way as `find_tool`."""
    return f"{tool.variable}=$({' || '.join(f'command -v {c}' for c in tool.commands)})"


def format_value(value: OptionValue) -> str:
    """Return a value as the tools write it: Y or N, numbers, words, lists with commas.

    Raises
    ------
    ValueError
        Where a word holds anything but letters, digits and `_./@+-`.
    """
    if isinstance(value, bool):
        return "Y" if value else "N"
    if isinstance(value, tuple):
        return ",".join(format_value(v) for v in value)
    if isinstance(value, int | float):
        return repr(value)
    if not _WORD.match(value):
        raise ValueError(f"{value!r} is no word for a tool's option; use letters, digits and _./@+-")
    return value


def command_line(tool: Tool, first: Sequence[str], options: Options, stem: str, time_limit_s: int) -> str:
    """Return one line of a script: the tool, its files, its options, each quoted for the shell.

    What it says goes to `stem.log`, an exit code that is not 0 to `stem.exit` (then the log is shown too). `%n` in a
    name stands for the number of a loop, `$n`. The tool is ended after `time_limit_s`, in the job's own process
    group: scamp waits for ever where the reference lies elsewhere.

    Raises
    ------
    ValueError
        A name or value that is none of an option.
    """
    words = [f'"${tool.variable}"', *(_shell_word(f) for f in first)]
    for name, value in options:
        words += [f"-{_checked_name(name)}", _shell_word(format_value(value))]
    log, end = _shell_word(f"{stem}.log"), _shell_word(f"{stem}.exit")
    run = f"timeout --foreground {time_limit_s:d} {' '.join(words)}"
    return f"{run} </dev/null >{log} 2>&1 || {{ echo $? >{end}; cat {log}; }}"


def _checked_name(name: str) -> str:
    if not _NAME.match(name):
        raise ValueError(f"{name!r} is no name of an option; use capital letters")
    return name


def _shell_word(text: str) -> str:
    """Quote a word; with the number of a loop in it, it stands in double quotes."""
    head, loop, tail = text.partition("%n")
    if not loop:
        return shlex.quote(text)
    if not _WORD.match(head + "0" + tail):
        raise ValueError(f"{text!r} is no file name of a loop; use letters, digits and _./@+-")
    return f'"{head}$n{tail}"'


def loop_lines(list_file: str, line: str) -> tuple[str, ...]:
    """Return script lines that run a line for every number of a list."""
    return (f"while read -r n; do\n  {line}\ndone <{shlex.quote(list_file)}",)


def write_config(path: Path, options: Options) -> None:
    """Write a configuration file: what is known only when the job runs; the command line overrides it."""
    path.write_text(
        "".join(f"{_checked_name(name)} {format_value(value)}\n" for name, value in options), encoding="ascii"
    )


def check_exit(tool: Tool, folder: Path, stem: str, what: str) -> None:
    """Raise where the tool did not end well; `stem.exit` holds its exit code and is absent where that was 0.

    Raises
    ------
    DataError
        The tool refused its input, crashed on it, or did not end in time.
    TransientError
        The tool was ended from outside, or is not there.
    """
    exit_file = folder / f"{stem}.exit"
    if not exit_file.exists():
        return
    text = exit_file.read_text(encoding="ascii", errors="replace").strip()
    code = int(text) if text.isdigit() else 1
    number = code - _SIGNAL
    said = last_complaint(folder / f"{stem}.log")
    if code in (_NOT_EXECUTABLE, _NOT_FOUND):
        find_tool(tool)
        raise TransientError(
            f"{tool.name} could not be started (exit code {code}); install it again on this node "
            f"(apt-get install {tool.package}) or use the native engine"
        )
    if code == _TIMED_OUT:
        raise DataError(f"{tool.name} on {what} did not end in time; raise [resources] time_limit_s or leave it out")
    if number in _CRASHES:
        raise DataError(f"{tool.name} crashed on {what} ({_CRASHES[number]}){said}; use the native engine for it")
    if 0 < number <= 64:
        raise TransientError(f"{tool.name} on {what} was ended by signal {number} (memory?); it is tried again")
    raise DataError(f"{tool.name} failed on {what} with exit code {code}{said}; look at the job's log")


def last_complaint(log: Path) -> str:
    """Return the last line in which a tool names an error, as `: text`, printable; empty where there is none."""
    if not log.is_file():
        return ""
    with log.open("rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - MAX_LOG_BYTES))
        text = stream.read().decode("ascii", "replace")
    plain = [_UNPRINTABLE.sub("", line).strip(" >") for line in text.splitlines()]
    errors = [line for line in plain if _COMPLAINT.search(line)]
    return f": {errors[-1][:200]}" if errors else ""
