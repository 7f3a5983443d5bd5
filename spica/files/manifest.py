"""The manifest of a delivery: what it is, what went in, what was left out, which files; XML with a JSON twin."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from spica.files.checksum import sha256_file, write_atomic
from spica.model.errors import DataError

FORMAT = "spica-manifest-1"
MAX_MANIFEST_BYTES = 256 * 1024 * 1024
FactValue = bool | int | float | str | None
_UNSAFE = re.compile("[\\x00-\\x1f\\x7f\\\\\\ud800-\\udfff\ufffe\uffff]")
_BACKSLASHED = re.compile(r"\\(\\|u[0-9a-f]{4})")


@dataclass(frozen=True)
class Fact:
    """One statement: name, value (None: unknown) and unit."""

    name: str
    value: FactValue
    unit: str = ""


@dataclass(frozen=True)
class ManifestItem:
    """An exposure, detector or calibration: name, role, sha256 of its file, reason it was left out, and facts."""

    name: str
    role: str = "exposure"
    sha256: str = ""
    reason: str = ""
    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True)
class ManifestFile:
    """A delivered file: name relative to the manifest, role, sha256 and size in bytes."""

    name: str
    role: str
    sha256: str
    size: int


@dataclass(frozen=True)
class LineageStep:
    """One job on the way: kind, its number, engine and version, sha256 of its recipe."""

    kind: str
    job: int | None = None
    engine: str = ""
    version: str = ""
    recipe_sha256: str = ""


@dataclass(frozen=True)
class Manifest:
    """A delivery; `created_utc` is an ISO time given by the caller."""

    name: str
    kind: str
    created_utc: str
    facts: tuple[Fact, ...] = ()
    inputs: tuple[ManifestItem, ...] = ()
    left_out: tuple[ManifestItem, ...] = ()
    files: tuple[ManifestFile, ...] = ()
    lineage: tuple[LineageStep, ...] = ()


def _xml_text(text: str) -> str:
    """Escape by a backslash what XML 1.0 cannot hold (control characters, lone surrogates) or would change."""
    return _UNSAFE.sub(lambda found: "\\\\" if found.group() == "\\" else f"\\u{ord(found.group()):04x}", text)


def _plain_text(text: str) -> str:
    return _BACKSLASHED.sub(lambda m: "\\" if m.group(1) == "\\" else chr(int(m.group(1)[1:], 16)), text)


def _fact_text(value: FactValue) -> tuple[str, str]:
    """Return type name and text of a fact's value."""
    if value is None:
        return "unknown", ""
    if isinstance(value, bool):
        return "boolean", "true" if value else "false"
    if isinstance(value, int):
        return "integer", str(value)
    if isinstance(value, float):
        return ("real", repr(value)) if math.isfinite(value) else ("unknown", "")
    return "text", value


def _fact_value(kind: str, text: str) -> FactValue:
    readers: dict[str, Any] = {"boolean": lambda t: t == "true", "integer": int, "real": float, "text": str}
    return readers[kind](text) if kind in readers else None


def _add_facts(parent: Element, facts: Iterable[Fact]) -> None:
    for fact in facts:
        kind, text = _fact_text(fact.value)
        node = SubElement(parent, "fact", name=_xml_text(fact.name), type=kind, value=_xml_text(text))
        if fact.unit:
            node.set("unit", _xml_text(fact.unit))


def manifest_to_xml(manifest: Manifest) -> bytes:
    """Return the manifest as XML (UTF-8); any text is held, control characters as `\\u0007` with `\\` doubled."""
    root = Element("manifest", format=FORMAT)
    for key in ("name", "kind", "created_utc"):
        root.set(key, _xml_text(getattr(manifest, key)))
    _add_facts(SubElement(root, "facts"), manifest.facts)
    for tag, items in (("inputs", manifest.inputs), ("left_out", manifest.left_out)):
        parent = SubElement(root, tag)
        for item in items:
            node = SubElement(parent, "item")
            for key in ("name", "role", "sha256", "reason"):
                node.set(key, _xml_text(getattr(item, key)))
            _add_facts(node, item.facts)
    parent = SubElement(root, "files")
    for file in manifest.files:
        attributes = {"name": file.name, "role": file.role, "sha256": file.sha256, "size": str(file.size)}
        SubElement(parent, "file", {key: _xml_text(value) for key, value in attributes.items()})
    parent = SubElement(root, "lineage")
    for step in manifest.lineage:
        attributes = {k: "" if v is None else str(v) for k, v in asdict(step).items()}
        SubElement(parent, "step", {key: _xml_text(value) for key, value in attributes.items()})
    indent(root)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="utf-8") + b"\n"


def _read_facts(parent: Any) -> tuple[Fact, ...]:
    return tuple(
        Fact(
            _plain_text(node.get("name", "")),
            _fact_value(node.get("type", ""), _plain_text(node.get("value", ""))),
            _plain_text(node.get("unit", "")),
        )
        for node in parent.findall("fact")
    )


def _texts(node: Any, *keys: str) -> dict[str, Any]:
    return {key: _plain_text(node.get(key, "")) for key in keys}


def manifest_from_xml(content: bytes) -> Manifest:
    """Read what `manifest_to_xml` wrote; DataError where it is no such XML. Entities and DTDs are refused."""
    try:
        root = fromstring(content, forbid_dtd=True)
        if root.tag != "manifest" or root.get("format") != FORMAT:
            raise ValueError(f"not of format {FORMAT}")
        items = {
            tag: tuple(
                ManifestItem(**_texts(node, "name", "role", "sha256", "reason"), facts=_read_facts(node))
                for node in root.findall(f"{tag}/item")
            )
            for tag in ("inputs", "left_out")
        }
        steps = []
        for node in root.findall("lineage/step"):
            job = node.get("job", "")
            texts = _texts(node, "kind", "engine", "version", "recipe_sha256")
            steps.append(LineageStep(**texts, job=int(job) if job else None))
        facts = root.find("facts")
        return Manifest(
            **_texts(root, "name", "kind", "created_utc"),
            facts=() if facts is None else _read_facts(facts),
            inputs=items["inputs"],
            left_out=items["left_out"],
            files=tuple(
                ManifestFile(**_texts(node, "name", "role", "sha256"), size=int(node.get("size", "")))
                for node in root.findall("files/file")
            ),
            lineage=tuple(steps),
        )
    except (ParseError, DefusedXmlException, ValueError, TypeError) as trouble:
        raise DataError(f"the manifest cannot be read ({trouble}); fetch it again") from trouble


def manifest_to_json(manifest: Manifest) -> bytes:
    """Return the manifest as JSON (ASCII, indented, keys in the order of the fields; NaN and infinity are null)."""
    content = {"format": FORMAT, **asdict(manifest)}
    return (json.dumps(_without_nan(content), indent=1, allow_nan=False) + "\n").encode("ascii")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def manifest_from_json(content: bytes) -> Manifest:
    """Read what `manifest_to_json` wrote; DataError where it is no such JSON."""
    try:
        raw = json.loads(content)
        if raw.pop("format") != FORMAT:
            raise ValueError(f"not of format {FORMAT}")

        def items(rows: list[dict[str, Any]]) -> tuple[ManifestItem, ...]:
            return tuple(ManifestItem(**{**row, "facts": tuple(Fact(**f) for f in row["facts"])}) for row in rows)

        return Manifest(
            **{
                **raw,
                "facts": tuple(Fact(**row) for row in raw["facts"]),
                "inputs": items(raw["inputs"]),
                "left_out": items(raw["left_out"]),
                "files": tuple(ManifestFile(**row) for row in raw["files"]),
                "lineage": tuple(LineageStep(**row) for row in raw["lineage"]),
            }
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as trouble:
        raise DataError(f"the manifest cannot be read ({trouble}); fetch it again") from trouble


def describe_file(path: str | os.PathLike[str], role: str, name: str | None = None) -> ManifestFile:
    """Return the manifest's line of a file on disk; DataError where it cannot be read."""
    return ManifestFile(name or Path(path).name, role, sha256_file(path), Path(path).stat().st_size)


def write_manifest(folder: str | os.PathLike[str], manifest: Manifest, stem: str = "manifest") -> tuple[Path, Path]:
    """Write `<stem>.xml` and `<stem>.json` into a folder, each atomically; return their paths."""
    xml, twin = Path(folder) / f"{stem}.xml", Path(folder) / f"{stem}.json"
    write_atomic(xml, manifest_to_xml(manifest))
    write_atomic(twin, manifest_to_json(manifest))
    return xml, twin


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read a manifest, JSON by its suffix and XML otherwise; DataError where it is missing, too large or broken."""
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(MAX_MANIFEST_BYTES + 1)
    except OSError as trouble:
        raise DataError(f"{path} cannot be read ({trouble.strerror}); check that it is there") from trouble
    if len(content) > MAX_MANIFEST_BYTES:
        raise DataError(f"{path} has more than {MAX_MANIFEST_BYTES} bytes; it is no manifest")
    return manifest_from_json(content) if Path(path).suffix.lower() == ".json" else manifest_from_xml(content)


def check_files(manifest: Manifest, folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return a line for each delivered file that is missing, outside the folder, or differs in size or sha256."""
    findings: list[str] = []
    root = Path(folder).resolve()
    for file in manifest.files:
        path = (root / file.name).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            findings.append(f"{file.name} is missing; deliver it again")
        elif path.stat().st_size != file.size or sha256_file(path) != file.sha256:
            findings.append(f"{file.name} differs from the manifest; deliver it again")
    return tuple(findings)
