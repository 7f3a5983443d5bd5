"""What the tests of the house itself share: its files, and the modules of its packages."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"spica": ROOT / "spica", "spica_web": ROOT / "web/spica_web", "spica_daemon": ROOT / "daemon/spica_daemon"}


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the top of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def kept_files() -> list[Path]:
    """Return the files that belong to the repository: what git keeps or would keep."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    names = listed.stdout.decode().split("\0")
    return sorted(ROOT / name for name in names if name and (ROOT / name).is_file())


@pytest.fixture(scope="session")
def modules() -> list[Path]:
    """Return the modules of all packages."""
    return sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))
