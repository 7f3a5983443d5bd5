"""Runs a daemon for tests: as `python -m spica_daemon`, with quick beats, and trusting the scripts of the test step."""

import json
import sys
from pathlib import Path

from spica.db.engine import open_database
from spica.files.workspace import read_workspace
from spica_daemon.claim import sole_daemon
from spica_daemon.heartbeat import Pulse
from spica_daemon.loop import Daemon, Options

folder, node, data, words = sys.argv[1:5]
workspace = read_workspace(Path(folder))
if node:
    workspace = workspace.as_node(node, Path(data) if data else None)
given = json.loads(words)
pulse = Pulse(**given.pop("pulse", {"every_s": 0.3, "lease_s": 20.0}))
options = Options(**{"grace_s": 0.5, "backoff_s": 0.05, "patience_s": 3.0, "slots": 2, "pulse": pulse} | given)
with sole_daemon(workspace), open_database(workspace) as database:
    daemon = Daemon(database, workspace, options, None)
    daemon.install_signals()
    sys.stderr.write("ready\n")
    daemon.run()
