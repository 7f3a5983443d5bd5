"""A floor imports only floors below it; algorithms know arrays only; nothing is run from text."""

from __future__ import annotations

import ast
import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LAST_RESORT = {"spica/steps/__main__.py", "daemon/spica_daemon/attempt.py", "web/spica_web/errors.py"}
"""The step runner, the daemon's loop and the web handler: only there every exception may be caught."""


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Return everything in the syntax tree of a file."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports(path: Path) -> Iterator[str]:
    """Yield each module, and each name of it, that a file imports."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(name: str, *packages: str) -> bool:
    return any(name == p or name.startswith(p + ".") for p in packages)


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` of an attribute or a name, else an empty text."""
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return node.id if isinstance(node, ast.Name) else ""


def test_contracts_hold(root):
    tool = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    assert tool is not None, "import-linter is not installed beside this Python; run: make venv"
    done = subprocess.run([tool, "--no-cache"], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


FORBIDDEN = (
    "astropy.io", "astropy.table", "logging", "pathlib", "os", "io", "time", "datetime", "random", "subprocess",
    "socket", "sqlalchemy", "psycopg", "fastapi", "matplotlib", "PIL",
)  # fmt: skip


def test_algorithms_import_arrays_only(root):
    found = [
        f"{path.relative_to(root)} imports {name}"
        for path in sorted((root / "spica/algorithms").rglob("*.py"))
        for name in imports(path)
        if below(name, *FORBIDDEN) or (below(name, "spica") and not below(name, "spica.algorithms"))
    ]
    assert found == []


def test_algorithms_have_no_files_no_prints_and_no_global_random_state(root):
    allowed = {"default_rng", "Generator", "SeedSequence", "PCG64"}
    found = []
    for path in sorted((root / "spica/algorithms").rglob("*.py")):
        for node in nodes(path):
            if isinstance(node, ast.Call) and dotted(node.func) in ("open", "print", "input", "np.load", "np.save"):
                found.append(f"{path.relative_to(root)}:{node.lineno} {dotted(node.func)}")
            if isinstance(node, ast.Attribute) and dotted(node.value) == "np.random" and node.attr not in allowed:
                found.append(f"{path.relative_to(root)}:{node.lineno} np.random.{node.attr}")
    assert found == []


def test_steps_know_no_database_no_web_and_no_scheduling(root):
    words = (
        "spica.db",
        "spica.scheduling",
        "spica.cli",
        "spica_web",
        "spica_daemon",
        "sqlalchemy",
        "psycopg",
        "fastapi",
    )
    found = [
        f"{path.relative_to(root)} imports {name}"
        for path in sorted((root / "spica/steps").rglob("*.py"))
        for name in imports(path)
        if below(name, *words)
    ]
    assert found == []


def test_model_is_pure_python(root):
    heavy = ("numpy", "scipy", "astropy", "numba", "sep", "sqlalchemy", "fastapi", "matplotlib", "click", "rich")
    found = [
        f"{path.relative_to(root)} imports {name}"
        for path in sorted((root / "spica/model").rglob("*.py"))
        for name in imports(path)
        if below(name, *heavy)
    ]
    assert found == []


def test_doors_know_each_other_by_name_only(root):
    doors = {"spica/cli": "spica.cli", "web/spica_web": "spica_web", "daemon/spica_daemon": "spica_daemon"}
    found = [
        f"{path.relative_to(root)} imports {name}"
        for folder, own in doors.items()
        for path in sorted((root / folder).rglob("*.py"))
        for name in imports(path)
        if below(name, *(set(doors.values()) - {own}))
    ]
    assert found == []


def test_only_db_job_moves_a_job(root, modules):
    found = []
    for path in modules:
        name = path.relative_to(root).as_posix()
        if name.startswith(("spica/db/job/", "spica/db/tables/")):
            continue
        for node in nodes(path):
            inner = node.func if isinstance(node, ast.Call) else None
            if isinstance(inner, ast.Name) and inner.id == "update" and node.args and dotted(node.args[0]) == "JobRow":
                found.append(f"{name}:{node.lineno}")
    assert found == []


def test_every_exception_is_caught_only_at_the_last_resort(root, modules):
    found = []
    for path in modules:
        name = path.relative_to(root).as_posix()
        for node in nodes(path):
            if not isinstance(node, ast.ExceptHandler):
                continue
            bare = node.type is None or dotted(node.type) == "Exception"
            raises_on = any(isinstance(n, ast.Raise) and n.exc is None for n in ast.walk(node))
            if bare and not raises_on and name not in LAST_RESORT:
                found.append(f"{name}:{node.lineno}")
    assert found == []


def test_nothing_is_run_from_text(root, modules):
    found = []
    for path in modules:
        for node in nodes(path):
            if not isinstance(node, ast.Call):
                continue
            called = dotted(node.func)
            shell = any(
                k.arg == "shell" and not (isinstance(k.value, ast.Constant) and k.value.value is False)
                for k in node.keywords
            )
            if called in ("eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads") or shell:
                found.append(f"{path.relative_to(root)}:{node.lineno} {called}")
    assert found == []


@pytest.mark.parametrize("word", ["utils", "util", "helpers", "helper", "common", "manager", "misc"])
def test_no_module_is_a_drawer(modules, word):
    assert [str(p) for p in modules if p.stem == word or p.parent.name == word] == []
