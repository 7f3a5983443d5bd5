"""Points at which a test may kill the daemon: `SPICA_KILL_AT` names one; without it nothing happens."""

from __future__ import annotations

import os
import signal

POINTS = (
    "before_claim",
    "after_claim",
    "during_step",
    "after_result",
    "harvest_before_commit",
    "harvest_after_commit",
)


def pass_point(name: str) -> None:
    """Die here by SIGKILL where the environment says so."""
    if os.environ.get("SPICA_KILL_AT") == name:
        os.kill(os.getpid(), signal.SIGKILL)
