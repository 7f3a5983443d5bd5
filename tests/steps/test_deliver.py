"""A delivery: copies under their names, a manifest that says what went in and what was left out."""

from __future__ import annotations

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
