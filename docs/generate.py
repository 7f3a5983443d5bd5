"""Rewrites the marked blocks of the pages in `docs/` from the code: `python docs/generate.py`, or `--check`.

A block stands between `<!-- generated:NAME -->` and `<!-- /generated:NAME -->`; what is between is replaced, the
sentences around it are written by hand. `--check` changes nothing and exits 1 where a page is behind the code.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import click

from spica.cli.main import VERBS, spica
from spica.files import workspace
from spica.files.source import FileLimits
from spica.instruments import keys
from spica.instruments.registry import load_instruments
from spica.model import errors
from spica.model.grade import COMMENTS
from spica.model.image import ImageState
from spica.model.job import ARROWS, AttemptState, EdgeKind, ExitCode, JobKind, JobState, Outcome
from spica.model.person import PersonRole
from spica.model.recipe import ENGINES, section_class, section_names
from spica.model.selection import DEFAULT_RULE, FIELDS
from spica.model.selection.fields import OPERATORS

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
HELP_WIDTH = 100
_BLOCK = re.compile(
    r"(?P<open><!-- generated:(?P<name>[a-z-]+) -->\n).*?(?P<close><!-- /generated:(?P=name) -->)", re.DOTALL
)
_JOB_WORDS = {
    JobState.HELD: "a person keeps it back",
    JobState.WAITING: "a parent has not ended yet",
    JobState.READY: "any daemon of a node that is not drained may take it, from `not_before` on",
    JobState.RUNNING: "an attempt is under way",
    JobState.SUCCEEDED: "its products are placed and recorded; final",
    JobState.FAILED: "no further attempt is made unless a person asks",
    JobState.CANCELLED: "a person ended it",
    JobState.PRUNED: "a parent that it needs did not succeed",
}
_ATTEMPT_WORDS = {
    AttemptState.SUBMITTED: "claimed, its process not yet seen",
    AttemptState.RUNNING: "its process lives and its lease is renewed",
    AttemptState.SUCCEEDED: "exit 0, a whole result, all products verified",
    AttemptState.FAILED: "it ended otherwise; its outcomes and log are kept",
    AttemptState.ABORTED: "ended on a person's wish",
    AttemptState.LOST: "its lease ran out, or its process vanished without a result",
}
_EXIT_WORDS = {
    ExitCode.DONE: ("done", "products are placed, children released"),
    ExitCode.BUG: ("a bug", "FAILED; report the log"),
    ExitCode.DATA: ("these data cannot be processed", "FAILED; look at the exposure"),
    ExitCode.RECIPE: ("a person must edit the recipe", "FAILED; the message names the word"),
    ExitCode.CONFLICT: ("the world moved meanwhile", "FAILED; plan again"),
    ExitCode.TRANSIENT: ("something is away for now", "READY again, later, until `tries` are spent"),
}
_OUTCOME_WORDS = {
    Outcome.USED: "it entered the product",
    Outcome.USED_WITH_WARNING: "it entered, and something is worth knowing",
    Outcome.LEFT_OUT: "it did not enter; the reason has a code, a sentence, and where it applies a value and a limit",
    Outcome.IGNORED: "the file holds no image (a table, a text)",
}
_DOOR_WORDS = {
    0: "every input ended in a recorded outcome, however many were rejected or left out",
    1: "a bug",
    2: "the words of the command, a rule, a recipe or a profile do not fit",
    3: "a job of this command failed; with `--strict`, an input was rejected or left out",
    4: "nothing to do: the selection is empty",
    5: "the surroundings: database, disk, folder, port",
}


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; bars in cells are escaped."""
    lines = ["| " + " | ".join(headings) + " |", "| " + " | ".join("---" for _ in headings) + " |"]
    lines += ["| " + " | ".join(str(c).replace("|", "\\|") for c in row) + " |" for row in rows]
    return "\n".join(lines)


def code(text: object) -> str:
    """Return a text as code; nothing for an empty one."""
    return f"`{text}`" if str(text) else ""


# Jobs -----------------------------------------------------------------------------------------------------------------


def job_states() -> str:
    """Return the states of jobs."""
    return table(("state", "meaning"), ((code(s), _JOB_WORDS[s]) for s in JobState))


def arrows() -> str:
    """Return the one table of arrows."""
    rows = (
        (code(t.arrow), _states(t.sources) or "-", _states(t.targets), t.who, t.also)
        for t in (ARROWS[a] for a in ARROWS)
    )
    return table(("arrow", "from", "to", "who", "also"), rows)


def _states(states: frozenset[JobState]) -> str:
    return " ".join(code(s) for s in JobState if s in states)


def arrow_picture() -> str:
    """Return the arrows as a Mermaid state diagram."""
    lines = ["```mermaid", "stateDiagram-v2"]
    for transition in ARROWS.values():
        for target in (s for s in JobState if s in transition.targets):
            sources = [s.value for s in JobState if s in transition.sources] or ["[*]"]
            lines += [f"  {source} --> {target.value}: {transition.arrow.value}" for source in sources]
    return "\n".join([*lines, "```"])


def attempt_states() -> str:
    """Return the states of attempts."""
    return table(("state", "meaning"), ((code(s), _ATTEMPT_WORDS[s]) for s in AttemptState))


def step_exits() -> str:
    """Return the exit codes of steps."""
    return table(("exit", "meaning", "the job"), ((int(e), *_EXIT_WORDS[e]) for e in ExitCode))


def outcomes() -> str:
    """Return what may become of an item."""
    return table(("outcome", "meaning"), ((code(o), _OUTCOME_WORDS[o]) for o in Outcome))


def door_exits() -> str:
    """Return the exit codes of the command line, with the errors that lead to each."""
    raised: dict[int, list[str]] = {}
    known: tuple[type[errors.SpicaError], ...] = (errors.SpicaError, *errors.SpicaError.__subclasses__())
    for error in known:
        if error.__module__ != errors.__name__:
            continue
        raised.setdefault(error.door_code, []).append(code(error.__name__))
    rows = ((number, text, " ".join(raised.get(number, []))) for number, text in _DOOR_WORDS.items())
    return table(("exit", "meaning", "errors"), rows)


def kinds() -> str:
    """Return kinds of jobs, edges and states of images, a line each."""
    lines = (
        ("kinds of jobs", JobKind),
        ("edges between jobs", EdgeKind),
        ("states of an image", ImageState),
        ("engines", ENGINES),
    )
    return "\n".join(f"- {name}: " + " ".join(code(getattr(m, "value", m)) for m in words) for name, words in lines)


# Recipes, rules, workspace --------------------------------------------------------------------------------------------


def recipe_sections() -> str:
    """Return every parameter of every section."""
    parts = []
    for section in section_names():
        cls = section_class(section)
        first = (cls.__doc__ or "").strip().split("\n")[0]
        rows = (
            (code(f.name), code(_toml(f.default)), f.metadata["unit"], _bounds(f.metadata), f.metadata["help"])
            for f in dataclasses.fields(cls)
        )
        parts.append(f"### [{section}]\n\n{first}\n\n" + table(("key", "default", "unit", "allowed", "meaning"), rows))
    return "\n\n".join(parts)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _bounds(meta: Any) -> str:
    if meta["choices"]:
        return " ".join(code(c) for c in meta["choices"])
    low, high = meta["low"], meta["high"]
    if low is None and high is None:
        return ""
    return f"{_number(low)} to {_number(high)}" if high is not None else f"from {_number(low)}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else f"{value}"


def rule_fields() -> str:
    """Return the words of the rule language."""
    rows = (
        (code(f.name), f.kind.value, f.unit, f.text + (": " + " ".join(map(code, f.choices)) if f.choices else ""))
        for f in FIELDS.values()
    )
    return table(("field", "holds", "unit", "meaning"), rows)


def rule_operators() -> str:
    """Return the operators of each kind of field, and the default rule."""
    rows = ((kind.value, " ".join(code(o) for o in words)) for kind, words in OPERATORS.items())
    return table(("holds", "operators"), rows) + f"\n\nWithout `--rule` the rule is `{DEFAULT_RULE}`."


def workspace_file() -> str:
    """Return the configuration as `spica init` writes it."""
    text = workspace._TEMPLATE.format(survey='"m31"', node="cetus", limits=FileLimits())
    return f"```toml\n{text}```"


def workspace_keys() -> str:
    """Return the keys of the configuration with their types, and the fixed folders."""
    words = {str: "text", int: "whole number", dict: "table"}
    rows = [(code(key), words[kind]) for key, kind in workspace._KEYS.items()]
    rows += [(code(f"limits.{f.name}"), "whole number") for f in dataclasses.fields(FileLimits)]
    folders = " ".join(code(f + "/") for f in workspace.FOLDERS)
    places = " ".join(code(p) for p in workspace.PLACES)
    return table(("key", "holds"), rows) + f"\n\nFolders of a workspace: {folders}. Values of `place`: {places}."


# Instruments, people, command line, floors ----------------------------------------------------------------------------


def shipped_profiles() -> str:
    """Return the cameras that Spica knows."""
    folder = resources.files("spica.instruments").joinpath("profiles")
    names = sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
    registry = load_instruments(None)
    rows = ((code(n), registry.get(n).title, registry.get(n).pixel_scale_arcsec or "of the header") for n in names)
    return table(("profile", "camera", "arcsec per pixel"), rows)


def profile_keys() -> str:
    """Return a table of keys for each table of a profile."""
    parts = []
    for name, (heading, sentence) in keys.TABLES.items():
        rows = (
            (code(k.key), _holds(k), _default_of(k), "; ".join(part for part in (k.text, _choices_of(k)) if part))
            for k in keys.keys_of(name).values()
        )
        parts.append(f"### {heading}\n\n{sentence}\n\n" + table(("key", "holds", "default", "meaning"), rows))
    return "\n\n".join(parts)


def _holds(key: keys.ProfileKey) -> str:
    if key.holds == "source":
        return "fact source"
    return "conditions" if key.holds == "conditions" else keys.KIND_WORDS[key.kind]


def _default_of(key: keys.ProfileKey) -> str:
    if key.needed:
        return "needed"
    if key.key == "dq_bits":
        return code(hex(keys.keys_of("top")["dq_bits"].default or 0))  # type: ignore[arg-type]
    return "" if key.default in (None, "") else code(_toml(key.default))


def _choices_of(key: keys.ProfileKey) -> str:
    known = (choice for choice in key.choices if choice != "" and key.key != "unit")
    return " ".join(code(choice) for choice in known)


def profile_units() -> str:
    """Return the units that a fact source may name."""
    return table(("unit", "meaning"), ((code(unit) or "none", text) for unit, text in keys.UNITS.items()))


def grading() -> str:
    """Return roles and the comments that are offered."""
    roles = " < ".join(code(r.value) for r in PersonRole)
    return f"Roles, each may all that those before it may: {roles}.\n\n" + "\n".join(f"- {c}" for c in COMMENTS)


def cli_verbs() -> str:
    """Return the help of every verb as it is printed."""
    parts = []
    for name, command in _commands():
        context = click.Context(command, info_name=f"spica {name}", terminal_width=HELP_WIDTH)
        lines = [line.rstrip() for line in command.get_help(context).splitlines()]
        parts.append(f"### spica {name}\n\n```text\n" + "\n".join(lines) + "\n```")
    return "\n\n".join(parts)


def _commands() -> Iterable[tuple[str, click.Command]]:
    context = click.Context(spica)
    for verb in VERBS:
        command = spica.get_command(context, verb)
        if command is None:
            raise LookupError(f"verb {verb} has no command; see VERBS in spica/cli/main.py")
        yield verb, command
        for name, inner in sorted(getattr(command, "commands", {}).items()):
            yield f"{verb} {name}", inner


def floors() -> str:
    """Return which room imports which, read from the sources."""
    rows = []
    for room, folder in _rooms():
        found = {_room_of(word) for path in sorted(folder.rglob("*.py")) for word in _imported(path)}
        rows.append((code(room), " ".join(code(r) for r in sorted(found - {None, room}, key=str))))
    return table(("room", "imports"), rows)


def _rooms() -> list[tuple[str, Path]]:
    inner = [(f"spica.{p.parent.name}", p.parent) for p in sorted((ROOT / "spica").glob("*/__init__.py"))]
    return [*inner, ("spica_daemon", ROOT / "daemon/spica_daemon"), ("spica_web", ROOT / "web/spica_web")]


def _imported(path: Path) -> Iterable[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def _room_of(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] in ("spica_web", "spica_daemon"):
        return parts[0]
    return ".".join(parts[:2]) if parts[0] == "spica" and len(parts) > 1 else None


BLOCKS: dict[str, Callable[[], str]] = {
    "job-states": job_states,
    "arrows": arrows,
    "arrow-picture": arrow_picture,
    "attempt-states": attempt_states,
    "step-exits": step_exits,
    "outcomes": outcomes,
    "door-exits": door_exits,
    "kinds": kinds,
    "recipe-sections": recipe_sections,
    "rule-fields": rule_fields,
    "rule-operators": rule_operators,
    "workspace-file": workspace_file,
    "workspace-keys": workspace_keys,
    "shipped-profiles": shipped_profiles,
    "profile-keys": profile_keys,
    "profile-units": profile_units,
    "grading": grading,
    "cli-verbs": cli_verbs,
    "floors": floors,
}
"""What makes each block."""


def rewrite(text: str) -> str:
    """Return a page with its marked blocks made anew.

    Raises
    ------
    KeyError
        Where a block has a name that nobody makes.
    """
    return _BLOCK.sub(lambda m: f"{m['open']}\n{BLOCKS[m['name']]()}\n\n{m['close']}", text)


def main(words: Sequence[str] | None = None) -> int:
    """Rewrite the pages, or say which are behind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where a page is behind the code")
    check = parser.parse_args(words).check
    behind = []
    for path in sorted(DOCS.rglob("*.md")):
        old = path.read_text(encoding="utf-8")
        new = rewrite(old)
        if new != old:
            behind.append(path.relative_to(ROOT).as_posix())
            if not check:
                path.write_text(new, encoding="utf-8")
    for name in behind:
        sys.stdout.write(f"{name} {'is behind the code; run: make docs' if check else 'written'}\n")
    return 1 if check and behind else 0


if __name__ == "__main__":
    sys.exit(main())
