"""Modules and functions keep to a size that one reads at once."""

from __future__ import annotations

import ast

MODULE_LINES = 400
FUNCTION_LINES = 60
GRANTED: dict[str, int] = {
    "spica/algorithms/quality/assess.py::assess_detector": 80,
}
"""What is longer, each with its own limit; one that has become short again must leave this table."""


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function without its docstring."""
    text = ast.get_docstring(node, clean=False)
    return (node.end_lineno or node.lineno) - node.lineno + 1 - (text.count("\n") + 1 if text else 0)


def test_modules_are_short(root, modules):
    lengths = {p.relative_to(root).as_posix(): p.read_text(encoding="utf-8").count("\n") for p in modules}
    long = {name: n for name, n in lengths.items() if n > GRANTED.get(name, MODULE_LINES)}
    assert long == {}, "split these modules"


def test_functions_are_short(root, modules):
    lengths: dict[str, int] = {}
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{path.relative_to(root).as_posix()}::{node.name}"
                lengths[name] = max(lengths.get(name, 0), function_lines(node))
    long = {name: n for name, n in lengths.items() if n > GRANTED.get(name, FUNCTION_LINES)}
    assert long == {}, "split these functions"
    spare = [name for name in GRANTED if "::" in name and lengths.get(name, 0) <= FUNCTION_LINES]
    assert spare == [], "these need no grant any more"
