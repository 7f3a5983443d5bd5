"""People: passwords, one-time links, sessions, and what is on record."""

from __future__ import annotations

import base64
import hashlib
import threading

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from spica.db import person as people
from spica.db.engine import Database
from spica.model.errors import ConflictError, UsageError
from spica.model.person import PersonRole

GOOD = "correct horse"


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests short: new hashes are cheap, and say so."""
    monkeypatch.setattr(people, "SCRYPT_N", 2**10)
    monkeypatch.setattr(people, "SCRYPT_P", 1)


def test_password(session: Session) -> None:
    """Name and password together, or nobody."""
    person_id = people.add_person(session, "anna", PersonRole.GRADER, GOOD)
    people.add_person(session, "bert", PersonRole.VIEWER)
    found = people.check_password(session, "anna", GOOD)
    assert found is not None
    assert (found.id, found.name, found.role, found.has_password) == (person_id, "anna", PersonRole.GRADER, True)
    for name, word in (("anna", GOOD + "x"), ("anna", ""), ("bert", GOOD), ("bert", ""), ("carl", GOOD), ("", "")):
        assert people.check_password(session, name, word) is None, (name, word)
    stored = session.execute(text("SELECT string_agg(password_hash, '') FROM person")).scalar_one()
    assert GOOD not in stored
    assert people.has_password_person(session)
    people.disable_person(session, person_id)
    assert people.check_password(session, "anna", GOOD) is None
    assert not people.has_password_person(session)
    people.enable_person(session, person_id)
    assert people.check_password(session, "anna", GOOD) is not None


def test_hash_is_scrypt_with_its_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash says how it was made, is what hashlib makes of it, has its own salt, and outlives dearer settings."""
    hashed = people.hash_password(GOOD)
    kind, n, r, p, salt, derived = hashed.split("$")
    assert (kind, n, r, p) == ("scrypt", "1024", "8", "1")
    again = hashlib.scrypt(GOOD.encode(), salt=base64.b64decode(salt), n=1024, r=8, p=1, dklen=32)
    assert base64.b64decode(derived) == again
    assert people.hash_password(GOOD) != hashed
    monkeypatch.setattr(people, "SCRYPT_N", 2**11)
    assert people.verify_password(GOOD, hashed)
    assert people.verify_password(GOOD, people.hash_password(GOOD))
    assert not people.verify_password(GOOD.upper(), hashed)


def test_dear_settings_work() -> None:
    """The settings in use fit the memory that scrypt is allowed, and the stand-in of nobody has them."""
    assert not people.verify_password(GOOD, people._NOBODY)
    assert people._NOBODY.split("$")[1:4] == ["32768", "8", "3"]


@pytest.mark.parametrize("hashed", ["", "plain", "md5$1$2$3$4$5", "scrypt$a$8$1$AA==$AA==", "scrypt$1024$8$1$%$AA=="])
def test_foreign_hashes_open_nothing(hashed: str) -> None:
    """What is no hash of ours fits no password."""
    assert not people.verify_password(GOOD, hashed)


@pytest.mark.parametrize("password", ["", "short", "x" * 2000])
def test_passwords_that_will_not_do(session: Session, password: str) -> None:
    """Too short and absurdly long ones are refused."""
    with pytest.raises(UsageError, match="8 to 1024 characters"):
        people.add_person(session, "anna", PersonRole.VIEWER, password)


@pytest.mark.parametrize("name", ["", "a b", "<b>", "-x", "x" * 65, "a\nb", "../x"])
def test_names_that_will_not_do(session: Session, name: str) -> None:
    """A name is a word."""
    with pytest.raises(UsageError, match="will not do as a name"):
        people.add_person(session, name, PersonRole.VIEWER)


def test_name_is_taken(session: Session) -> None:
    """Adding twice is refused; knowing twice is not, and changes no role."""
    person_id = people.add_person(session, "anna", PersonRole.VIEWER)
    with pytest.raises(ConflictError, match="choose another name"):
        people.add_person(session, "anna", PersonRole.ADMIN)
    assert people.know_person(session, "anna", PersonRole.ADMIN) == person_id
    found = people.find_person(session, "anna")
    assert found is not None
    assert found.role is PersonRole.VIEWER
    assert people.know_person(session, "bert", PersonRole.ADMIN) != person_id
    assert [p.name for p in people.list_persons(session)] == ["anna", "bert"]


def test_login_token_opens_one_session(session: Session) -> None:
    """Spent once it is worth nothing; it is no session itself; the session ends when it is ended."""
    person_id = people.add_person(session, "anna", PersonRole.OPERATOR)
    login = people.make_login_token(session, person_id)
    assert people.find_session(session, login) is None
    token = people.spend_login_token(session, login)
    assert token is not None
    assert people.spend_login_token(session, login) is None
    assert people.spend_login_token(session, token) is None
    assert people.spend_login_token(session, "made up") is None
    found = people.find_session(session, token)
    assert found is not None
    assert found.id == person_id
    stored = session.execute(text("SELECT string_agg(token_sha256, ' ') FROM session")).scalar_one()
    assert token not in stored
    assert login not in stored
    people.end_session(session, token)
    assert people.find_session(session, token) is None
    people.end_session(session, token)


def test_token_is_spent_once_by_two_at_once(database: Database) -> None:
    """Two browsers with the same link: one enters."""
    with database.begin() as session:
        login = people.make_login_token(session, people.add_person(session, "anna", PersonRole.VIEWER))
    barrier = threading.Barrier(2)
    got: list[str | None] = []

    def spend() -> None:
        with database.begin() as session:
            barrier.wait()
            got.append(people.spend_login_token(session, login))

    threads = [threading.Thread(target=spend) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(token is None for token in got) == [False, True]


def test_tokens_end_with_their_time(session: Session) -> None:
    """By the database's clock; those that are over are removed."""
    person_id = people.add_person(session, "anna", PersonRole.VIEWER)
    over = people.make_session(session, person_id, life_s=-1.0)
    late = people.make_login_token(session, person_id, life_s=-1.0)
    program = people.make_api_token(session, person_id, life_s=60.0)
    assert people.find_session(session, over) is None
    assert people.spend_login_token(session, late) is None
    assert people.find_session(session, program) is not None
    assert people.forget_old_sessions(session) == 2
    assert people.find_session(session, program) is not None


def test_disabling_and_new_password_end_all_sessions(session: Session) -> None:
    """A person shut out, or whose password was changed, is out at once, with every token; an unspent link too."""
    for act in (people.disable_person, lambda s, i: people.set_password(s, i, "another password")):
        person_id = people.know_person(session, "anna", PersonRole.VIEWER)
        people.enable_person(session, person_id)
        tokens = [people.make_session(session, person_id), people.make_api_token(session, person_id)]
        login = people.make_login_token(session, person_id)
        act(session, person_id)
        assert [people.find_session(session, token) for token in tokens] == [None, None]
        assert people.spend_login_token(session, login) is None
    people.disable_person(session, person_id)
    late = people.make_session(session, person_id)
    assert people.find_session(session, late) is None
    assert people.spend_login_token(session, people.make_login_token(session, person_id)) is None


def test_role_holds_from_the_next_request(session: Session) -> None:
    """A session carries no copy of the role."""
    person_id = people.add_person(session, "anna", PersonRole.VIEWER)
    token = people.make_session(session, person_id)
    people.set_role(session, person_id, PersonRole.ADMIN)
    found = people.find_session(session, token)
    assert found is not None
    assert found.role is PersonRole.ADMIN


def test_audit(session: Session) -> None:
    """Newest first, with the name, of one subject or all."""
    person_id = people.add_person(session, "anna", PersonRole.GRADER)
    people.audit(session, person_id, "grade", "image:3", "B, thin clouds")
    people.audit(session, None, "cancel", "job:5")
    acts = people.read_audit(session)
    assert [(a.person, a.verb, a.subject, a.detail) for a in acts] == [
        (None, "cancel", "job:5", None),
        ("anna", "grade", "image:3", "B, thin clouds"),
    ]
    assert people.read_audit(session, "image:3") == acts[1:]
    assert people.read_audit(session, limit=1) == acts[:1]
