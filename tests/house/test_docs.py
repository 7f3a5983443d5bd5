"""The pages say what the code does: blocks are up to date, words are all there, examples are read by the code."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest
from PIL import Image

from spica.cli.main import VERBS, spica
from spica.files import workspace
from spica.files.source import FileLimits
from spica.instruments.keys import PROFILE_KEYS, TABLES, UNITS, keys_of
from spica.instruments.profile import parse_profile
from spica.model.errors import SpicaError
from spica.model.grade import Grade
from spica.model.job import ARROWS, AttemptState, ExitCode, JobKind, JobState, Outcome
from spica.model.recipe import read_recipe, section_class, section_names
from spica.model.selection import FIELDS, parse_rule

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_MARK = re.compile(r"<!-- generated:([a-z-]+) -->\n(.*?)<!-- /generated:\1 -->", re.DOTALL)


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def fences(text: str, *languages: str) -> list[str]:
    return [body for language, body in _FENCE.findall(text) if language in languages]


def anchors(text: str) -> set[str]:
    """Return the anchors that headings make, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.fixture(scope="session")
def generator() -> ModuleType:
    """Return `docs/generate.py` as a module."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_blocks_are_up_to_date():
    done = subprocess.run(
        [sys.executable, str(DOCS / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_block_stands_in_one_page(generator):
    found = [name for path in PAGES for name, _ in _MARK.findall(path.read_text(encoding="utf-8"))]
    assert sorted(found) == sorted(generator.BLOCKS)


def test_a_page_that_is_behind_is_seen_and_mended(generator, tmp_path, monkeypatch, capsys):
    stale = tmp_path / "states.md"
    stale.write_text(re.sub(r"`WAITING`", "`WAITING_LONG`", page("states.md")))
    monkeypatch.setattr(generator, "DOCS", tmp_path)
    monkeypatch.setattr(generator, "ROOT", tmp_path)
    assert generator.main(["--check"]) == 1
    assert "WAITING_LONG" in stale.read_text()
    assert "make docs" in capsys.readouterr().out
    assert generator.main([]) == 0
    assert stale.read_text() == page("states.md")
    assert generator.main(["--check"]) == 0


def test_bars_in_cells_do_not_break_a_table(generator):
    assert generator.table(("a", "b"), [("x|y", 1)]).splitlines()[-1] == "| x\\|y | 1 |"


# Every word is somewhere ----------------------------------------------------------------------------------------------


def test_every_recipe_parameter_is_described():
    text = page("recipes.md")
    for section in section_names():
        _, _, body = text.partition(f"### [{section}]\n")
        body = body.partition("\n### ")[0]
        for field in dataclasses.fields(section_class(section)):
            assert f"| `{field.name}` |" in body, f"[{section}] {field.name}"
            assert field.metadata["help"] in body


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_described(verb):
    command = spica.get_command(click.Context(spica), verb)
    assert command is not None
    _, found, body = page("cli.md").partition(f"### spica {verb}\n")
    assert found
    body = body.partition("\n### ")[0]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert all(name in body for name in parameter.opts), parameter.opts


@pytest.mark.parametrize("words", [JobState, AttemptState, ARROWS, Outcome, JobKind])
def test_every_state_arrow_and_outcome_is_described(words):
    assert [w.value for w in words if f"`{w.value}`" not in page("states.md")] == []


def test_every_exit_code_is_described():
    text = page("states.md")
    assert [int(e) for e in ExitCode if f"| {int(e)} | " not in text] == []
    doors = {e.door_code for e in (SpicaError, *SpicaError.__subclasses__())} | {0}
    for shown in (text, (ROOT / "README.md").read_text(encoding="utf-8")):
        table = shown.partition("| 0 | every input")[2]
        assert [d for d in doors - {0} if f"\n| {d} | " not in table] == []


def test_every_rule_field_is_described():
    text = page("rules.md")
    for field in FIELDS.values():
        assert f"| `{field.name}` |" in text
        assert field.text in text
        assert all(f"`{c}`" in text for c in field.choices)


def test_every_key_of_the_configuration_is_described():
    text = page("workspace.md")
    keys = [*workspace._KEYS, *(f"limits.{f.name}" for f in dataclasses.fields(FileLimits))]
    assert [k for k in keys if f"| `{k}` |" not in text] == []
    assert [f for f in workspace.FOLDERS if f"`{f}/`" not in text] == []


def test_every_environment_variable_is_described(modules):
    named = {w for p in modules for w in re.findall(r"\bSPICA_[A-Z_]+\b", p.read_text(encoding="utf-8"))}
    assert named
    assert [w for w in sorted(named) if f"`{w}`" not in page("workspace.md")] == []


def test_every_decision_is_listed():
    index = page("decisions/README.md")
    kept = [p.name for p in (DOCS / "decisions").glob("[0-9]*.md")]
    assert len(kept) >= 7
    assert [name for name in kept if f"]({name})" not in index] == []
    for name in kept:
        text = page(f"decisions/{name}")
        assert text.startswith(f"# {name[:4]} ")
        assert all(word in text for word in ("**Decided.**", "**Why.**", "**Costs.**")), name


def test_every_dependency_has_its_reason(root):
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    names = [re.split(r"[\[<>=~! ;]", entry)[0] for entry in wanted]
    text = page("decisions/0002-dependencies.md")
    assert [n for n in names if not re.search(rf"\b{re.escape(n)}\b", text)] == []


# Pictures -------------------------------------------------------------------------------------------------------------


def load_night_shift() -> ModuleType:
    """Return the night at the pages that takes the pictures."""
    spec = importlib.util.spec_from_file_location("night_shift", ROOT / "tests" / "walk" / "night_shift.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["night_shift"] = module
    spec.loader.exec_module(module)
    return module


def test_every_picture_is_shown_and_every_one_shown_is_there():
    shown = {
        (path.parent / target).resolve()
        for path in PAGES
        for target in re.findall(r"!\[[^\]]+\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    }
    assert shown == set((DOCS / "pictures").iterdir())


def test_words_that_the_guide_quotes_from_the_pages_stand_there():
    web = ROOT / "web" / "spica_web"
    said = "".join(
        p.read_text(encoding="utf-8") for p in (*web.rglob("*.html"), *web.rglob("*.py"), *web.rglob("*.js"))
    )
    quoted = set(re.findall(r"\*\*([^*]+?)\.?\*\*", page("operators.md").replace("\n", " ")))
    assert len(quoted) > 20
    assert sorted(w for w in quoted if w not in said) == []


def test_the_night_takes_every_picture_of_the_guide():
    shift = load_night_shift()
    kept = {p.name for p in (DOCS / "pictures").iterdir()} - {"demo.png"}
    assert kept == set(shift.PICTURES)
    text = (ROOT / "tests" / "walk" / "night_shift.py").read_text(encoding="utf-8")
    stations = re.findall(r"self\.station\(\"([\w.-]+)\"", text)
    assert sorted(stations) == sorted(shift.PICTURES)
    for name, size in shift.PICTURES.items():
        path = DOCS / "pictures" / name
        assert Image.open(path).size == size
        assert path.stat().st_size < shift.MAX_PICTURE_BYTES, name


# Examples are read by the code they are about -------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for target in _LINK.findall(_FENCE.sub("", text)):
        if target.startswith(("http:", "https:")):
            continue
        name, _, anchor = target.partition("#")
        to = (path.parent / name).resolve() if name else path
        assert to.exists(), f"{target} of {path.name} is not there"
        if anchor:
            assert anchor in anchors(to.read_text(encoding="utf-8")), target


def shown_commands() -> list[tuple[str, list[str]]]:
    """Return every `spica ...` line of a shell block, with the page it stands in."""
    found = []
    for path in PAGES:
        for body in fences(path.read_text(encoding="utf-8"), "sh"):
            for line in body.splitlines():
                words = shlex.split(line, comments=True)
                while "spica" in words:
                    words = words[words.index("spica") + 1 :]
                    end = next((i for i, w in enumerate(words) if w in ("&&", ";", "|")), len(words))
                    if words and words[0] in VERBS:
                        found.append((path.name, words[:end]))
    return found


@pytest.mark.parametrize(("name", "words"), shown_commands(), ids=lambda x: " ".join(x) if isinstance(x, list) else x)
def test_shown_commands_are_known(name, words):
    command = spica.get_command(click.Context(spica), words[0])
    rest = words[1:]
    if isinstance(command, click.Group):
        command = command.get_command(click.Context(command), rest[0])
        rest = rest[1:]
    assert command is not None
    options = {o: p for p in command.params if isinstance(p, click.Option) for o in p.opts}
    values: dict[str, str] = {}
    for i, word in enumerate(rest):
        if word.startswith("--"):
            assert word in options, f"{name}: spica {words[0]} has no {word}"
            if not options[word].is_flag:
                values[word] = rest[i + 1]
    if values.get("--rule", "").startswith("@"):
        assert words[0] == "schedule", f"{name}: only spica schedule takes a saved rule"
        del values["--rule"]
    for option, read in (("--rule", parse_rule), ("--set", lambda text: read_recipe([], [text]))):
        if option in values:
            read(values[option])
    choices = [p.type for p in command.params if isinstance(p.type, click.Choice) and isinstance(p, click.Argument)]
    plain = [w for i, w in enumerate(rest) if not w.startswith("--") and (i == 0 or rest[i - 1] not in values)]
    assert all(any(w in c.choices for w in plain) or not plain[1:] for c in choices)


def test_enough_commands_are_shown():
    shown = {words[0] for _, words in shown_commands()}
    assert {"init", "migrate", "ingest", "schedule", "stacks", "why", "grade", "web", "retry", "hold"} <= shown


def test_shown_rules_are_read():
    rules = [r for body in fences(page("rules.md"), "text") for r in body.splitlines() if r and not r.startswith("#")]
    assert len(rules) >= 9
    for rule in rules:
        parse_rule(rule)


def test_every_shipped_rule_is_listed():
    from spica.model.selection.shipped import FOLDER, shipped_rules

    listed = re.findall(r"^\| `([\w-]+\.toml)` \| (.+) \|$", page("rules.md"), re.MULTILINE)
    files = sorted(p.name for p in FOLDER.glob("*.toml"))
    assert listed == list(zip(files, (r.title for r in shipped_rules()), strict=True))


def test_the_rules_of_surveys_choose_as_published():
    from spica.model.selection import Candidate, evaluate

    t0003, t0004, megapipe = (
        parse_rule(r) for r in fences(page("rules.md"), "text")[-1].splitlines() if r[:1] not in "#"
    )
    good = Candidate(
        seeing_arcsec=1.2,
        exptime_s=300.0,
        airmass=1.3,
        skyprobe_mag=0.1,
        grade=Grade.B,
        filter="r",
        zero_point_mag=26.0,
    )
    assert (evaluate(t0003, good), evaluate(t0004, good), evaluate(megapipe, good)) == (False, True, True)
    u_band = dataclasses.replace(good, filter="u", seeing_arcsec=1.35)
    assert (evaluate(t0003, u_band), evaluate(t0004, u_band)) == (True, True)
    assert evaluate(t0004, dataclasses.replace(good, skyprobe_mag=None)) is None
    assert evaluate(megapipe, dataclasses.replace(good, exptime_s=49.0)) is False


def test_the_table_of_unknown_values_is_the_evaluators():
    from spica.model.selection import Candidate, evaluate

    word = {True: "true", False: "false", None: "unknown"}
    clause = {"true": "exptime = 1", "false": "exptime = 2", "unknown": "seeing = 1"}
    image = Candidate(exptime_s=1.0)
    rows = re.findall(r"^\| (\w+) \| (\w+) \| (\w+) \| (\w+) \| (\w+) \|$", page("rules.md"), re.MULTILINE)
    rows = [r for r in rows if r[0] in clause]
    assert len(rows) == 6
    for a, b, both, either, negated in rows:
        assert word[evaluate(parse_rule(f"{clause[a]} and {clause[b]}"), image)] == both
        assert word[evaluate(parse_rule(f"{clause[a]} or {clause[b]}"), image)] == either
        assert word[evaluate(parse_rule(f"not {clause[a]}"), image)] == negated


def test_the_shown_recipe_is_read(tmp_path):
    path = tmp_path / "deep.toml"
    path.write_text(fences(page("recipes.md"), "toml")[0])
    recipe = read_recipe([path], [])
    assert recipe.name == "deep"
    assert recipe.catalogue.apertures_arcsec == (1.0, 2.0, 4.0)
    assert recipe.deliver.pdf is False


def test_the_shown_profile_is_read():
    camera = parse_profile(fences(page("instruments.md"), "toml")[0], "mycam.toml")
    assert camera.name == "mycam"
    assert camera.grade_limits("u")["A"].seeing_arcsec == 1.2
    assert camera.grade_limits("u")["B"].n_stars == 30
    assert camera.companions[0].name_for("0001.fits") == "0001.weight.fits"
    assert (camera.time.marks, camera.checksums) == ("start", "warn")
    assert [rule.frame_type for rule in camera.frame_rules] == ["flat", "other"]


def test_every_key_of_a_profile_is_described():
    text = page("instruments.md").partition("## Every key")[2]
    for table, (heading, sentence) in TABLES.items():
        _, found, body = text.partition(f"### {heading}\n")
        assert found, table
        body = body.partition("\n### ")[0]
        assert sentence in body
        for key in keys_of(table).values():
            assert f"| `{key.key}` | " in body, f"{table} {key.key}"
            assert key.text.replace("|", "\\|") in body
            assert all(f"`{choice}`" in body for choice in key.choices if choice and key.key != "unit")
    units = text.partition("### Units\n")[2]
    assert [u for u in UNITS if u and f"| `{u}` | " not in units] == []


def test_keys_that_cure_a_trap_are_keys_of_a_profile():
    text = page("instruments.md").partition("## Traps")[2].partition("\n## ")[0]
    cures = "\n".join(line.rpartition(" | ")[2] for line in text.splitlines() if line.startswith("| "))
    words = {
        w for code in re.findall(r"`([^`]+)`", cures) for w in re.findall(r"[a-z][a-z_]{3,}", code.partition("=")[0])
    }
    known = {key.key for key in PROFILE_KEYS} | {"spica", "calibration", "make", "ingest", "verify"}
    values = {str(choice) for key in PROFILE_KEYS for choice in key.choices}
    assert len(words) > 30
    assert sorted(words - known - values - set(UNITS)) == []


def test_the_shown_configuration_is_read(tmp_path):
    text = fences(page("workspace.md"), "toml")[0]
    without = "\n".join(line[2:] if re.match(r'# [a-z"][\w" .-]* = ', line) else line for line in text.splitlines())
    (tmp_path / "spica.toml").write_text(without)
    given = workspace.read_workspace(tmp_path)
    assert (given.node, given.place_mode, given.web_port) == ("cetus", "copy", 8765)
    assert given.object_aliases == {"ngc 224": "M31"}
    assert given.limits == FileLimits()
    assert str(given.roots["archive"]) == "/data/archive"
