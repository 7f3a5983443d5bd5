"""The image page's own rooms: marks, tags, why, detectors, and the re-stack of a stack."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text

from spica.db.file import know_file, store_content
from spica.db.grade import add_grade
from spica.db.mark import marks_of
from spica.db.tables.image import ImageRow, TagRow
from spica.db.tables.job import PlanRow
from spica.db.tables.person import AuditRow
from spica.db.tables.product import ProductRow
from spica.db.tag import COLOURS
from spica.files.regions import read_regions
from spica.files.wcs import tan_cards
from spica.model.grade import Grade, GradeSource
from spica.model.image import FileKind
from spica.model.mark import MarkShape

JSON = {"accept": "application/json"}
SIDE, GAP = 1000, 40


def facts_sheet(ra: float, dec: float) -> dict[str, Any]:
    """Return the part of a facts sheet that says where four detectors stand, 2 x 2, with a gap of 40 pixels."""
    scale = 0.3 / 3600
    detectors = []
    for i in range(4):
        x0, y0 = ((i % 2) - 0.5) * (SIDE + GAP), ((i // 2) - 0.5) * (SIDE + GAP)
        cd = np.array([[-scale, 0.0], [0.0, scale]])
        cards = tan_cards(ra, dec, 0.5 * (SIDE - 1) - x0, 0.5 * (SIDE - 1) - y0, cd)
        detectors.append(
            {
                "index": i, "hdu": i + 1, "name": f"ccd{i:02d}", "n_x": SIDE, "n_y": SIDE, "pixel_scale_arcsec": 0.3,
                "wcs_cards": list(cards.cards), "data": {"x_start": 20, "x_stop": 20 + SIDE, "y_start": 5, "y_stop": 5},
            }
        )  # fmt: skip
    return {"exposure": {"ra_deg": ra, "dec_deg": dec}, "detectors": detectors}


@pytest.fixture
def image(database: Any, survey: Any) -> int:
    """Return an exposure whose facts sheet says where its detectors stand."""
    image_id = int(survey.exposures[0])
    with database.begin() as session:
        row = session.get_one(ImageRow, image_id)
        content = json.dumps(facts_sheet(row.ra_deg, row.dec_deg)).encode()
        file_id = know_file(session, "f" * 64, len(content), FileKind.PRODUCT, "x.facts.json")
        store_content(session, file_id, "application/json", content)
        made = session.scalars(
            select(ProductRow).where(ProductRow.image_id == image_id, ProductRow.role == "facts")
        ).one()
        made.file_id = file_id
    return image_id


def circle(x: float, y: float, r: float, **more: Any) -> dict[str, Any]:
    return {"shape": "circle", "x_pix": [x], "y_pix": [y], "radius_pix": r, **more}


def draw(client: TestClient, image: int, given: dict[str, Any]) -> Any:
    return client.post(f"/api/images/{image}/marks", json=given, headers=JSON)


def test_a_mark_comes_back_where_it_was_drawn(database: Any, survey: Any, visitor: Any, image: int) -> None:
    client = visitor.become(survey.tokens["greta"])
    x, y = 1540.0, 300.5
    reply = draw(client, image, circle(x, y, 60.0, comment="a <ghost>"))
    assert reply.status_code == 200, reply.text
    (told,) = reply.json()
    assert (told["shape"], told["detector"], told["radius_pix"], told["person"]) == ("circle", 1, 60.0, "greta")
    assert (told["x_pix"], told["y_pix"]) == (pytest.approx([x], abs=1e-6), pytest.approx([y], abs=1e-6))
    assert client.get(f"/images/{image}/marks.json").json() == [told]
    with database.read() as session:
        (mark,) = marks_of(session, image)
        assert (mark.comment, mark.regions[0].detector) == ("a <ghost>", 1)
        assert mark.regions[0].x_pix[0] == pytest.approx(x - SIDE - GAP, abs=1.0)
        (act,) = session.scalars(select(AuditRow).where(AuditRow.verb == "mark"))
        assert act.detail.startswith(f"mark {mark.id}")
    page = client.get(f"/images/{image}").text
    assert "circle on detector 1 · a &lt;ghost&gt;" in page


def test_one_over_a_gap_lies_on_both_detectors(database: Any, survey: Any, visitor: Any, image: int) -> None:
    client = visitor.become(survey.tokens["greta"])
    square = {"shape": "polygon", "x_pix": [900, 1200, 1200, 900], "y_pix": [100, 100, 200, 200]}
    assert {m["detector"] for m in draw(client, image, square).json()} == {0, 1}
    with database.read() as session:
        (mark,) = marks_of(session, image)
    assert mark.detectors == (0, 1)
    assert {r.shape for r in mark.regions} == {MarkShape.POLYGON}


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (circle(1020.0, 500.0, 5.0), 400),
        (circle(-500.0, 500.0, 5.0), 400),
        (circle(10.0, 10.0, -5.0), 422),
        (circle(10.0, 10.0, 5.0, shape="star"), 400),
        ({"shape": "polygon", "x_pix": [1, 2], "y_pix": [1, 2]}, 422),
        ({"shape": "polygon", "x_pix": [1.0] * 201, "y_pix": [1.0] * 201}, 400),
        ({"shape": "polygon", "x_pix": [1, 2, 3], "y_pix": [1, 2]}, 422),
        (circle(10.0, 10.0, 5.0, comment="x" * 2001), 400),
        ({}, 400),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    database: Any, survey: Any, visitor: Any, image: int, given: dict[str, Any], status: int
) -> None:
    reply = draw(visitor.become(survey.tokens["greta"]), image, given)
    assert reply.status_code == status, reply.text
    assert reply.json()["error"]["message"]
    with database.read() as session:
        assert marks_of(session, image, standing_only=False) == []


def test_marks_need_an_exposure_with_a_mosaic(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["greta"])
    assert "assess it first" in draw(client, survey.rejected, circle(10, 10, 5)).json()["error"]["message"]
    assert "no exposure" in draw(client, survey.stack, circle(10, 10, 5)).json()["error"]["message"]
    assert draw(client, 10**9, circle(10, 10, 5)).status_code == 404


def test_roles_of_marks_and_tags(survey: Any, visitor: Any, image: int) -> None:
    client = visitor.become(survey.tokens["vera"])
    assert draw(client, image, circle(100, 100, 5)).status_code == 403
    for path, data in (("tags", {"name": "x"}), ("tags/remove", {"name": "x"}), ("marks.reg", {"regions": "x"})):
        assert client.post(f"/images/{image}/{path}", data=data).status_code == 403
    assert client.post(f"/stacks/{survey.stack}/restack").status_code == 403
    (told,) = draw(visitor.become(survey.tokens["oscar"]), image, circle(100, 100, 5)).json()
    assert visitor.become(survey.tokens["greta"]).post(f"/marks/{told['id']}/withdraw").status_code == 409
    (own, _) = draw(visitor.client, image, circle(200, 200, 5)).json()[::-1]
    reply = visitor.client.post(f"/marks/{own['id']}/withdraw")
    assert (reply.status_code, reply.headers["location"]) == (303, f"/images/{image}#marks")
    reply = visitor.become(survey.tokens["oscar"]).post(f"/api/marks/{told['id']}/withdraw", headers=JSON)
    assert (reply.status_code, reply.json()) == (200, [])


def test_regions_go_out_and_come_back_to_the_same_pixels(database: Any, survey: Any, visitor: Any, image: int) -> None:
    client = visitor.become(survey.tokens["oscar"])
    draw(client, image, circle(1540.0, 300.5, 60.0, comment="ghost"))
    draw(client, image, {"shape": "polygon", "x_pix": [100, 300, 250], "y_pix": [100, 120, 340]})
    with database.read() as session:
        before = [m.regions[0] for m in marks_of(session, image)]
        mark_ids = [m.id for m in marks_of(session, image)]
    sent = client.get(f"/images/{image}/marks.reg")
    assert sent.headers["content-disposition"].endswith('.reg"')
    assert all(r.sky for r in read_regions(sent.text))
    (pixels,) = read_regions(client.get(f"/images/{image}/marks.reg?coords=image&detector=1").text)
    assert (pixels.x[0] - 20, pixels.y[0] - 5) == pytest.approx((before[0].x_pix[0], before[0].y_pix[0]), abs=0.001)
    assert pixels.text.endswith("ghost")
    assert client.get(f"/images/{image}/marks.reg?coords=image").status_code == 400
    for mark in mark_ids:
        client.post(f"/marks/{mark}/withdraw")
    reply = client.post(f"/images/{image}/marks.reg", data={"regions": sent.text})
    assert reply.status_code == 303, reply.text
    with database.read() as session:
        after = [m.regions[0] for m in marks_of(session, image)]
    for old, new in zip(before, after, strict=True):
        assert (new.detector, new.shape) == (old.detector, old.shape)
        assert new.x_pix == pytest.approx(old.x_pix, abs=0.005)
        assert new.y_pix == pytest.approx(old.y_pix, abs=0.005)
    assert after[0].radius_pix == pytest.approx(60.0, rel=1e-4)
    for regions in ("nonsense(", "image\ncircle(5,5,2)", "", "icrs\ncircle(10,10,1')"):
        assert client.post(f"/images/{image}/marks.reg", data={"regions": regions or " "}).status_code in (400, 422)


def test_tags_are_put_on_and_taken_off(database: Any, survey: Any, visitor: Any, image: int) -> None:
    client = visitor.become(survey.tokens["greta"])
    reply = client.post(f"/images/{image}/tags", data={"name": "scattered light"})
    assert (reply.status_code, reply.headers["location"]) == (303, f"/images/{image}#tags")
    assert client.post(f"/images/{image}/tags", data={"name": "a\nb"}).status_code == 400
    page = client.get(f"/images/{image}").text
    assert 'class="chip c-grey" href="/exposures?rule=tag%20%3D%20%22scattered%20light%22"' in page
    client.post("/tags/colour", data={"name": "scattered light", "colour": "violet"})
    assert "chip c-violet" in client.get("/tags").text
    assert client.post("/tags/colour", data={"name": "scattered light", "colour": "pink"}).status_code == 400
    client.post(f"/stacks/{survey.stack}/tags", data={"name": "x"})
    assert client.post(f"/images/{survey.stack}/tags", data={"name": "x"}).headers["location"].startswith("/stacks/")
    client.post(f"/images/{image}/tags/remove", data={"name": "scattered light"})
    with database.read() as session:
        assert list(session.scalars(select(TagRow.image_id))) == [survey.stack]


def test_a_rule_is_counted_before_it_tags(database: Any, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["greta"])
    words = {"rule": 'filter = "i"', "name": "red arm"}
    page = client.post("/tags/apply", data=words)
    assert page.status_code == 200
    assert "Tag 3 exposures red arm" in page.text
    with database.read() as session:
        assert session.scalar(select(TagRow.name)) is None, "counting tags nothing"
    assert client.post("/tags/apply", data={**words, "sure": "true"}).status_code == 303
    with database.read() as session:
        assert len(session.scalars(select(TagRow.image_id).where(TagRow.name == "red arm")).all()) == 3
    assert client.post("/tags/apply", data={**words, "rule": "seeing <"}).status_code == 400
    assert client.post("/tags/apply", data={**words, "rule": 'image in list("x")'}).status_code == 400


def test_colours_of_the_set_have_a_class() -> None:
    from spica_web.render import STATIC

    style = (STATIC / "marks.css").read_text()
    assert all(f".c-{c} {{ --c:" in style for c in COLOURS)


def test_why_answers_for_every_stack_and_for_the_one_asked(database: Any, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    with database.read() as session:
        stack = session.get_one(ImageRow, survey.stack).name
        other = next(i for i in survey.exposures if session.get_one(ImageRow, i).filter == "i")
    page = client.get(f"/images/{survey.exposures[0]}").text
    assert f'<a href="/stacks/{survey.stack}">{stack}</a>' in page
    assert re.search(r"<td class=\"wrap\">(chosen by|ellipticity|the rule)", page)
    assert "it has another filter" in client.get(f"/images/{other}?why={stack}").text
    assert "it has another filter" in client.get(f"/images/{other}?why={survey.stack}").text
    assert "No stack is called &lt;b&gt;" in client.get(f"/images/{other}?why=<b>").text


def test_a_restack_is_foretold_then_planned(database: Any, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["oscar"])
    with database.begin() as session:
        plan = session.get_one(ImageRow, survey.stack).plan_id
        chosen = (
            session.execute(
                text("SELECT image_id FROM stack_input WHERE stack_id = :s ORDER BY 1"), {"s": survey.stack}
            )
            .scalars()
            .first()
        )
        add_grade(session, chosen, GradeSource.HUMAN, Grade.A, person_id=survey.people["ada"])
    page = client.get(f"/stacks/{survey.stack}/restack")
    assert page.status_code == 200, page.text[-600:]
    assert "grade" in page.text
    assert "Plan and run" in page.text
    assert client.post(f"/stacks/{survey.stack}/restack", data={"dry": "true"}).text.count("Plan and run") == 1
    with database.read() as session:
        plans = session.scalar(select(PlanRow.id).order_by(PlanRow.id.desc()))
    assert client.get("/stacks/999999/restack").status_code == 404
    assert client.get(f"/stacks/{survey.planned}/restack").text.count("wait for its jobs") <= 1
    assert plans is not None
    assert plan is not None


def test_pictures_are_shown_by_the_viewer_and_rejected_files_say_why(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["greta"])
    page = client.get(f"/images/{survey.exposures[0]}").text
    assert f'data-viewer data-keys data-image="{survey.exposures[0]}"' in page
    assert page.count("data-goto=") == 4
    rejected = client.get(f"/images/{survey.rejected}").text
    assert "data-viewer" not in rejected
    assert "Rejected files are not assessed" in rejected
    assert "data-draw=" not in rejected
    assert "data-draw=" not in visitor.become(survey.tokens["vera"]).get(f"/images/{survey.exposures[0]}").text
