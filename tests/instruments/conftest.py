"""Real headers as the archives print them: text dumps, and the YAML and JSON of other projects' tests."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from spica.files.dump import read_header_dump
from spica.files.header import HeaderCards, make_cards


class _Loader(yaml.SafeLoader):
    """Reads unknown tags as the plain lists below them, and dates as text."""


_Loader.add_multi_constructor("lsst.", lambda loader, suffix, node: loader.construct_sequence(node, deep=True))
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _items(content: Any) -> list[tuple[str, Any]]:
    """Return keyword and value of both dialects: a mapping, or rows of keyword, type, value, comment."""
    if isinstance(content, dict):
        return list(content.items())
    return [(row[0], row[2]) for row in content]


def _header(content: Any) -> HeaderCards:
    cards = []
    for keyword, value in _items(content):
        last = value[-1] if isinstance(value, list) else value
        if keyword in {"COMMENT", "HISTORY", ""} or keyword.startswith("__") or isinstance(last, dict | list):
            continue
        cards.append((keyword, last, ""))
    return make_cards(cards)


def read_real_headers(path: Path) -> tuple[HeaderCards, ...]:
    """Return the header units of a dump; those of YAML and JSON are one unit, the primary merged into it."""
    if ".fits.header" in path.name:
        return read_header_dump(path)
    text = gzip.decompress(path.read_bytes()).decode()
    return (_header(json.loads(text) if ".json" in path.name else yaml.load(text, _Loader)),)


@pytest.fixture
def real_headers(test_data: Path) -> Callable[[str], tuple[HeaderCards, ...]]:
    """Return a reader of the headers of `headers/<name>`."""
    return lambda name: read_real_headers(test_data / "headers" / name)
