"""Runs a daemon for tests: as `python -m spica_daemon`, with quick beats, and trusting the scripts of the test step.

A process that has imported all this forks one for each daemon and runs this file there; `orders` say what it shall be.
"""

import json
import os
import sys
from pathlib import Path

from spica.db.engine import open_database
from spica.files.workspace import read_workspace
from spica_daemon.claim import sole_daemon
from spica_daemon.heartbeat import Pulse
from spica_daemon.loop import Daemon, Options

orders = json.loads(ORDERS)  # noqa: F821  given by who runs this file
os.environ.clear()
os.environ.update(orders["environment"])
log = os.open(orders["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
for stream in (1, 2):
    os.dup2(log, stream)
workspace = read_workspace(Path(orders["workspace"]))
if orders["node"]:
    workspace = workspace.as_node(orders["node"], Path(orders["data"]) if orders["data"] else None)
given = orders["options"]
pulse = Pulse(**given.pop("pulse", {"every_s": 0.3, "lease_s": 20.0}))
options = Options(**{"grace_s": 0.5, "backoff_s": 0.05, "patience_s": 3.0, "slots": 2, "pulse": pulse} | given)
with sole_daemon(workspace), open_database(workspace) as database:
    daemon = Daemon(database, workspace, options, None)
    daemon.install_signals()
    sys.stderr.write("ready\n")
    daemon.run()
