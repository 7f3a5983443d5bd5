"""A delivery: copies under their names, a manifest that says what went in and what was left out."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from spica.files.checksum import sha256_file
from spica.files.manifest import check_files, read_manifest
from spica.model.job import ItemOutcome, Outcome, Reason


@pytest.fixture(scope="module")
def delivered(chain: Any, step_bench: Any) -> Any:
    """Return the delivery of the stack, with a fourth exposure that the solution left out."""
    inputs = [
        *[(r, "image:9", p) for r, _, p in chain.made_inputs()],
        ("solution", None, chain.solved.path("measures")),
    ]
    inputs.append(("preview", "image:9", chain.stacked.path("preview")))
    names = [
        {"item": i, "name": chain.name(i), "sha256": sha256_file(chain.sky / f"{chain.name(i)}.fits")}
        for i in chain.items
    ]
    names.append({"item": "image:7", "name": "cloudy", "sha256": "c" * 64})
    cloud = ItemOutcome("image:7", Outcome.LEFT_OUT, None, Reason("attenuated", "attenuated by 4 mag"))
    facts = {"name": "tiny_r", "kind": "stack", "mode": "survey", "inputs": names}
    ran = step_bench.run("deliver", inputs, subject="image:9", facts=facts, left_out=(cloud,), min_inputs=0)
    assert ran.code == 0, ran.result.failure
    return ran


def test_the_manifest_says_what_went_in_and_what_did_not(chain: Any, delivered: Any) -> None:
    folder = delivered.folder / "outgoing" / "tiny_r"
    manifest = read_manifest(folder / "manifest.xml")
    assert manifest == read_manifest(folder / "manifest.json")
    assert check_files(manifest, folder) == ()
    assert [i.name for i in manifest.inputs] == list(chain.good)
    (left,) = manifest.left_out
    assert (left.name, left.reason) == ("cloudy", "attenuated by 4 mag")
    facts = {f.name: f.value for f in manifest.facts}
    assert (facts["zero_point_mag"], facts["mag_system"], facts["n_inputs"]) == (30.0, "AB", 3)


def test_the_record_names_every_file_with_its_hash(delivered: Any) -> None:
    record = delivered.record("delivery")
    folder = delivered.folder / "outgoing" / record["folder"]
    assert {f["path"] for f in record["files"]} == {p.name for p in folder.iterdir()}
    assert all(sha256_file(folder / f["path"]) == f["sha256"] for f in record["files"])
    assert record["manifest_sha256"] == sha256_file(folder / "manifest.json")
    assert len(delivered.whole()) == 2


def test_a_damaged_file_is_seen(delivered: Any, tmp_path: Any) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(delivered.folder / "outgoing" / "tiny_r", folder)
    manifest = read_manifest(folder / "manifest.xml")
    stack = next(folder / f.name for f in manifest.files if f.role == "stack")
    content = bytearray(stack.read_bytes())
    content[5000] ^= 1
    stack.write_bytes(content)
    assert check_files(manifest, folder) == (f"{stack.name} differs from the manifest; deliver it again",)


def _used(kind: str, name: str, corrected: bool = True, scale: float | None = None) -> dict[str, Any]:
    return {"kind": kind, "name": name, "sha256": sha256_of(name), "corrected": corrected, "scale": scale}


def sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_manifest_names_the_masters_of_its_inputs(chain: Any, step_bench: Any) -> None:
    masters = [
        [_used("bias", "bias.fits"), _used("flat", "flat1.fits"), _used("fringe", "fringe.fits", True, 12.5)],
        [_used("bias", "bias.fits"), _used("flat", "flat2.fits", False)],
        [],
    ]
    names = [
        {"item": i, "name": chain.name(i), "sha256": sha256_of(i), "masters": m}
        for i, m in zip(chain.items, masters, strict=True)
    ]
    left = {"item": "image:7", "name": "cloudy", "sha256": "c" * 64, "masters": [_used("flat", "flat9.fits")]}
    inputs = [
        *[(r, "image:9", p) for r, _, p in chain.made_inputs()],
        ("solution", None, chain.solved.path("measures")),
    ]
    facts = {"name": "tiny_r", "kind": "stack", "mode": "survey", "inputs": [*names, left]}
    ran = step_bench.run("deliver", inputs, "deliver.pdf=false", subject="image:9", facts=facts, min_inputs=0)
    assert ran.code == 0, ran.result.failure
    folder = ran.folder / "outgoing" / "tiny_r"
    manifest = read_manifest(folder / "manifest.xml")
    assert manifest == read_manifest(folder / "manifest.json")
    told = [(i.role, i.name, i.sha256) for i in manifest.inputs]
    assert told[:3] == [("exposure", n["name"], n["sha256"]) for n in names]
    expected = (("bias", "bias.fits"), ("flat", "flat1.fits"), ("flat", "flat2.fits"), ("fringe", "fringe.fits"))
    assert told[3:] == [(kind, name, sha256_of(name)) for kind, name in expected]
    assert {i.name: i.facts[0].value for i in manifest.inputs[3:]} == {
        "bias.fits": 2, "flat1.fits": 1, "flat2.fits": 1, "fringe.fits": 1,
    }  # fmt: skip
    said = [{f.name: f.value for f in i.facts if "_scale" not in f.name or "fringe" in f.name} for i in manifest.inputs]
    assert said[0] == {"weight_fraction": said[0]["weight_fraction"], "bias_corrected": sha256_of("bias.fits"),
                       "flat_corrected": sha256_of("flat1.fits"), "fringe_corrected": sha256_of("fringe.fits"),
                       "fringe_scale": 12.5}  # fmt: skip
    assert said[1]["flat_weighted"] == sha256_of("flat2.fits")
    assert set(said[2]) == {"weight_fraction"}
    assert [i.name for i in manifest.left_out] == ["cloudy"]
