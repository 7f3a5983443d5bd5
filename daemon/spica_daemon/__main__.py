"""`python -m spica_daemon`: the daemon of one node."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from spica.db.engine import open_database
from spica.files.workspace import Workspace, find_workspace
from spica.model.errors import SpicaError, UsageError
from spica.scheduling.script import render_script
from spica_daemon.claim import sole_daemon
from spica_daemon.loop import Daemon, Options


def parse_words(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the words of the command line."""
    parser = argparse.ArgumentParser(prog="spica daemon", description="Runs the jobs of one node.")
    parser.add_argument("--workspace", type=Path, help="folder of the survey")
    parser.add_argument("--node", help="name of this node, where it is not the workspace's own")
    parser.add_argument("--data", type=Path, help="data folder of this node")
    parser.add_argument("--slots", type=int, default=0, help="jobs at once (default: one a core)")
    parser.add_argument("--drain", action="store_true", help="end when no job is left that this node could run")
    parser.add_argument("--executor", choices=["local"], default="local", help="where processes run")
    parser.add_argument("--serve", default="127.0.0.1:0", help="HOST:PORT of the file service, or 'off'")
    parser.add_argument("--address", help="HOST:PORT under which other nodes reach the file service")
    return parser.parse_args(words)


def open_node(words: argparse.Namespace) -> Workspace:
    """Return the workspace as the node named on the command line sees it."""
    workspace = find_workspace(words.workspace)
    if words.node is None and words.data is not None:
        raise UsageError("--data is of a node with a name of its own; give --node too")
    return workspace if words.node is None else workspace.as_node(words.node, words.data)


def read_options(words: argparse.Namespace) -> Options:
    """Return how the daemon shall behave; UsageError where a word does not fit."""
    if words.slots < 0:
        raise UsageError("--slots is a number of jobs, 0 for one a core; see --help")
    serve = None if words.serve == "off" else _host_port(words.serve)
    return Options(slots=words.slots, drain=words.drain, serve=serve, address=words.address)


def _host_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"--serve {text!r} is not HOST:PORT; see --help")
    return host, int(port)


def main(words: Sequence[str] | None = None) -> int:
    """Run the daemon; return the exit code of the door."""
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(level=logging.INFO, format="%(asctime)sZ %(name)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
    try:
        given = parse_words(words)
        options = read_options(given)
        workspace = open_node(given)
        with sole_daemon(workspace), open_database(workspace) as database:
            daemon = Daemon(database, workspace, options, render_script)
            daemon.install_signals()
            daemon.run()
    except SpicaError as trouble:
        sys.stderr.write(f"spica daemon: {trouble}\n")
        return trouble.door_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
