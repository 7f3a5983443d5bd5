"""The built wheel holds all and only what runs, and runs where there is no checkout."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from numba.core.caching import UserProvidedCacheLocator

from spica.files.workspace import kernel_cache

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("spica", "web", "daemon", "migrations", "pyproject.toml", "setup.py", "README.md", "LICENSE")
PLACES = {
    "spica": "spica",
    "web/spica_web": "spica_web",
    "daemon/spica_daemon": "spica_daemon",
    "migrations": "spica/migrations",
}
DEMO_LIMIT_S = 900


def clean_environment(home: Path) -> dict[str, str]:
    """Return an environment without a trace of the checkout; packages are found as in the caller's."""
    kept = ("PIP_", "UV_", "SSL_", "REQUESTS_", "http", "HTTP", "no_proxy", "NO_PROXY")
    own = {k: v for k, v in os.environ.items() if k.startswith(kept)}
    return {
        **own, "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(home), "UV_PYTHON_DOWNLOADS": "never",
        "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache/uv")),
    }  # fmt: skip


def run(words: list[str], folder: Path, env: dict[str, str], limit_s: float = 300.0) -> str:
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=limit_s, check=False)
    assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel built from a copy of the sources, so that no older build leaks into it."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy2(source, folder / name)
    out = tmp_path_factory.mktemp("wheel")
    if shutil.which("uv"):
        build = ["uv", "build", "--quiet", "--wheel", "--python", sys.executable, "--out-dir", str(out)]
    else:
        build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(out)]
    run(build, folder, clean_environment(folder))
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="session")
def held(wheel: Path) -> set[str]:
    """Return the names of the files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {n for n in archive.namelist() if not n.endswith("/")}


def test_the_wheel_holds_every_file_of_the_packages(held):
    missing = []
    for folder, place in PLACES.items():
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                name = f"{place}/{path.relative_to(ROOT / folder).as_posix()}"
                if name not in held:
                    missing.append(name)
    assert missing == [], "name these under [tool.setuptools.package-data]"


@pytest.mark.parametrize(
    "pattern",
    [
        "spica/instruments/profiles/generic.toml",
        "spica/plots/spica.mplstyle",
        "spica/migrations/versions/0001_initial.py",
        "spica/migrations/script.py.mako",
        "spica_web/templates/",
        "spica_web/static/",
        "spica/py.typed",
        "spica_web/py.typed",
        "spica_daemon/py.typed",
    ],
)
def test_the_wheel_holds_what_is_no_module(held, pattern):
    assert any(n.startswith(pattern) for n in held)


def test_the_wheel_holds_nothing_else(held):
    tops = {n.split("/")[0] for n in held}
    info = {t for t in tops if t.endswith(".dist-info")}
    assert tops - info == {"spica", "spica_web", "spica_daemon"}
    assert any(n.endswith("licenses/LICENSE") for n in held)
    assert [n for n in held if "/tests/" in n or n.endswith((".pyc", ".nbi", ".nbc", ".fits"))] == []


def test_the_wheel_tells_its_doors_and_seats(wheel, held):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in held if n.endswith(".dist-info/entry_points.txt"))
        text = archive.read(name).decode()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    targets = [*project["scripts"].values(), *(t for g in project["entry-points"].values() for t in g.values())]
    for target in targets:
        assert f" = {target}\n" in text
        module = target.partition(":")[0].replace(".", "/")
        assert held & {f"{module}.py", f"{module}/__init__.py"}, target


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the programs of a new environment that has the wheel and its pinned dependencies alone."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv, pins, env = folder / "venv", str(ROOT / "constraints.txt"), clean_environment(folder)
    if shutil.which("uv"):
        run(["uv", "venv", "--quiet", "--python", sys.executable, str(venv)], folder, env)
        install = ["uv", "pip", "install", "--quiet", "--python", str(venv / "bin/python")]
    else:
        run([sys.executable, "-m", "venv", str(venv)], folder, env)
        install = [str(venv / "bin/python"), "-m", "pip", "install", "--quiet", "--no-compile"]
    run([*install, "--constraint", pins, str(wheel)], folder, env, 600.0)
    return venv / "bin"


def test_the_installed_wheel_knows_no_checkout(installed, tmp_path):
    names = ("spica", "spica_web", "spica_daemon", "spica.migrations")
    where = f"import importlib; print(*(importlib.import_module(n).__file__ for n in {names}))"
    said = run([str(installed / "python"), "-c", where], tmp_path, clean_environment(tmp_path))
    assert all(path.startswith(str(installed.parent)) for path in said.split())
    assert run([str(installed / "spica"), "--version"], tmp_path, clean_environment(tmp_path)).startswith(
        "spica, version"
    )


def lend_kernels(package: Path, cache: Path) -> None:
    """Copy what is compiled of the checkout to where an installed package looks for its own.

    A kernel bears the digest of its source, and is compiled anew where that is another: only time is lent. Those of the
    simulator are left out, so that the package compiles some itself.
    """
    place = UserProvidedCacheLocator.get_suitable_cache_subpath
    for module in sorted((ROOT / "spica" / "algorithms").rglob("__init__.py")):
        source = kernel_cache(ROOT / ".kernels") / place(str(module))
        if source.is_dir():
            shutil.copytree(source, cache / place(str(package / module.relative_to(ROOT / "spica"))))


@pytest.mark.walk
def test_the_installed_wheel_runs_the_demo(installed, tmp_path):
    env = clean_environment(tmp_path)
    where = "import pathlib, spica; print(pathlib.Path(spica.__file__).parent)"
    package = Path(run([str(installed / "python"), "-c", where], tmp_path, env).strip())
    lend_kernels(package, tmp_path / ".cache/spica/kernels")
    spica = str(installed / "spica")
    said = run([spica, "demo", "survey", "--headless", "--quick"], tmp_path, env, DEMO_LIMIT_S)
    assert list((package / "steps/simulate/__pycache__").glob("*.nbc")), "the wheel compiles kernels of its own"
    assert "stacks against the truth" in said
    stacks = json.loads(run([spica, "--workspace", "survey", "stacks", "--json"], tmp_path, env))
    assert {s["mode"] for s in stacks} == {"survey", "area", "single"}
    assert len(stacks) == 3
    for stack in stacks:
        assert stack["state"] == "delivered"
        folder = Path(stack["delivered_path"])
        folder = folder if folder.is_absolute() else tmp_path / "survey" / folder
        lines = (folder / "SHA256SUMS").read_text().splitlines()
        assert len(lines) >= 6
        for line in lines:
            digest, name = line.split("  ", 1)
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    jobs = json.loads(run([spica, "--workspace", "survey", "jobs", "--json"], tmp_path, env))
    assert {j["state"] for j in jobs} == {"SUCCEEDED"}
    images = json.loads(run([spica, "--workspace", "survey", "images", "--json"], tmp_path, env))
    refused = [i for i in images if i["state"] == "rejected"]
    assert len(images) == 6
    assert len(refused) == 2
    assert all(i["reason"] for i in refused)
    assert [i["grade"] for i in images if i not in refused].count("D") == 1, "the one out of focus"
