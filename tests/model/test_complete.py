"""Completion of rules: what is offered can be read, whatever stands before it, and nothing in a rule stops it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spica.model.selection import FIELDS, parse_rule
from spica.model.selection.complete import MAX_SUGGESTIONS, Completion, complete_rule

KNOWN = {"filter": ("g", "r"), "object": ("IC 1396", 'say "D2"'), "tag": ("deep",), "seeing": ("0.8",), "list": ("a",)}


def texts(completion: Completion) -> list[str]:
    return [s.text for s in completion.suggestions]


@pytest.mark.parametrize(
    ("text", "offered", "not_offered"),
    [
        ("", ["seeing", "grade", "not", "(", "within(", "image in list("], ["and", "="]),
        ("see", ["seeing"], ["grade"]),
        ("seeing ", ["<", "between", "in", "is", "not"], ["like", "and", "seeing"]),
        ("grade ", ["=", "!=", "in", "is"], ["<", "between", "like"]),
        ("name ", ["like", "="], []),
        ("tag ", ["like", "in"], ["<", "between"]),
        ("seeing not ", ["in", "between"], ["=", "is"]),
        ("grade = ", ["A", "B", "C", "D"], ["and"]),
        ("grade in ", ["("], ["A"]),
        ("grade in (", ["A", "D"], [",", ")"]),
        ("grade in (A", ["A"], ["B"]),
        ("grade in (A ", [",", ")"], ["B"]),
        ("grade in (A, ", ["B"], [","]),
        ("grade in (A, B) ", ["and", "or"], [")", "A"]),
        ("(grade = A ", ["and", "or", ")"], ["A"]),
        ("(grade = A) ", ["and", "or"], [")"]),
        ("filter = ", ['"g"', '"r"'], ["g"]),
        ('filter = "', ['"g"', '"r"'], []),
        ("filter = 'r", ['"r"'], ['"g"']),
        ('object = "ic', ['"IC 1396"'], ['"say ""D2"""']),
        ("seeing is ", ["known", "unknown"], ["A"]),
        ("seeing is not ", ["known", "unknown"], ["not"]),
        ("seeing between 0.5 ", ["and"], ["or"]),
        ("seeing between 0.5 and 0.9 ", ["and", "or"], []),
        ("seeing < ", ["0.8"], ["and"]),
        ("exptime < ", [], ["0.8", "and"]),
        ("image ", ["in", "not"], ["="]),
        ("image in ", ["list("], []),
        ("image in list(", ['"a"'], []),
        ('image in list("a") ', ["and"], []),
        ("within(270, -24, 0.5) ", ["and", "or"], ["seeing"]),
        ("not ", ["seeing", "("], ["and"]),
        ("seing < 1 and gra", ["grade"], []),
        ("seing < 1 an", ["and"], []),
        ("seeing < 0.9 & gra", [], []),
    ],
)
def test_offers(text: str, offered: list[str], not_offered: list[str]) -> None:
    found = texts(complete_rule(text, known=KNOWN))
    assert [w for w in offered if w not in found] == []
    assert [w for w in not_offered if w in found] == []


def test_the_word_at_the_cursor_is_replaced() -> None:
    found = complete_rule("grade = A and se and x", 16)
    assert (found.start, found.end) == (14, 16)
    assert texts(found)[0] == "seeing"
    inside = complete_rule('filter = "r', known=KNOWN)
    assert (inside.start, inside.end) == (9, 11)  # the quote that opens it is replaced too


def test_near_spellings_are_offered_last() -> None:
    assert texts(complete_rule("seing")) == ["seeing"]
    assert texts(complete_rule("_mag")) == ["limiting_mag"]


def test_meanings_say_the_unit() -> None:
    (seeing,) = (s for s in complete_rule("seeing").suggestions if s.text == "seeing")
    assert seeing.meaning.endswith("arcsec")
    assert complete_rule("seeing < ").hint.endswith("arcsec")
    assert all(s.meaning for f in ("", "grade = ", "seeing ", "grade = A ") for s in complete_rule(f).suggestions)


@settings(max_examples=120, deadline=None)
@given(st.text(alphabet="seing<>=!()and ort'\"0.9,AB&\n", max_size=60), st.integers(0, 70))
def test_no_text_stops_it(text: str, cursor: int) -> None:
    found = complete_rule(text, cursor, KNOWN)
    assert 0 <= found.start <= found.end <= len(text)
    assert len(found.suggestions) <= MAX_SUGGESTIONS


def ends(text: str) -> str:
    """Return a rule's text made whole by words that are offered: the first that leads to an end."""
    tail = {"value": " 1", "bound": " 1 and 2"}
    state = complete_rule(text, known={**KNOWN, "night": ("2006-05-01",), "date": ("2006-05-01",)})
    words = texts(state)
    for word in ("and", "A", "known", "("):
        if word in words:
            return text if word == "and" else ends(f"{text}{word} ")
    if ")" in words:
        return ends(f"{text}) ")
    values = [s.text for s in state.suggestions if s.kind == "value"]
    if "pattern" in state.hint:
        return ends(text + '"7*" ')
    number = tail["bound"] if "lower" in state.hint else tail["value"]
    return ends(text + (values[0] + " " if values and "lower" not in state.hint else number + " "))


@pytest.mark.parametrize("field", [f for f in FIELDS if FIELDS[f].kind.value in ("number", "choice")])
def test_every_operator_that_is_offered_leads_to_a_rule(field: str) -> None:
    for operator in [s.text for s in complete_rule(f"{field} ").suggestions if s.kind == "operator"]:
        parse_rule(ends(f"{field} {operator} "))


def test_a_long_text_offers_nothing() -> None:
    assert complete_rule("x" * 20_000).suggestions == ()
