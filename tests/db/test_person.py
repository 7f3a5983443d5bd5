"""People: passwords, one-time links, sessions, and what is on record."""

from __future__ import annotations

import base64
import hashlib
import threading

import pytest
from argon2.low_level import Type, hash_secret_raw
from sqlalchemy import text
from sqlalchemy.orm import Session

from spica.db import password as passwords
from spica.db import person as people
from spica.db import throttle
from spica.db.engine import Database
from spica.db.plan import add_plan
from spica.model.association import Mode
from spica.model.errors import ConflictError, UsageError
from spica.model.person import PersonRole

GOOD = "correct horse"


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests short: new hashes are cheap, and say so."""
    cheap = passwords.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(passwords, "HASHER", cheap)
    monkeypatch.setitem(passwords.NOBODY, passwords.ARGON2, cheap.hash("nobody at all"))


def old_hash(password: str, n: int = 2**10) -> str:
    """Return a hash by scrypt, as it was kept before."""
    salt = b"0123456789abcdef"
    derived = hashlib.scrypt(password.encode(), salt=salt, n=n, r=8, p=1, dklen=32)
    return f"scrypt${n}$8$1${base64.b64encode(salt).decode()}${base64.b64encode(derived).decode()}"


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


def test_hash_in_use_is_the_second_choice_of_rfc_9106(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2id, 64 MiB, three passes, four lanes, salt of 16 bytes, hash of 32; nobody costs as much."""
    monkeypatch.undo()
    hashed = passwords.hash_password(GOOD)
    kind, version, cost, salt, derived = hashed.split("$")[1:]
    assert (kind, version, cost) == ("argon2id", "v=19", "m=65536,t=3,p=4")
    again = hash_secret_raw(
        GOOD.encode(),
        base64.b64decode(salt + "=="),
        time_cost=3,
        memory_cost=65536,
        parallelism=4,
        hash_len=32,
        type=Type.ID,
    )
    assert base64.b64decode(derived + "=") == again
    assert len(base64.b64decode(salt + "==")) == 16
    assert passwords.hash_password(GOOD) != hashed
    assert passwords.verify_password(GOOD, hashed)
    assert not passwords.verify_password(GOOD.upper(), hashed)
    assert not passwords.is_behind(hashed)
    nobody = passwords.NOBODY[passwords.ARGON2]
    assert nobody.split("$")[1:4] == [kind, version, cost]
    assert len(nobody) == len(hashed)
    assert not passwords.verify_password(GOOD, nobody)
    assert not passwords.verify_password(GOOD, passwords.NOBODY[passwords.SCRYPT])


def test_older_hashes_fit_and_are_made_anew(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash of scrypt, or by cheaper settings, still opens; the next login by it leaves one as new ones are."""
    person_id = people.add_person(session, "anna", PersonRole.GRADER)

    def kept() -> str:
        return str(session.execute(text("SELECT password_hash FROM person WHERE name = 'anna'")).scalar_one())

    session.execute(text("UPDATE person SET password_hash = :h"), {"h": old_hash(GOOD)})
    assert people.check_password(session, "anna", "wrong guess") is None
    assert kept() == old_hash(GOOD)
    token = people.make_session(session, person_id)
    assert people.check_password(session, "anna", GOOD) is not None
    first = kept()
    assert first.startswith("$argon2id$")
    assert people.find_session(session, token) is not None  # nobody is thrown out by it
    assert people.check_password(session, "anna", GOOD) is not None
    assert kept() == first
    dearer = passwords.PasswordHasher(time_cost=2, memory_cost=8, parallelism=1)
    monkeypatch.setattr(passwords, "HASHER", dearer)
    assert people.check_password(session, "anna", GOOD) is not None
    assert "t=2" in kept()


def test_the_work_is_the_same_whoever_is_asked_for(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown, without a password, shut out, known with a wrong one: the same hashes are tried, by the same cost."""
    people.add_person(session, "anna", PersonRole.VIEWER, GOOD)
    people.add_person(session, "bert", PersonRole.VIEWER)
    people.disable_person(session, people.add_person(session, "carl", PersonRole.VIEWER, GOOD))
    done: list[str] = []
    real = passwords.verify_password

    def counted(password: str, hashed: str) -> bool:
        done.append("$".join(hashed.split("$")[:4]) if hashed.startswith("$") else hashed.split("$", maxsplit=1)[0])
        return real(password, hashed)

    monkeypatch.setattr(passwords, "verify_password", counted)

    def work(name: str) -> list[str]:
        done.clear()
        assert people.check_password(session, name, "wrong guess") is None
        return list(done)

    only = work("nobody")
    assert len(only) == 1
    assert [work(name) for name in ("anna", "bert", "carl")] == [only] * 3
    session.execute(text("UPDATE person SET password_hash = :h WHERE name = 'bert'"), {"h": old_hash(GOOD, 2**4)})
    both = work("nobody")
    assert sorted(w.split("$")[0] for w in both) == ["", "scrypt"]
    assert [work(name) for name in ("anna", "bert", "carl")] == [both] * 3


@pytest.mark.parametrize(
    "hashed",
    [
        "",
        "plain",
        "md5$1$2$3$4$5",
        "scrypt$a$8$1$AA==$AA==",
        "scrypt$1024$8$1$%$AA==",
        "$argon2id$",
        "$argon2id$v=19$x$y$z",
    ],
)
def test_foreign_hashes_open_nothing(hashed: str) -> None:
    """What is no hash of ours fits no password."""
    assert not passwords.verify_password(GOOD, hashed)


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


def test_the_last_admin_stays(session: Session) -> None:
    """Neither shut out nor demoted; one who is shut out does not count."""
    anna = people.add_person(session, "anna", PersonRole.ADMIN)
    bert = people.add_person(session, "bert", PersonRole.ADMIN)
    people.disable_person(session, bert)
    for act in (people.disable_person, lambda s, i: people.set_role(s, i, PersonRole.OPERATOR)):
        with pytest.raises(ConflictError, match="anna is the only admin"):
            act(session, anna)
    people.set_role(session, anna, PersonRole.ADMIN)
    people.enable_person(session, bert)
    people.set_role(session, anna, PersonRole.OPERATOR)


def test_two_admins_cannot_lose_each_other_at_once(database: Database) -> None:
    """The second waits for the first and is refused then."""
    with database.begin() as session:
        pair = [people.add_person(session, name, PersonRole.ADMIN) for name in ("anna", "bert")]
    barrier, refused = threading.Barrier(2), []

    def lose(person_id: int) -> None:
        barrier.wait()
        try:
            with database.begin() as session:
                people.disable_person(session, person_id)
        except ConflictError as trouble:
            refused.append(str(trouble))

    threads = [threading.Thread(target=lose, args=(i,)) for i in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1
    with database.read() as session:
        assert sum(p.disabled_at is None for p in people.list_persons(session)) == 1


def test_sessions_and_tokens_are_listed_and_revoked_by_their_owner(session: Session) -> None:
    """With what they are for and their last use; ids of others end nothing."""
    anna, bert = (people.add_person(session, name, PersonRole.VIEWER) for name in ("anna", "bert"))
    token = people.make_api_token(session, anna, label="nightly report")
    people.make_session(session, anna, label="Firefox on Linux")
    people.make_api_token(session, anna, life_s=-1.0)
    (entry,) = people.list_sessions(session, anna, "api")
    assert (entry.label, entry.seen_at) == ("nightly report", None)
    found = people.find_entry(session, token)
    assert found is not None
    assert not found.fresh
    assert people.find_entry(session, token, ("session",)) is None
    people.note_use(session, found.session_id)
    again = people.find_entry(session, token)
    assert again is not None
    assert again.fresh
    assert people.revoke_session(session, bert, entry.id) is None
    assert people.revoke_session(session, anna, entry.id) is not None
    assert people.find_session(session, token) is None
    assert people.end_sessions(session, anna, ("session",)) == 1


def test_a_plan_is_on_record_whoever_makes_it(session: Session) -> None:
    """Every plan of every door leaves an act, with the person where there is one."""
    anna = people.add_person(session, "anna", PersonRole.OPERATOR)
    made = [add_plan(session, mode=Mode.SURVEY, label="x", person_id=p) for p in (anna, None)]
    acts = [(a.person, a.verb, a.subject) for a in people.read_audit(session)]
    assert acts == [(None, "plan", f"plan:{made[1]}"), ("anna", "plan", f"plan:{made[0]}")]


# The brake on guessing ------------------------------------------------------------------------------------------------


def guess(database: Database, name: str, address: str = "10.0.0.1") -> int:
    """Try in vain, as one web process does; return the seconds to wait."""
    with database.begin() as session:
        return throttle.begin_try(session, name, address)


def pass_time(database: Database, seconds: float) -> None:
    """Let the database's clock go on, as far as tries know it."""
    with database.begin() as session:
        shift = "SET tried_at = tried_at - make_interval(secs => :s), open_at = open_at - make_interval(secs => :s)"
        session.execute(text(f"UPDATE login_try {shift}"), {"s": seconds})


def test_each_failure_waits_twice_as_long(database: Database) -> None:
    """By name, whatever the address; 5, 10, 20 ... 900 s by the database's clock; a quiet hour forgets."""
    for i in range(throttle.FREE_BY_NAME):
        assert guess(database, "anna", f"10.0.1.{i}") == 0
    waits = []
    for i in range(10):
        assert guess(database, "anna", f"10.0.2.{i}") == 0
        waits.append(guess(database, "anna", "10.0.3.1"))
        pass_time(database, waits[-1] - 2.0)
        assert 0 < guess(database, "anna", "10.0.3.1") <= 2
        pass_time(database, 2.0)
    assert waits == [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]
    assert guess(database, "bert", "10.0.4.1") == 0
    pass_time(database, throttle.FORGET_S + 1)
    assert guess(database, "anna") == 0
    assert guess(database, "anna") == 0


def test_an_address_is_braked_for_all_names(database: Database) -> None:
    """A good login does not free the address for guessing others; IPv6 counts by network."""
    for i in range(throttle.FREE_BY_ADDRESS):
        assert guess(database, f"name{i}", f"2001:db8::{i:x}") == 0
    with database.begin() as session:
        throttle.end_try(session, "name3", "2001:db8::9")  # one of them was good
    assert guess(database, "more", "2001:db8::1") == 0
    assert guess(database, "evenmore", "2001:db8::2") == 0
    assert guess(database, "most", "2001:db8::3") == 5
    assert guess(database, "most", "2001:db8:0:1::3") == 0
    assert throttle.network_of("::ffff:10.0.0.1") == throttle.network_of("10.0.0.1")


def test_a_good_try_clears_its_name(database: Database) -> None:
    """Who mistyped some times and then entered begins anew."""
    for _ in range(throttle.FREE_BY_NAME):
        assert guess(database, "anna") == 0
    with database.begin() as session:
        throttle.end_try(session, "anna", "10.0.0.1")
    for _ in range(throttle.FREE_BY_NAME + 1):
        assert guess(database, "anna") == 0
    assert guess(database, "anna") > 0


def test_tries_at_once_are_all_counted(database: Database) -> None:
    """Many at the same moment get no further than many in turn: they are counted before they are looked at."""
    n = throttle.FREE_BY_NAME + 4
    barrier, waits = threading.Barrier(n), []

    def go(i: int) -> None:
        barrier.wait()
        waits.append(guess(database, "anna", f"10.0.0.{i}"))

    threads = [threading.Thread(target=go, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(w == 0 for w in waits) == throttle.FREE_BY_NAME + 1


def test_old_tries_are_forgotten_and_hold_no_names(database: Database) -> None:
    """What was typed as a name may have been a password."""
    guess(database, "hunter2 my password")
    with database.begin() as session:
        kept = session.execute(text("SELECT string_agg(key_sha256, ' ') FROM login_try")).scalar_one()
        assert "hunter2" not in kept
        assert throttle.forget_old_tries(session) == 0
    pass_time(database, throttle.FORGET_S + throttle.LONGEST_S + 1)
    with database.begin() as session:
        assert throttle.forget_old_tries(session) == 2
