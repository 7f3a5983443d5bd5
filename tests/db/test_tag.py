"""Tags: put on and taken off images, words that will do, colours, counts."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from spica.db.selection import judge
from spica.db.tag import COLOURS, check_word, known_tags, list_tags, set_colour, tag_images, tags_of, untag_images
from spica.model.errors import UsageError
from spica.model.selection import parse_rule


@pytest.fixture
def images(world: Any) -> list[int]:
    with world.database.begin() as session:
        context = world.attempt(session)
        return [world.exposure(session, context, n) for n in ("a", "b", "c")]


def test_a_tag_is_put_on_once_and_taken_off(world: Any, images: list[int]) -> None:
    with world.database.begin() as session:
        assert tag_images(session, images[:2], "ghost") == 2
        assert tag_images(session, images, " ghost ") == 1, "two had it"
        assert tag_images(session, [images[0], 10**9], "moon light") == 1, "an image that is not there is passed over"
        assert [t.name for t in tags_of(session, images[0])] == ["ghost", "moon light"]
        assert untag_images(session, images[:2], "ghost") == 2
        assert untag_images(session, images[:2], "ghost") == 0
        assert [(t.name, t.count) for t in list_tags(session)] == [("ghost", 1), ("moon light", 1)]


def test_rules_find_tags(world: Any, images: list[int]) -> None:
    with world.database.begin() as session:
        tag_images(session, [images[1]], "moon light")
        judged = judge(session, parse_rule('tag = "moon light"'))
    assert [c.image_id for c in judged.chosen] == [images[1]]


@pytest.mark.parametrize(
    "word", ["", "  ", "x" * 41, "a\nb", "a\0b", "tab\there", 'say "so"', "back\\slash", "\u202edrowkcab"]
)
def test_words_that_will_not_do(word: str) -> None:
    with pytest.raises(UsageError):
        check_word(word)


@pytest.mark.parametrize("word", ["x", "x" * 40, "lumière", "run 06AQ12", "<b>", "'quoted'", "a  b"])
def test_words_that_will_do(word: str) -> None:
    assert check_word(f" {word} ") == word


def test_colours_are_of_the_set(world: Any, images: list[int]) -> None:
    with world.database.begin() as session:
        tag_images(session, images, "ghost")
        assert tags_of(session, images[0])[0].colour == COLOURS[0]
        for colour in ("violet", "teal"):
            set_colour(session, "ghost", colour)
        assert tags_of(session, images[0])[0].colour == "teal"
        assert [(t.name, t.colour, t.count) for t in list_tags(session)] == [("ghost", "teal", 3)]
        assert [(t.name, t.colour) for t in known_tags(session)] == [("ghost", "teal")]
        with pytest.raises(UsageError, match="choose one of"):
            set_colour(session, "ghost", "url(x)")
        with pytest.raises(UsageError, match="no image bears"):
            set_colour(session, "nothing", "teal")


def test_those_who_wait_are_told_of_few_one_by_one_and_of_many_at_once(
    world: Any, images: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(world.database.url.replace("+psycopg", ""), autocommit=True) as listener:
        listener.execute("LISTEN spica")
        with world.database.begin() as session:
            tag_images(session, images[:2], "few")
        few = sorted(n.payload for n in listener.notifies(timeout=5, stop_after=2))
        monkeypatch.setattr("spica.db.tag.TOLD_ONE_BY_ONE", 2)
        with world.database.begin() as session:
            tag_images(session, images, "many")
        many = [n.payload for n in listener.notifies(timeout=5, stop_after=1)]
    assert few == [f"image:{i}" for i in images[:2]]
    assert many == ["resync"]
