"""The list of exposures from the snapshot: counts, order, own acts at once, and what cannot be read."""

from __future__ import annotations

import re
from typing import Any

from spica_web.query import ImageQuery, place_in


def names(text: str) -> list[str]:
    return re.findall(r'<a href="/images/\d+[^"]*">(\d+p)</a>', text)


def test_the_list_counts_orders_and_shows_own_acts(survey: Any, visitor: Any, site: Any) -> None:
    client = visitor.become(survey.tokens["greta"])
    whole = client.get("/exposures").text
    assert re.search(r"counted [0-9.]+ s ago", whole)
    assert '<option value="IC 1396">IC 1396 (' in whole
    up, down = names(client.get("/exposures?sort=seeing").text), names(client.get("/exposures?sort=-seeing").text)
    assert len(up) == len(names(whole)) == len(survey.exposures) + 1
    assert up[:9] == down[:9][::-1]  # the rejected one has no seeing and stays last
    for image, letter in zip(survey.exposures[:4], "DADA", strict=True):
        client.post(f"/images/{image}/grade", data={"grade": letter})
        listed = client.get(f"/exposures?grade=human&rule=grade+%3D+{letter}").text
        assert f'data-live="image:{image}"' in listed
    assert len(names(client.get("/exposures?grade=human").text)) == 4
    place = place_in(site.snapshot(), ImageQuery(grade="human", sort="-id"), survey.exposures[3])
    assert place is not None
    assert (place.previous, place.next, place.position, place.total) == (None, survey.exposures[2], 1, 4)


def test_a_rule_that_cannot_be_read_leaves_the_list_empty(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    for rule in ("seing < 1", 'image in list("mine")'):
        text = client.get("/exposures", params={"rule": rule}).text
        assert "the rule cannot be read" in text
        assert names(text) == []
    assert "No exposure matches" in client.get("/exposures?filter=none").text
    assert client.get("/exposures?page=900").status_code == 200
