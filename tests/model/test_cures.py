"""Every class of error that exists has a cure, and every cure an act that can be ordered."""

from __future__ import annotations

import importlib
import itertools
import pkgutil

import pytest

import spica
from spica.model.cures import CURES, CureAct, cure_of
from spica.model.errors import SpicaError
from spica.model.job import ExitCode, Failure, Result
from spica_daemon.exits import Ended, Killed, classify_exit


def classes(root: type[SpicaError]) -> set[str]:
    return {root.kind} | {k for c in root.__subclasses__() for k in classes(c)}


def test_every_class_of_the_tree_has_a_cure() -> None:
    for room in ("model", "files", "db", "scheduling"):
        for module in pkgutil.iter_modules(importlib.import_module(f"spica.{room}").__path__, f"spica.{room}."):
            importlib.import_module(module.name)
    found = classes(SpicaError)
    assert {"data", "recipe", "conflict", "transient", "bug", "nothing", "usage"} <= found
    assert found <= set(CURES)
    assert spica.__version__


def test_every_end_of_a_process_has_a_cure() -> None:
    failed = Result(1, 1, "1", "stack", "native", "1", ExitCode.DATA, failure=Failure("data", "x"))
    codes = [None, *range(-64, 256)]
    kinds = {
        classify_exit(Ended(code, killed), result).kind
        for code, killed, result in itertools.product(codes, [None, *Killed], [None, failed])
    } - {None}
    assert {"out_of_memory", "time_limit", "signal", "killed", "no_result", "lost", "fenced", "cancelled"} <= kinds
    assert kinds <= set(CURES), kinds - set(CURES)


def test_no_cure_is_for_an_error_that_does_not_exist() -> None:
    ends = {"signal", "killed", "no_result", "lost", "out_of_memory", "time_limit", "fenced", "cancelled"}
    assert set(CURES) == classes(SpicaError) | ends


@pytest.mark.parametrize("kind", CURES)
def test_a_cure_says_something_and_can_be_ordered(kind: str) -> None:
    cure = CURES[kind]
    assert cure.text.endswith(".")
    assert len(cure.text) < 140
    assert cure.acts
    assert len(set(cure.acts)) == len(cure.acts)


def test_memory_and_time_are_cured_by_more_of_them() -> None:
    assert cure_of("out_of_memory").acts[0] is CureAct.RETRY_MEMORY
    assert cure_of("time_limit").acts[0] is CureAct.RETRY_TIME
    assert cure_of("recipe").acts == (CureAct.AGAIN,)  # the same recipe would fail again


@pytest.mark.parametrize(
    ("code", "kind"),
    [(0, "no_result"), (1, "bug"), (3, "bug"), (20, "data"), (21, "recipe"), (22, "conflict"), (75, "transient"),
     (-11, "signal"), (139, "signal"), (None, "bug")],
)  # fmt: skip
def test_a_class_of_a_plug_in_is_cured_by_its_exit_code(code: int | None, kind: str) -> None:
    assert cure_of("plugin's own", code) == CURES[kind]
