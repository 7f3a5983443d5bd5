"""The workspace: the folder of a survey, its configuration, and the names of the places where files lie.

No absolute path enters the database. A file is named by a root (`incoming data jobs outgoing`, further ones) and a path
below it; what a root is on a node stands in that node's configuration: `spica.toml`, and `nodes/<node>.json`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import socket
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from spica.files.checksum import write_atomic
from spica.files.slug import slug
from spica.files.source import FileLimits
from spica.model.errors import RecipeError, TransientError, UsageError

CONFIG = "spica.toml"
ROOTS = ("incoming", "data", "jobs", "outgoing")
FOLDERS = (*ROOTS, "db", "reference", "recipes", "instruments", "nodes", "cache")
PLACES = ("link", "copy", "leave")
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_TEMPLATE = """\
# Configuration of this Spica survey. Lines that begin with # show the defaults.

survey = {survey}

# The database. Without this line a PostgreSQL of Spica's own runs in db/ while it is needed.
# database = "postgresql+psycopg://user:password@host:5432/name"

# Name of this node in a cluster; by default the host name.
# node = "{node}"

# Jobs that a daemon of this node runs at once; 0: one a core.
# slots = 0

# How an exposure gets its place in data/: "copy" it (reflink where the file system can), hard "link" it, or "leave" it
# where it came in.
# place = "copy"

[web]
# host = "127.0.0.1"
# port = 8765
# Visitors without a name see survey, exposures, stacks and rules: false, true, or host names at which they do.
# public = false

# Further folders of this node where files may lie: a name and an absolute path.
[roots]
# archive = "/data/archive"

# Other spellings of an object in headers, and the one to use.
[aliases]
# "ngc 224" = "M31"

# What a file may claim before it is refused.
[limits]
# max_hdus = {limits.max_hdus}
# max_pixels = {limits.max_pixels}
# max_unpacked_bytes = {limits.max_unpacked_bytes}
# max_header_bytes = {limits.max_header_bytes}
"""
_KEYS: dict[str, type] = {
    "survey": str,
    "database": str,
    "node": str,
    "slots": int,
    "place": str,
    "web": dict,
    "roots": dict,
    "aliases": dict,
    "limits": dict,
}


@dataclass(frozen=True)
class Workspace:
    """One survey as one node sees it.

    `roots` maps names to absolute folders of this node; `slots` is 0 where the number of cores counts; `place` says how
    an exposure gets to `data/` (`copy`, `link`, `leave`); `web_public` are the host names at
    which visitors without a name may look, `*` every one; `fsync` False is for tests only.
    """

    folder: Path
    survey: str
    node: str
    roots: dict[str, Path]
    database_url: str | None = None
    object_aliases: dict[str, str] = field(default_factory=dict)
    web_host: str = "127.0.0.1"
    web_port: int = 8765
    web_public: tuple[str, ...] = ()
    slots: int = 0
    place_mode: str = "copy"
    limits: FileLimits = field(default_factory=FileLimits)
    fsync: bool = True

    @property
    def recipes_folder(self) -> Path:
        """Folder of the survey's own recipes."""
        return self.folder / "recipes"

    @property
    def instruments_folder(self) -> Path:
        """Folder of the survey's own instrument profiles."""
        return self.folder / "instruments"

    @property
    def reference_folder(self) -> Path:
        """Folder of the local reference catalogues."""
        return self.folder / "reference"

    @property
    def cache_folder(self) -> Path:
        """Folder of compiled kernels, one for all workspaces of a user; may be deleted at any time."""
        return kernel_cache(self.folder / "cache")

    @property
    def runtime_folder(self) -> Path:
        """Short folder for sockets, of this user and workspace; whoever needs it makes it. `SPICA_RUNTIME` moves it."""
        digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:12]
        base = os.environ.get("SPICA_RUNTIME") or "/tmp"  # noqa: S108  the folder in it is made private
        return Path(base) / f"spica-{os.geteuid()}" / digest

    def as_node(self, name: str, data_root: Path | None = None) -> Workspace:
        """Return this workspace as another node of this host sees it: its own name and, where given, its own data root.

        The node's roots are written to its file, so that its neighbours find its files.
        """
        roots = {k: v for k, v in self.roots.items() if not k.startswith("at-")}
        if data_root is not None:
            with _written(data_root):
                data_root.mkdir(parents=True, exist_ok=True)
            roots["data"] = data_root.resolve()
        node = dataclasses.replace(self, node=_checked_node(name, "node"), roots=roots)
        node = dataclasses.replace(node, roots={**(_read_node(node.folder, node.node) or {}), **roots})
        node.save_roots()
        return node

    def place(self, root: str, relative: str | PurePosixPath) -> Path:
        """Return where a file lies on this node.

        Raises
        ------
        RecipeError
            Where this node has no such root.
        UsageError
            Where the path is absolute or leaves its root.
        """
        roots = self.roots if root in self.roots else {**(_read_node(self.folder, self.node) or {}), **self.roots}
        if root not in roots:
            raise RecipeError(f"node {self.node} has no root {root!r}; name its folder under [roots] in {CONFIG}")
        return place_below(roots[root], relative)

    def locate(self, path: Path) -> tuple[str, str]:
        """Return (root, path below it) of a file on this node, the deepest root that holds it.

        A folder outside all roots becomes a root of this node itself, named `at-<8 hex of its path's sha256>`, and is
        kept in `nodes/<node>.json`.
        """
        path = Path(os.path.abspath(path))
        known = {**(_read_node(self.folder, self.node) or {}), **self.roots}
        for form in (path, path.parent.resolve() / path.name):
            holding = [(name, folder) for name, folder in known.items() if form.is_relative_to(folder)]
            if holding:
                name, folder = max(holding, key=lambda entry: len(entry[1].parts))
                return name, form.relative_to(folder).as_posix()
        folder = path.parent.resolve()
        name = "at-" + hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]
        self.roots[name] = folder
        self.save_roots()
        return name, path.name

    def peer_roots(self, node: str) -> dict[str, Path] | None:
        """Return the roots of another node that shares this folder (same host or disk); None where it has none here."""
        return _read_node(self.folder, node) if _NODE.fullmatch(node) else None

    def save_roots(self) -> None:
        """Write this node's roots to its file, where neighbours and later commands find them."""
        if (_read_node(self.folder, self.node) or {}).items() >= self.roots.items():
            return
        path = _node_file(self.folder, self.node)
        with _written(path.parent), path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            merged = {**(_read_node(self.folder, self.node) or {}), **self.roots}
            content = {name: str(folder) for name, folder in sorted(merged.items())}
            write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())


def kernel_cache(otherwise: Path) -> Path:
    """Return the user's folder of compiled kernels (`SPICA_CACHE` moves it), or `otherwise` where there is no home."""
    named = os.environ.get("SPICA_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("HOME") and f"{os.environ['HOME']}/.cache")
    return Path(base) / "spica" / "kernels" if base else otherwise


def place_below(folder: Path, relative: str | PurePosixPath) -> Path:
    """Return a path below a folder; UsageError where it is absolute, empty or leaves the folder."""
    parts = PurePosixPath(relative).parts
    text = str(relative)
    if not parts or text.startswith("/") or ".." in parts or "\0" in text:
        raise UsageError(f"{text!r} is no path below {folder}; give one without .. and without / before it")
    path = folder.joinpath(*parts)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{path} leads out of {folder} by a link; remove the link")
    return path


def init_workspace(folder: Path) -> Workspace:
    """Make a workspace, or complete one; nothing that exists is overwritten.

    Raises
    ------
    TransientError
        Where the folder cannot be written.
    """
    folder = Path(os.path.abspath(folder))
    with _written(folder):
        for name in FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)
    config = folder / CONFIG
    if not config.exists():
        survey = json.dumps(slug(folder.name, "survey"))
        text = _TEMPLATE.format(survey=survey, node=_host_name(), limits=FileLimits())
        with _written(folder):
            write_atomic(config, text.encode())
    workspace = read_workspace(folder)
    workspace.save_roots()
    return workspace


def find_workspace(explicit: Path | None = None) -> Workspace:
    """Return the workspace named, that of `SPICA_WORKSPACE`, or the nearest from the working folder upwards.

    Raises
    ------
    UsageError
        Where there is none.
    RecipeError
        Where its configuration is wrong; the key is named.
    TransientError
        Where a named folder is not there or cannot be read.
    """
    named = explicit or (Path(os.environ["SPICA_WORKSPACE"]) if os.environ.get("SPICA_WORKSPACE") else None)
    if named is not None:
        folder = Path(os.path.abspath(named.parent if named.name == CONFIG else named))
        if not folder.is_dir():
            raise TransientError(f"the workspace {folder} is not there; mount it, or make it: spica init {folder}")
        if not (folder / CONFIG).exists():
            raise UsageError(f"{folder} is no workspace; run: spica init {folder}")
        return read_workspace(folder)
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / CONFIG).is_file():
            return read_workspace(folder)
    raise UsageError("no workspace here; run: spica init")


def read_workspace(folder: Path) -> Workspace:
    """Read `spica.toml` of a folder."""
    path = folder / CONFIG
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as trouble:
        raise TransientError(f"{path} cannot be read ({trouble.strerror}); check the disk and its rights") from trouble
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as trouble:
        raise RecipeError(f"{path}: {trouble}; correct it") from trouble
    _check_keys(path, data)
    node = _checked_node(data.get("node") or _host_name(), f"{path}: node")
    own = {name: _absolute(path, name, value) for name, value in data.get("roots", {}).items()}
    roots = {**{name: folder / name for name in ROOTS}, **own}
    web = data.get("web", {})
    return Workspace(
        folder=folder,
        survey=data.get("survey", folder.name),
        node=node,
        roots={**(_read_node(folder, node) or {}), **roots},
        database_url=data.get("database") or None,
        object_aliases=_strings(path, "aliases", data.get("aliases", {})),
        web_host=_typed(path, "web.host", web.get("host", "127.0.0.1"), str),
        web_port=_number(path, "web.port", web.get("port", 8765), 0, 65535),
        web_public=_read_public(path, web.get("public", False)),
        slots=_number(path, "slots", data.get("slots", 0), 0, 4096),
        place_mode=_choice(path, "place", data.get("place", "copy")),
        limits=_read_limits(path, data.get("limits", {})),
    )


# Reading --------------------------------------------------------------------------------------------------------------


def _check_keys(path: Path, data: dict[str, Any]) -> None:
    for key, value in data.items():
        if key not in _KEYS:
            raise RecipeError(f"{path}: unknown key {key!r}; known are {' '.join(_KEYS)}")
        _typed(path, key, value, _KEYS[key])
    unknown = set(data.get("web", {})) - {"host", "port", "public"}
    if unknown:
        raise RecipeError(f"{path}: unknown key 'web.{min(unknown)}'; known are host port public")


def _typed(path: Path, key: str, value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        words = {str: "a text in quotes", int: "a whole number", dict: "a table"}
        raise RecipeError(f"{path}: {key} must be {words[kind]}, found {value!r}; correct it")
    return value


def _number(path: Path, key: str, value: Any, low: int, high: int) -> int:
    number: int = _typed(path, key, value, int)
    if not low <= number <= high:
        raise RecipeError(f"{path}: {key} = {number} is outside {low}..{high}; correct it")
    return number


def _read_public(path: Path, value: Any) -> tuple[str, ...]:
    hosts = (["*"] if value else []) if isinstance(value, bool) else value
    if not isinstance(hosts, list) or not all(isinstance(host, str) and host for host in hosts):
        raise RecipeError(
            f"{path}: web.public must be true, false or a list of host names, found {value!r}; correct it"
        )
    return tuple(host.lower() for host in hosts)


def _choice(path: Path, key: str, value: str) -> str:
    if value not in PLACES:
        raise RecipeError(f"{path}: {key} = {value!r} is none of {' '.join(PLACES)}; choose one")
    return value


def _strings(path: Path, key: str, table: dict[str, Any]) -> dict[str, str]:
    return {name: _typed(path, f"{key}.{name}", value, str) for name, value in table.items()}


def _absolute(path: Path, name: str, value: Any) -> Path:
    folder = Path(_typed(path, f"roots.{name}", value, str)).expanduser()
    if not _NODE.fullmatch(name) or name.startswith("at-") or name == "jobs":
        raise RecipeError(f"{path}: roots.{name} may not be used as a name; choose a short word")
    if not folder.is_absolute():
        raise RecipeError(f"{path}: roots.{name} = {value!r} is no absolute path; write it from / on")
    return folder


def _read_limits(path: Path, table: dict[str, Any]) -> FileLimits:
    known = {f.name for f in dataclasses.fields(FileLimits)}
    for key, value in table.items():
        if key not in known:
            raise RecipeError(f"{path}: unknown key 'limits.{key}'; known are {' '.join(sorted(known))}")
        _number(path, f"limits.{key}", value, 1, 2**62)
    return FileLimits(**table)


def _checked_node(name: str, key: str) -> str:
    if not _NODE.fullmatch(name):
        raise RecipeError(f"{key} = {name!r} is no name of a node; use letters, digits, dot, - and _")
    return name


def _host_name() -> str:
    return slug(socket.gethostname().partition(".")[0], "node")


def _node_file(folder: Path, node: str) -> Path:
    return folder / "nodes" / f"{node}.json"


def _read_node(folder: Path, node: str) -> dict[str, Path] | None:
    path = _node_file(folder, node)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as trouble:
        raise TransientError(f"{path} cannot be read ({trouble.strerror}); check the disk and its rights") from trouble
    except ValueError as trouble:
        raise RecipeError(f"{path} is no JSON ({trouble}); delete it, it is written again") from trouble
    if not isinstance(data, dict) or not all(isinstance(v, str) for v in data.values()):
        raise RecipeError(f"{path} holds no table of folders; delete it, it is written again")
    return {name: Path(value) for name, value in data.items()}


@contextlib.contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as trouble:
        why = f"{folder} cannot be written ({trouble.strerror})"
        raise TransientError(f"{why}; make it writable or choose another folder") from trouble
