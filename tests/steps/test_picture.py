"""Pictures of images: preview and mosaic come of one reduced image, and say the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spica.files.compand import expand, read_mosaic
from spica.files.preview import make_preview
from spica.model.job import Inputs, Request
from spica.model.recipe import Recipe
from spica.model.record import to_json
from spica.steps.base import StepContext
from spica.steps.picture import add_pictures, draw_stack


def context_in(folder: Path) -> StepContext:
    recipe = Recipe()
    request = Request("stack", "native", to_json(recipe), recipe.sha256(), label="one")
    return StepContext(folder, request, Inputs(1, 1, "f", ()), recipe)


def test_a_stack_has_a_preview_and_a_mosaic_of_the_same_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    image = rng.normal(0.0, 0.02, (2100, 2500)).astype(np.float32)
    image[1000:1060, 2000:2060] += 5.0
    weight = np.ones_like(image)
    weight[:, :300] = 0
    context = context_in(tmp_path)
    add_pictures(context, "s", "image:9", draw_stack(image, weight))
    told = [(p.role, p.name, p.media_type, p.small, p.item) for p in context.products]
    assert told == [
        ("preview", "s.preview.png", "image/png", True, "image:9"),
        ("mosaic", "s.mosaic.jpg", "image/jpeg", True, "image:9"),
    ]
    with Image.open(tmp_path / "s.preview.png") as preview:
        shown = np.asarray(preview)[::-1]
    assert np.array_equal(shown, make_preview(np.where(weight > 0, image, np.nan).astype(np.float32)))
    mosaic = read_mosaic((tmp_path / "s.mosaic.jpg").read_bytes())
    assert (mosaic.factor, mosaic.width, mosaic.height) == (3, 2500, 2100)
    assert mosaic.values.shape == shown.shape
    assert mosaic.companding.sigma == pytest.approx(0.02, rel=0.05)
    pixels = expand(mosaic.values, mosaic.companding.level, mosaic.companding.sigma)
    assert np.isnan(pixels[:, :90]).all()
    assert np.nanmedian(pixels[336:350, 670:684]) == pytest.approx(5.0, rel=0.1)
