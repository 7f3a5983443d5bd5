"""The rule language: what it reads, what it refuses and how, what a rule means, and why an image is out."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spica.model.errors import RecipeError
from spica.model.grade import Grade
from spica.model.image import ImageState
from spica.model.selection import (
    DEFAULT_RULE,
    FIELDS,
    And,
    Between,
    Candidate,
    Compare,
    FieldKind,
    InList,
    IsKnown,
    Like,
    Not,
    OneOf,
    Or,
    Rule,
    RuleError,
    Within,
    evaluate,
    explain,
    fields_of,
    format_rule,
    like,
    list_names,
    parse_list,
    parse_rule,
    rule_sha256,
)

GOOD = Candidate(
    image_id=7,
    name="744123p",
    state=ImageState.ASSESSED,
    object="IC 1396-A",
    object_key="ic1396a",
    instrument="megacam",
    filter="r",
    run="06AM01",
    night=date(2006, 5, 1),
    mjd=53856.99,
    ra_deg=359.99,
    dec_deg=10.0,
    exptime_s=360.0,
    airmass=1.2,
    seeing_arcsec=0.97,
    n_stars=120,
    grade=Grade.B,
    tags=frozenset({"deep", "first light"}),
)


# What it reads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seeing < 0.8", Compare("seeing", "<", 0.8)),
        ("SEEING<.8", Compare("seeing", "<", 0.8)),
        ("dec>=-1.5e1", Compare("dec", ">=", -15.0)),
        ("n_stars != 3", Compare("n_stars", "!=", 3.0)),
        ("object = 'M''s \"x\"'", Compare("object", "=", 'M\'s "x"')),
        ('object = "say ""hi"""', Compare("object", "=", 'say "hi"')),
        ("grade in (A, b, 'C')", OneOf("grade", ("A", "B", "C"))),
        ("state = assessed", Compare("state", "=", "assessed")),
        ("filter not in ('r')", Not(OneOf("filter", ("r",)))),
        ("not filter in ('r')", Not(OneOf("filter", ("r",)))),
        ("night = '2006-05-01'", Compare("night", "=", date(2006, 5, 1))),
        ("date between '2006-05-01' and '2006-05-03'", Between("date", date(2006, 5, 1), date(2006, 5, 3))),
        ("airmass not between 1 and 2", Not(Between("airmass", 1.0, 2.0))),
        ('name like "7441*"', Like("name", "7441*")),
        ("skyprobe is known", IsKnown("skyprobe", True)),
        ("skyprobe is not known", IsKnown("skyprobe", False)),
        ("skyprobe is not unknown", IsKnown("skyprobe", True)),
        ("within(359.5, -20, 1)", Within(359.5, -20.0, 1.0)),
        ('image in list("best.txt")', InList("best.txt")),
        ('image not in list("best.txt")', Not(InList("best.txt"))),
        ('tag in ("deep", "x")', OneOf("tag", ("deep", "x"))),
    ],
)
def test_reads(text: str, expected: Rule) -> None:
    assert parse_rule(text) == expected


def test_and_binds_closer_than_or_and_not_closest() -> None:
    a, b, c = Compare("seeing", "<", 1.0), Compare("airmass", "<", 2.0), Compare("exptime", ">", 60.0)
    text = {"a": "seeing < 1", "b": "airmass < 2", "c": "exptime > 60"}
    assert parse_rule("{a} or {b} and {c}".format(**text)) == Or((a, And((b, c))))
    assert parse_rule("({a} or {b}) and {c}".format(**text)) == And((Or((a, b)), c))
    assert parse_rule("not {a} and {b} and {c}".format(**text)) == And((Not(a), b, c))
    assert parse_rule("not ({a} and {b})".format(**text)) == Not(And((a, b)))
    assert parse_rule("airmass between 1 and 2 and {a}".format(**text)) == And((Between("airmass", 1.0, 2.0), a))


# What it refuses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "column", "word", "suggestion", "words"),
    [
        ("seing < 1", 1, "seing", "seeing", "unknown field 'seing'; did you mean 'seeing'?"),
        ("grade=A and seing < 1", 13, "seing", "seeing", "rule, column 13: unknown field 'seing'; did you mean"),
        ("qqq = 1", 1, "qqq", None, "known: seeing exptime"),
        ("state = asessed", 9, "asessed", "assessed", "did you mean 'assessed'?"),
        ("grade = E", 9, "E", None, "known: A B C D"),
        ("grade >= B", 7, ">=", None, "write grade in (A, B)"),
        ("grade between A and B", 7, "between", None, "write grade in (A, B)"),
        ("filter = r", 10, "r", None, 'write filter = "r"'),
        ("run = 6", 7, "6", None, 'write run = "6"'),
        ("run = 06AM01", 7, "06AM01", None, "in quotes"),
        ("seeing < '1'", 10, "1", None, "a number (arcsec) was expected"),
        ("seeing == 1", 9, "=", None, "a number (arcsec) was expected"),
        ("seeing <", 9, "", None, "the rule ends"),
        ("seeing like 'a'", 8, "like", None, "write one of = != < <= > >= in between is"),
        ("seeing not < 1", 12, "<", None, "seeing knows no 'not <'"),
        ("tag < 'a'", 5, "<", None, "tag knows no '<'"),
        ("night = '2006-13-01'", 9, "2006-13-01", None, "a date in quotes"),
        ("night = '20060501'", 9, "20060501", None, "a date in quotes"),
        ("night = 2006", 9, "2006", None, "a date in quotes"),
        ("airmass between 2 and 1", 17, "2", None, "swap them"),
        ("seeing < 1e999", 10, "1e999", None, "too large"),
        ("within(400, 0, 1)", 8, "400", None, "0 to 360 degrees"),
        ("within(0, 91, 1)", 11, "91", None, "-90 to 90 degrees"),
        ("within(0, 0, -1)", 14, "-1", None, "0 to 180 degrees"),
        ("within(0, 0)", 12, ")", None, "',' was expected"),
        ("image in ('a')", 10, "(", None, 'image in list("file")'),
        ("name in list('a')", 9, "list", None, 'write image in list("file")'),
        ("image in list('')", 15, "", None, "the name of a list"),
        ("seeing is 1", 11, "1", None, "known or unknown"),
        ("(seeing < 1", 12, "", None, "')' was expected"),
        ("seeing < 1)", 11, ")", None, "the end of the rule was expected"),
        ("seeing < 1 airmass < 2", 12, "airmass", None, "the end of the rule was expected"),
        ("seeing < 1 && airmass < 2", 12, "&&", None, "write and"),
        ("and", 1, "and", None, "a field was expected"),
        ("name = 'abc", 8, "'abc", None, "add ' where it ends"),
        ("name = 'a\x00b'", 8, "a\x00b", None, "control character"),
        ("name = 'a\ud800b'", 8, "a\ud800b", None, "control character"),
        ("__import__('os')", 1, "__import__", None, "unknown field"),
        ("", 1, "", None, "the rule is empty"),
        (" \n ", 1, "", None, "the rule is empty"),
    ],
)
def test_refuses_with_place_word_and_cure(
    text: str, column: int, word: str, suggestion: str | None, words: str
) -> None:
    with pytest.raises(RuleError) as caught:
        parse_rule(text)
    error = caught.value
    assert (error.column, error.word, error.suggestion) == (column, word, suggestion)
    assert error.values == {"column": column, "word": word, "suggestion": suggestion}
    assert words in str(error)
    assert str(error).startswith(f"rule, column {column}: ")
    assert isinstance(error, RecipeError)
    assert error.exit_code == 21


def test_length_depth_and_lists_are_bounded() -> None:
    deep = "(" * 49 + "seeing < 1" + ")" * 49
    assert parse_rule(deep) == Compare("seeing", "<", 1.0)
    for text in ("(" + deep + ")", "not " * 50 + "seeing < 1", "(" * 9000):
        with pytest.raises(RuleError, match="nested deeper than 50"):
            parse_rule(text)
    values = ", ".join(["1"] * 1000)
    assert isinstance(parse_rule(f"seeing in ({values})"), OneOf)
    with pytest.raises(RuleError, match="more than 1000 values"):
        parse_rule(f"seeing in ({values}, 1)")
    with pytest.raises(RuleError, match="10001 characters"):
        parse_rule("seeing < 1" + " " * 9991)
    assert parse_rule("seeing < 1" + " " * 9990) == Compare("seeing", "<", 1.0)
    long = " and ".join(["seeing < 1"] * 600)
    assert evaluate(parse_rule(long), GOOD) is True


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="seing<>=!()'\",.0189AB- \n\x00é٣ andortlik*", max_size=60))
@example("name = '" + "'" * 50)
def test_any_text_is_a_rule_or_a_rule_error(text: str) -> None:
    rule, column = None, 1
    try:
        rule = parse_rule(text)
    except RuleError as error:
        column = error.column
    assert 1 <= column <= len(text) + 1
    assert rule is None or parse_rule(format_rule(rule)) == rule


# Round trip ---------------------------------------------------------------------------------------------------------

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda v: v + 0.0) | st.floats(
    allow_nan=False, allow_infinity=False
)
WORDS = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=8)
DAYS = st.dates()


def values_of(kind: FieldKind, choices: tuple[str, ...]) -> st.SearchStrategy[object]:
    if kind is FieldKind.CHOICE:
        return st.sampled_from(choices)
    by_kind = {FieldKind.NUMBER: NUMBERS.map(lambda v: v + 0.0), FieldKind.DATE: DAYS}
    return by_kind.get(kind, WORDS)  # type: ignore[return-value]


@st.composite
def leaf_rules(draw: st.DrawFn) -> Rule:
    field = FIELDS[draw(st.sampled_from(sorted(FIELDS)))]
    values = values_of(field.kind, field.choices)
    operator = draw(st.sampled_from((*field.operators, "within", "list")))
    if operator == "within":
        angle = st.floats(0.0, 1.0)
        return Within(draw(angle) * 360.0, draw(angle) * 180.0 - 90.0, draw(angle) * 180.0)
    if operator == "list":
        return InList(draw(WORDS.filter(bool)))
    if operator == "in":
        return OneOf(field.name, tuple(draw(st.lists(values, min_size=1, max_size=4))))  # type: ignore[arg-type]
    if operator == "between":
        low, high = sorted((draw(values), draw(values)))  # type: ignore[type-var]
        return Between(field.name, low, high)  # type: ignore[arg-type]
    if operator == "like":
        return Like(field.name, draw(WORDS))
    if operator == "is":
        return IsKnown(field.name, draw(st.booleans()))
    return Compare(field.name, operator, draw(values))  # type: ignore[arg-type]


def combined(inner: st.SearchStrategy[Rule]) -> st.SearchStrategy[Rule]:
    several = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return inner.map(Not) | several.map(And) | several.map(Or)


RULES = st.recursive(leaf_rules(), combined, max_leaves=8)


@settings(max_examples=300, deadline=None)
@given(RULES)
def test_a_rule_and_its_text_are_the_same(rule: Rule) -> None:
    text = format_rule(rule)
    assert parse_rule(text) == rule
    assert format_rule(parse_rule(text)) == text


def test_equal_rules_have_equal_hashes_however_they_are_typed() -> None:
    one, other = parse_rule("Grade in (a,B) AND (seeing<1.0)"), parse_rule("grade in (A, B) and seeing < 1")
    assert format_rule(one) == "grade in (A, B) and seeing < 1"
    assert rule_sha256(one) == rule_sha256(other) != rule_sha256(parse_rule(DEFAULT_RULE))


def test_fields_and_lists_of_a_rule() -> None:
    rule = parse_rule("seeing<1 and (within(1,2,3) or image in list('f')) and not (seeing>0 or grade=A)")
    assert fields_of(rule) == ("seeing", "within", "image", "grade")
    assert list_names(rule) == ("f",)


# Meaning ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("seeing < 0.97", False),
        ("seeing <= 0.97", True),
        ("seeing between 0.97 and 1", True),
        ("skyprobe < 2", None),
        ("not skyprobe < 2", None),
        ("skyprobe not in (1, 2)", None),
        ("skyprobe != skyprobe", "error"),
        ("skyprobe is unknown", True),
        ("skyprobe is known", False),
        ("object = 'ic_1396 A'", True),
        ("object like 'IC*a'", True),
        ("object like 'IC?a'", False),
        ("filter in ('g', 'r')", True),
        ("filter = 'R'", False),
        ("run between '06AM' and '06B'", True),
        ("night = '2006-05-01'", True),
        ("night > '2006-05-01'", False),
        ("date = '2006-05-01'", True),
        ("date < '2006-05-01'", False),
        ("mjd > 53856.5", True),
        ("grade in (A, B)", True),
        ("grade != B", False),
        ("n_stars > 119.5", True),
        ("tag = 'deep'", True),
        ("tag != 'deep'", False),
        ("tag in ('x', 'first light')", True),
        ("tag like 'fir*'", True),
        ("tag is known", True),
        ("not tag = 'x'", True),
        ("within(0.01, 10, 0.0198)", True),
        ("within(0.01, 10, 0.0196)", False),
        ("within(180, -10, 180)", True),
        ("image in list('l')", True),
        ("image not in list('l')", False),
        ("kind = exposure and state in (assessed, calibrated)", True),
    ],
)
def test_means(text: str, truth: object) -> None:
    if truth == "error":
        with pytest.raises(RuleError):
            parse_rule(text)
        return
    assert evaluate(parse_rule(text), GOOD, {"l": {"744123p"}}) is truth


def test_a_list_that_was_not_given_is_an_error() -> None:
    with pytest.raises(RecipeError, match="list 'f', which was not given"):
        evaluate(parse_rule("image in list('f')"), GOOD)


def test_logic_is_that_of_three_values() -> None:
    by_truth = {True: "seeing < 1", False: "seeing > 1", None: "skyprobe < 1"}
    rank = {False: 0, None: 1, True: 2}
    back = {v: k for k, v in rank.items()}
    for a, b in itertools.product(by_truth, repeat=2):
        both, either = parse_rule(f"{by_truth[a]} and {by_truth[b]}"), parse_rule(f"{by_truth[a]} or {by_truth[b]}")
        assert evaluate(both, GOOD) is back[min(rank[a], rank[b])]
        assert evaluate(either, GOOD) is back[max(rank[a], rank[b])]
        assert evaluate(parse_rule(f"not {by_truth[a]}"), GOOD) is back[2 - rank[a]]


def test_nothing_known_is_unknown_for_every_comparison() -> None:
    nothing = Candidate()
    always = {"name", "kind", "state", "tag"}
    for field in FIELDS.values():
        if field.name in always:
            continue
        value = {"number": "1", "text": "'x'", "date": "'2006-05-01'", "choice": "A"}[field.kind]
        for operator in field.operators:
            text = {
                "is": "is known",
                "between": f"between {value} and {value}",
                "in": f"in ({value})",
                "like": "like '*'",
            }.get(operator, f"{operator} {value}")
            expected = False if operator == "is" else None
            assert evaluate(parse_rule(f"{field.name} {text}"), nothing) is expected
    assert evaluate(parse_rule("within(0, 0, 180)"), nothing) is None
    assert evaluate(parse_rule("seeing < 1"), replace(nothing, seeing_arcsec=math.nan)) is None


@pytest.mark.parametrize(
    ("text", "pattern", "fits"),
    [
        ("", "", True),
        ("", "*", True),
        ("a", "", False),
        ("abc", "a*c", True),
        ("abc", "a?c", True),
        ("abc", "?b", False),
        ("a.c", "a.c", True),
        ("abc", "a.c", False),
        ("aXbXc", "a*X*c", True),
        ("a%c", "a%c", True),
        ("abc", "a%c", False),
        ("a\nb", "a*b", True),
        ("é", "?", True),
    ],
)
def test_like(text: str, pattern: str, fits: bool) -> None:
    assert like(text, pattern) is fits


@settings(max_examples=200)
@given(st.text("ab", max_size=8), st.text("ab*?", max_size=8))
def test_like_agrees_with_its_definition(text: str, pattern: str) -> None:
    def defined(t: str, p: str) -> bool:
        if not p:
            return not t
        if p[0] == "*":
            return any(defined(t[i:], p[1:]) for i in range(len(t) + 1))
        return bool(t) and p[0] in ("?", t[0]) and defined(t[1:], p[1:])

    assert like(text, pattern) is defined(text, pattern)


def test_like_is_quick_on_hostile_patterns() -> None:
    assert like("a" * 3000, "*a" * 40 + "b") is False


# Why an image is out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "clause", "value", "unknown", "sentence"),
    [
        ("grade in (A, B) and seeing < 0.8", "seeing < 0.8", "0.97", False, "seeing < 0.8: 0.97"),
        ("seeing < 1 and skyprobe < 2", "skyprobe < 2", "unknown", True, "skyprobe unknown"),
        ("skyprobe < 2 and seeing < 0.8", "skyprobe < 2", "unknown", True, "skyprobe unknown"),
        ("seeing < 1 and (airmass < 1 and exptime > 1)", "airmass < 1", "1.2", False, "airmass < 1: 1.2"),
        (
            "seeing < 0.8 or skyprobe < 2",
            "seeing < 0.8 or skyprobe < 2",
            "seeing 0.97, skyprobe unknown",
            True,
            "seeing < 0.8 or skyprobe < 2: seeing 0.97, skyprobe unknown",
        ),
        ("seeing < 0.8 or seeing > 3", "seeing < 0.8 or seeing > 3", "0.97", False, "seeing < 0.8 or seeing > 3: 0.97"),
        ("not (airmass > 2 or seeing > 0.8)", "not seeing > 0.8", "0.97", False, "not seeing > 0.8: 0.97"),
        ("not not seeing < 0.8", "seeing < 0.8", "0.97", False, "seeing < 0.8: 0.97"),
        (
            "not (seeing < 1 and airmass < 2)",
            "not (seeing < 1 and airmass < 2)",
            "seeing 0.97, airmass 1.2",
            False,
            "not (seeing < 1 and airmass < 2): seeing 0.97, airmass 1.2",
        ),
        ("object = 'm51'", 'object = "m51"', "IC 1396-A", False, 'object = "m51": IC 1396-A'),
        ("grade = A", "grade = A", "B", False, "grade = A: B"),
        ("night > '2007-01-01'", 'night > "2007-01-01"', "2006-05-01", False, 'night > "2007-01-01": 2006-05-01'),
        ("tag = 'x'", 'tag = "x"', "deep first light", False, 'tag = "x": deep first light'),
        ("within(0, 11, 0.5)", "within(0, 11, 0.5)", "1 deg", False, "within(0, 11, 0.5): 1 deg"),
        ("image in list('l')", 'image in list("l")', "744123p", False, 'image in list("l"): 744123p'),
        ("mjd < 5", "mjd < 5", "53856.99", False, "mjd < 5: 53856.99"),
    ],
)
def test_explains(text: str, clause: str, value: str, unknown: bool, sentence: str) -> None:
    found = explain(parse_rule(text), GOOD, {"l": set()})
    assert found is not None
    assert (found.text, found.value, found.unknown, found.sentence) == (clause, value, unknown, sentence)


def test_unknown_circle_has_unknown_distance() -> None:
    found = explain(parse_rule("within(0, 0, 1)"), Candidate())
    assert found is not None
    assert (found.value, found.unknown) == ("unknown", True)


@settings(max_examples=200, deadline=None)
@given(RULES, st.sampled_from([GOOD, Candidate(), replace(GOOD, grade=None, seeing_arcsec=None, tags=frozenset())]))
def test_explains_exactly_what_is_out(rule: Rule, candidate: Candidate) -> None:
    lists = {name: {"744123p"} for name in list_names(rule)}
    truth, clause = evaluate(rule, candidate, lists), explain(rule, candidate, lists)
    assert (clause is None) is (truth is True)
    if clause is not None:
        part = parse_rule(clause.text)
        assert evaluate(part, candidate, lists) is (None if clause.unknown else False)


# Lists --------------------------------------------------------------------------------------------------------------


def test_lists_of_images_are_names_files_or_paths() -> None:
    text = "# best\n744123p\n\n744124p.fits.fz, d41d8cd98f00b204e9800998ecf8427e\r\n/data/a b/744125p.FITS\nx.y.fits\n"
    assert parse_list(text) == {"744123p", "744124p", "744125p", "x.y"}
    assert parse_list("") == frozenset()
