"""Saved rules: versions only grow, owners and operators change them, names are found, plans keep the version."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from spica.db.engine import Database
from spica.db.person import add_person, read_audit
from spica.db.rule import (
    find_rule,
    list_rules,
    read_rule,
    read_version,
    rename_rule,
    retire_rule,
    rule_versions,
    save_rule,
    version_by_id,
)
from spica.db.selection import judge, record_selection
from spica.db.tables.job import SelectionRow
from spica.db.tables.rule import RuleRow, RuleVersionRow
from spica.model.errors import ConflictError, UsageError
from spica.model.person import PersonRole
from spica.model.selection import RuleError, parse_rule
from spica.model.selection.shipped import shipped_rules


@pytest.fixture
def greta(session: Session) -> int:
    return add_person(session, "greta", PersonRole.GRADER)


def test_versions_grow_and_equal_spellings_do_not(session: Session, greta: int) -> None:
    first = save_rule(session, "  good   seeing ", "seeing < 0.9", greta, "to begin")
    assert (first.name, first.number, first.new) == ("good seeing", 1, True)
    same = save_rule(session, "good seeing", "  SEEING<0.90 ", greta)
    assert (same.version_id, same.number, same.new) == (first.version_id, 1, False)
    second = save_rule(session, "good seeing", "seeing < 0.8", greta, "sharper")
    back = save_rule(session, "good seeing", "seeing < 0.9", greta)
    assert (second.number, back.number, back.new) == (2, 3, True)
    assert [(v.number, v.text, v.note, v.person) for v in rule_versions(session, first.rule_id)] == [
        (3, "seeing < 0.9", None, "greta"),
        (2, "seeing < 0.8", "sharper", "greta"),
        (1, "seeing < 0.9", "to begin", "greta"),
    ]
    verbs = [(e.verb, e.detail) for e in read_audit(session, f"rule:{first.rule_id}")]
    assert verbs == [("save_rule", f"good seeing:{n}") for n in (3, 2, 1)]


def test_only_owner_and_operators_change_a_rule(session: Session, greta: int) -> None:
    other, oscar = add_person(session, "gus", PersonRole.GRADER), add_person(session, "oscar", PersonRole.OPERATOR)
    saved = save_rule(session, "mine", "seeing < 0.9", greta)
    for act in (
        lambda: save_rule(session, "mine", "seeing < 2", other),
        lambda: rename_rule(session, saved.rule_id, "his", other),
        lambda: retire_rule(session, saved.rule_id, other),
    ):
        with pytest.raises(UsageError, match="belongs to greta"):
            act()
    assert save_rule(session, "mine", "seeing < 0.7", oscar).number == 2
    assert save_rule(session, "mine", "seeing < 0.6", None).number == 3  # the command line
    assert [v.person for v in rule_versions(session, saved.rule_id)] == [None, "oscar", "greta"]
    assert read_rule(session, saved.rule_id).owner == "greta"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["", "   ", "@x", "a:1", "x" * 81, "a\x07b"])
def test_names_that_will_not_do(session: Session, name: str) -> None:
    with pytest.raises(UsageError, match="will not do"):
        save_rule(session, name, "seeing < 1", None)
    assert session.scalar(select(func.count()).select_from(RuleRow)) == 0


def test_a_rule_with_a_fault_is_not_saved(session: Session) -> None:
    with pytest.raises(RuleError, match="seeing"):
        save_rule(session, "bad", "seing < 1", None)
    assert session.scalar(select(func.count()).select_from(RuleRow)) == 0


def test_put_away_renamed_and_found(session: Session, greta: int) -> None:
    one = save_rule(session, "one", "seeing < 1", greta)
    two = save_rule(session, "two", "seeing < 2", greta)
    retire_rule(session, one.rule_id, greta)
    assert [r.name for r in list_rules(session)] == ["two"]
    assert [r.name for r in list_rules(session, retired=True)] == ["one"]
    assert find_rule(session, "one").text == "seeing < 1"  # plans of old commands go on
    assert save_rule(session, "one", "seeing < 1", greta).new is False
    assert {r.name for r in list_rules(session)} == {"one", "two"}  # saving takes it out again
    with pytest.raises(ConflictError, match="another rule"):
        rename_rule(session, one.rule_id, "two", greta)
    rename_rule(session, two.rule_id, "deux", greta)
    assert find_rule(session, "deux:1").id == two.version_id
    with pytest.raises(UsageError, match="there are: deux, one"):
        find_rule(session, "two")
    with pytest.raises(UsageError, match="no version 4"):
        find_rule(session, "one:4")
    with pytest.raises(UsageError, match="no rule 99"):
        retire_rule(session, 99, None)


def test_plans_are_counted_by_version(session: Session) -> None:
    one = save_rule(session, "one", "seeing < 1", None)
    two = save_rule(session, "one", "seeing < 2", None)
    judged = judge(session, parse_rule("seeing < 1"))
    ids = [record_selection(session, judged, None, v) for v in (one.version_id, two.version_id, two.version_id, None)]
    kept = session.scalars(select(SelectionRow.rule_version_id).where(SelectionRow.id.in_(ids)).order_by("id")).all()
    assert kept == [one.version_id, two.version_id, two.version_id, None]
    (entry,) = list_rules(session)
    assert (entry.n_planned, entry.newest.number, entry.newest.label) == (3, 2, "one:2")
    assert [v.n_planned for v in rule_versions(session, one.rule_id)] == [2, 1]
    assert read_version(session, one.rule_id, 1) == version_by_id(session, one.version_id)
    assert read_version(session, one.rule_id, 9) is None


def test_two_people_save_at_once(database: Database) -> None:
    """Each waits for the other: both versions are kept, none twice."""
    import threading

    def save(text: str) -> None:
        with database.begin() as session:
            save_rule(session, "both", text, None)

    threads = [threading.Thread(target=save, args=(f"seeing < {i}",)) for i in range(1, 7)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(20)
    with database.read() as session:
        numbers = session.scalars(select(RuleVersionRow.number).order_by(RuleVersionRow.number)).all()
    assert numbers == [1, 2, 3, 4, 5, 6]


def test_the_shipped_rules_can_be_saved(session: Session) -> None:
    shipped = shipped_rules()
    assert {"cfhtls-deep-d25", "cfhtls-deep-d85", "cfhtls-wide-t0007", "megapipe"} <= {r.key for r in shipped}
    for rule in shipped:
        save_rule(session, rule.key, rule.rule, None, rule.source)
        assert rule.source
        assert rule.caveats
        assert rule.best_percent is None or 0 < rule.best_percent < 100
    assert len(list_rules(session)) == len(shipped)


def test_the_command_line_takes_a_rule_by_name(database: Database) -> None:
    from spica.cli.run import _saved_rule

    with database.begin() as session:
        first = save_rule(session, "good seeing", "seeing < 0.9", None)
        second = save_rule(session, "good seeing", "seeing < 0.8", None)
    assert _saved_rule(database, "@good seeing") == ("seeing < 0.8", second.version_id)
    assert _saved_rule(database, "@good seeing:1") == ("seeing < 0.9", first.version_id)
    assert _saved_rule(database, "seeing < 2") == ("seeing < 2", None)
    assert _saved_rule(database, None) == (None, None)
    with pytest.raises(UsageError, match="there are: good seeing"):
        _saved_rule(database, "@bad seeing")
