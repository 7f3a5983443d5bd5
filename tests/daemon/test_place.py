"""Placing: products, exposures, deliveries; a full disk loses nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from spica.files.workspace import Workspace
from spica.model.errors import ConflictError, UsageError
from spica.model.job import ProductRef, Result
from spica.model.product import DeliveredFile, DeliveryRecord
from spica_daemon.place import DiskError, check_products, disk_errors, place_deliveries, place_products


def product(folder: Path, path: str = "a.fits", content: bytes = b"pixels") -> ProductRef:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(content)
    return ProductRef("weight", path, hashlib.sha256(content).hexdigest(), len(content), "a.fits", "image:1")


def test_products_are_placed_by_instrument_and_kind_and_again_without_harm(
    workspace: Workspace, tmp_path: Path
) -> None:
    p = product(tmp_path / "attempt-1")
    for _ in range(2):
        (placed,) = place_products(workspace, tmp_path / "attempt-1", "assess", [p], {"image:1": "Mega Prime"})
        assert placed.relative == f"Mega_Prime/assess/a-{p.sha256[:8]}.fits"
        assert placed.path.read_bytes() == b"pixels"
    assert placed.path.stat().st_ino == (tmp_path / "attempt-1" / "a.fits").stat().st_ino


def test_a_full_disk_is_a_disk_error_and_the_attempt_keeps_its_files(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="disk is full"), disk_errors(), open("/dev/full", "wb", buffering=0) as full:
        full.write(b"x")


def test_a_product_outside_the_attempt_or_of_other_content_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "attempt-1"
    p = product(folder)
    outside = ProductRef("weight", "../b.fits", p.sha256, p.size, "b.fits")
    with pytest.raises(UsageError):
        place_products(workspace, folder, "assess", [outside], {})
    place_products(workspace, folder, "assess", [p], {})
    (placed,) = workspace.roots["data"].rglob("*.fits")
    placed.unlink()
    placed.write_bytes(b"other")
    with pytest.raises(ConflictError):
        place_products(workspace, folder, "assess", [p], {})


@pytest.mark.parametrize("harm", ["symlink", "missing", "size", "content", "escape"])
def test_a_result_with_a_wrong_product_is_not_whole(tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "attempt-1"
    p = product(folder)
    whole = Result(1, 1, "1", "t", "t", "0", 0, (p,))
    assert check_products(folder, whole) is None
    path = folder / "a.fits"
    if harm == "symlink":
        path.rename(tmp_path / "b")
        path.symlink_to(tmp_path / "b")
    elif harm == "missing":
        path.unlink()
    elif harm == "size":
        path.write_bytes(b"pixels.")
    elif harm == "content":
        path.write_bytes(b"pixelz")
    else:
        whole = Result(1, 1, "1", "t", "t", "0", 0, (product(folder, "../a.fits"),))
    assert check_products(folder, whole) is not None


def test_a_delivery_is_there_whole_or_not_at_all(workspace: Workspace, tmp_path: Path) -> None:
    attempt = tmp_path / "attempt-1"
    p = product(attempt, "outgoing/m31_r/stack.fits")
    file = DeliveredFile("stack.fits", p.sha256, p.size)
    record = DeliveryRecord("image:1", "m31_r", "0" * 64, (file,))
    torn = DeliveryRecord("image:1", "m31_r", "0" * 64, (file, DeliveredFile("gone.xml", "0" * 64, 1)))
    with pytest.raises(Exception, match=r"gone\.xml"):
        place_deliveries(workspace, attempt, [torn])
    assert list(workspace.roots["outgoing"].iterdir()) == []
    for _ in range(2):
        place_deliveries(workspace, attempt, [record])
    assert [x.name for x in workspace.roots["outgoing"].iterdir()] == ["m31_r"]
    target = workspace.roots["outgoing"] / "m31_r" / "stack.fits"
    target.unlink()
    target.write_bytes(b"changed")
    with pytest.raises(ConflictError, match="other content"):
        place_deliveries(workspace, attempt, [record])
