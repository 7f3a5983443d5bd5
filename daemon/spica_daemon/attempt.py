"""The life of one attempt, in a thread of its own: own checked copies, inputs, process, watch, harvest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spica.db.engine import Database
from spica.db.job import Claimed, FencedError, mark_started, note_late_result
from spica.files.jobfolder import RESULT, SCRIPT, attempt_folder, job_folder, write_inputs, write_job
from spica.files.workspace import Workspace
from spica.model.errors import ConflictError, SpicaError, TransientError
from spica.model.job import Inputs, Request, Result
from spica.model.record import from_json
from spica.scheduling.script import calls_step_alone
from spica_daemon.executors.local import StepProcess, find_process, start_process
from spica_daemon.executors.warm import WarmStarter
from spica_daemon.exits import Action, Decision, Ended, classify_exit
from spica_daemon.harvest import Field, harvest, read_left
from spica_daemon.inputs import resolve_inputs
from spica_daemon.place import DiskError, disk_errors
from spica_daemon.runner import Limits, Orders, step_environment, supervise
from spica_daemon.seat import pass_point

Render = Callable[[str, Request], str]
DATABASE_WAIT_S = (0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True)
class Site:
    """What all attempts of a daemon share. `render` is None where scripts are not rendered again."""

    database: Database
    workspace: Workspace
    node_id: int
    threads: int
    grace_s: float
    backoff_s: float
    render: Render | None
    warm: WarmStarter


@dataclass
class Attempt:
    """One attempt as this daemon lives it."""

    site: Site
    claimed: Claimed
    orders: Orders

    @property
    def folder(self) -> Path:
        """Folder of this attempt."""
        return attempt_folder(self.site.workspace.roots["jobs"], self.claimed.job_id, self.claimed.number)

    def live(self) -> None:
        """Run a newly claimed attempt to its end."""
        self._guard(self._live)

    def take_over(self, process: StepProcess) -> None:
        """Watch the process of an attempt that an earlier daemon began."""
        self._guard(lambda: self._watch(process))

    def clean_up(self) -> None:
        """End an attempt whose process is gone: by its result where that is whole, else it is tried again."""
        self._guard(lambda: self._finish(Ended(None)))

    def _guard(self, do: Callable[[], None]) -> None:
        try:
            do()
        except FencedError:
            self._note_late()
        except Exception:  # noqa: BLE001  the daemon's loop: a bug of one attempt must not end the others
            self._end_with(Ended(None), _bug())

    def _live(self) -> None:
        try:
            process = self._begin()
        except FencedError:
            raise
        except SpicaError as trouble:
            self._end_with(Ended(None), _decide(trouble))
        else:
            self._watch(process)

    def _begin(self) -> StepProcess:
        claimed, workspace = self.claimed, self.site.workspace
        request = self._checked_request()
        with disk_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "tmp").mkdir(exist_ok=True)
            workspace.cache_folder.mkdir(parents=True, exist_ok=True)
            home = job_folder(workspace.roots["jobs"], claimed.job_id)
            write_job(home, claimed.script, claimed.request)
        found = resolve_inputs(self.site.database, workspace, self.site.node_id, request)
        inputs = Inputs(claimed.job_id, claimed.number, str(claimed.fence), found.inputs, found.left_out)
        with disk_errors():
            write_inputs(self.folder, inputs)
            environment = step_environment(os.environ, workspace.cache_folder, self.folder, self.site.threads)
            warm = self.site.warm.start(self.folder, environment) if calls_step_alone(claimed.script) else None
            process = warm or start_process(home / SCRIPT, self.folder, environment)
        try:
            with self.site.database.begin() as session:
                mark_started(session, claimed.attempt_id, claimed.fence, process.pid, process.started)
        except TransientError:
            pass  # its number stands in its folder; the lease is renewed when the database is back
        except FencedError:
            process.close()
            raise
        pass_point("during_step")
        return process

    def _checked_request(self) -> Request:
        """Return the request as it was planned: texts have the hashes in the row, and the script is what we render."""
        claimed = self.claimed
        for what, text, digest in (
            ("request", claimed.request, claimed.request_sha256),
            ("script", claimed.script, claimed.script_sha256),
        ):
            if hashlib.sha256(text.encode()).hexdigest() != digest:
                raise ConflictError(
                    f"the {what} of job {claimed.job_id} was changed after it was planned; plan it again"
                )
        request = from_json(Request, json.loads(claimed.request), "request")
        if self.site.render is not None and self.site.render(claimed.kind, request) != claimed.script:
            raise ConflictError(
                f"the script of job {claimed.job_id} is not what this version of Spica renders from its request; "
                "it was planned by another version or changed: plan it again"
            )
        return request

    def _watch(self, process: StepProcess) -> None:
        limits = Limits(self.claimed.time_limit_s, self.claimed.memory_mb, self.site.grace_s)
        ended = supervise(process, limits, self.orders)
        if ended is None:
            process.forget()
            return
        pass_point("after_result")
        self._finish(ended)

    def _finish(self, ended: Ended) -> None:
        left = read_left(self.folder, self.claimed)
        decision = classify_exit(ended, left.result, left.flaw)
        self._end_with(ended, decision, left.result)

    def _end_with(self, ended: Ended, decision: Decision, result: Result | None = None) -> None:
        """Carry out a decision, again and again while the database is away; a fenced attempt leaves only a note."""
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)
        if decision.action is Action.LEAVE:
            self._note_late()
            return
        try:
            self._insist(lambda: self._harvest(ended, decision, result))
        except FencedError:
            self._note_late()

    def _harvest(self, ended: Ended, decision: Decision, result: Result | None) -> None:
        site = self.site
        field = Field(site.database, site.workspace, site.node_id, self.claimed, self.folder, site.backoff_s)
        try:
            harvest(field, ended, decision, result)
        except DiskError as trouble:
            harvest(field, ended, _decide(trouble), None)
        except (FencedError, TransientError):
            raise
        except SpicaError as trouble:
            harvest(field, ended, _decide(trouble), None)
        except Exception:  # noqa: BLE001  the daemon's loop: a result that cannot be recorded fails its job alone
            harvest(field, ended, _bug(), None)

    def _insist(self, do: Callable[[], None]) -> None:
        """Do it until the database lets us, the daemon leaves, or the attempt is fenced."""
        tries = 0
        while not self.orders.leave.is_set():
            try:
                do()
            except TransientError:
                wait = DATABASE_WAIT_S[min(tries, len(DATABASE_WAIT_S) - 1)]
                tries += 1
                self.orders.leave.wait(wait)
            else:
                return

    def _note_late(self) -> None:
        if not (self.folder / RESULT).exists():
            return
        why = f"a result came after its lease had ended; it lies unused in attempt-{self.claimed.number}"

        def note() -> None:
            with self.site.database.begin() as session:
                note_late_result(session, self.claimed.attempt_id, why)

        self._insist(note)


def find_left_behind(site: Site, claimed: Claimed) -> StepProcess | None:
    """Return the process of an attempt of an earlier daemon where it still lives."""
    folder = attempt_folder(site.workspace.roots["jobs"], claimed.job_id, claimed.number)
    return find_process(claimed.pid, claimed.pid_started, folder)


def _decide(trouble: SpicaError) -> Decision:
    action = Action.REQUEUE if isinstance(trouble, TransientError) else Action.FAIL
    return Decision(action, trouble.kind, str(trouble))


def _bug() -> Decision:
    text = traceback.format_exc(limit=-6).strip().replace("\0", "?")
    return Decision(Action.FAIL, "bug", f"Spica could not carry it out; report this: {text[-3000:]}")
