"""Verification of one large file beside fitsverify, astropy's checksums and sha256sum."""

from __future__ import annotations

import hashlib
import resource
import shutil
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from astropy.io import fits

from spica.files.checksum import sha256_file
from spica.files.verify import verify_file

CHUNK = 256 * 1024
_IN_MEMORY = "SHA-256 in memory (OpenSSL)"


@dataclass(frozen=True)
class Summed:
    """CPU seconds by what was run on one file that lies in the page cache."""

    size_bytes: int
    seconds: dict[str, float]

    def lines(self) -> list[str]:
        """Return the table in Markdown."""
        floor = self.seconds["read"] + self.seconds[_IN_MEMORY]
        text = (
            f"Verification of one exposure of {self.size_bytes / 1e6:.0f} MB with DATASUM and CHECKSUM, in the page "
            "cache, one core. The floor is reading once and SHA-256 of as many bytes in memory; the last column is the "
            "time in units of the floor."
        )
        rows = [
            f"| {name} | {1000 * s:.0f} | {self.size_bytes / 1e9 / s:.2f} | {s / floor:.2f} |"
            for name, s in self.seconds.items()
        ]
        return [text, "", "| what | CPU ms | GB/s | of the floor |", "| --- | ---: | ---: | ---: |", *rows]


def _cpu_s() -> float:
    """Return the CPU seconds of this process and of those it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _read(path: Path) -> None:
    with path.open("rb", buffering=0) as stream:
        buffer = bytearray(CHUNK)
        while stream.readinto(buffer):
            pass


def _hash_in_memory(path: Path) -> None:
    digest, chunk = hashlib.sha256(), bytes(CHUNK)
    for _ in range(path.stat().st_size // CHUNK):
        digest.update(chunk)


def _verify(path: Path) -> None:
    report = verify_file(path)
    if not report.ok or report.warnings:
        raise RuntimeError(f"{path.name} should be sound: {report.problems} {report.warnings}")


def _hash(path: Path) -> None:
    sha256_file(path)


def _verify_and_hash(path: Path) -> None:
    _verify(path)
    _hash(path)


def _astropy(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fits.open(path, checksum=True, do_not_scale_image_data=True) as units:
            for unit in units:
                _ = unit.data


def _run(*words: str) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        subprocess.run([*words, str(path)], check=True, capture_output=True)

    return run


def measure_sums(path: Path, rounds: int = 3) -> Summed:
    """Time everything on one file, the cheapest of the rounds counts; tools that are not on PATH are left out."""
    actions: dict[str, Callable[[Path], None]] = {
        "read": _read,
        _IN_MEMORY: _hash_in_memory,
        "sha256sum": _run("sha256sum"),
        "Spica: sha256": _hash,
        "Spica: verify": _verify,
        "**Spica: verify and sha256**": _verify_and_hash,
        "astropy, checksum=True": _astropy,
    }
    if shutil.which("fitsverify"):
        actions["fitsverify"] = _run("fitsverify", "-q")
    _read(path)
    seconds = dict.fromkeys(actions, float("inf"))
    for _ in range(rounds):
        for name, action in actions.items():
            began = _cpu_s()
            action(path)
            seconds[name] = min(seconds[name], _cpu_s() - began)
    return Summed(path.stat().st_size, seconds)
