"""The codec of frozen dataclasses: round trip, one canonical text, and refusals that name the place."""

from __future__ import annotations

import enum
import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spica.model.errors import DataError
from spica.model.record import canonical, canonical_sha256, from_json, to_json


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Leaf:
    number: float
    count: int = 0
    colour: Colour = Colour.RED
    pair: tuple[float, int] | None = None


@dataclass(frozen=True)
class Tree:
    name: str
    leaves: tuple[Leaf, ...] = ()
    by_name: dict[str, Leaf] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    either: float | str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    good: bool = False


FINITE = st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.builds(
    Leaf,
    FINITE,
    st.integers(),
    st.sampled_from(Colour),
    st.none() | st.tuples(FINITE, st.integers()),
)
TREES = st.builds(
    Tree,
    st.text(),
    st.lists(LEAVES, max_size=3).map(tuple),
    st.dictionaries(st.text(), LEAVES, max_size=2),
    st.lists(st.text(), max_size=2),
    st.none() | FINITE | st.text(),
    st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text(), max_size=2),
    st.booleans(),
)


@given(TREES)
def test_through_text_and_back(tree: Tree) -> None:
    again = from_json(Tree, json.loads(json.dumps(to_json(tree))))
    assert again == tree
    assert canonical(again) == canonical(tree)
    assert canonical_sha256(again) == canonical_sha256(tree)


def test_canonical_text_knows_no_order_of_keys() -> None:
    assert canonical({"b": 1, "a": [1.5, "é"]}) == canonical({"a": (1.5, "é"), "b": 1}) == '{"a":[1.5,"é"],"b":1}'
    assert canonical_sha256({"a": 1}) != canonical_sha256({"a": 2})
    assert len(canonical_sha256({})) == 64


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_what_is_not_finite_is_unknown(value: float) -> None:
    assert to_json(Leaf(value))["number"] is None
    assert canonical([value]) == "[null]"


def test_scalars_of_numpy_become_numbers() -> None:
    assert to_json({"a": np.float64(1.5), "b": np.float32(0.5)}) == {"a": 1.5, "b": 0.5}


LEAF = {"number": 1.0}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "Tree: an object was expected, found list"),
        ({}, "Tree: key 'name' is missing"),
        ({"name": "a", "x": 1}, "Tree: unknown key 'x'"),
        ({"name": 1}, "Tree.name: str was expected, found '1'"),
        ({"name": None}, "Tree.name: str was expected"),
        ({"name": "a", "leaves": [LEAF, {"number": "x"}]}, "Tree.leaves[1].number: float was expected"),
        ({"name": "a", "leaves": [LEAF | {"number": True}]}, "Tree.leaves[0].number: float was expected"),
        ({"name": "a", "leaves": [LEAF | {"count": 1.0}]}, "Tree.leaves[0].count: int was expected"),
        ({"name": "a", "leaves": [LEAF | {"count": True}]}, "Tree.leaves[0].count: int was expected"),
        ({"name": "a", "leaves": [LEAF | {"colour": "grey"}]}, "Tree.leaves[0].colour: one of red blue was expected"),
        ({"name": "a", "leaves": [LEAF | {"pair": [1.0]}]}, "Tree.leaves[0].pair: a list of 2 was expected"),
        ({"name": "a", "leaves": "xy"}, "Tree.leaves: a list was expected"),
        ({"name": "a", "by_name": []}, "Tree.by_name: an object was expected"),
        ({"name": "a", "by_name": {"k": {}}}, "Tree.by_name.k: key 'number' is missing"),
        ({"name": "a", "either": []}, "Tree.either: float was expected"),
        ({"name": "a", "good": 1}, "Tree.good: bool was expected"),
    ],
)
def test_refuses_and_names_the_place(data: object, words: str) -> None:
    with pytest.raises(DataError) as caught:
        from_json(Tree, data)
    assert words in str(caught.value)
    assert str(caught.value).endswith(("write the file again", "another version of Spica"))


def test_whole_numbers_are_read_where_decimals_are_meant() -> None:
    leaf = from_json(Leaf, {"number": 3})
    assert leaf.number == 3.0
    assert isinstance(leaf.number, float)


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(DataError) as caught:
        from_json(Tree, {"name": ["x" * 10_000]})
    assert len(str(caught.value)) < 200
