"""`python -m spica_web`: the web pages of one survey."""

from __future__ import annotations

import argparse
import gc
import logging
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from spica.db.engine import Database, open_database
from spica.files.workspace import Workspace, find_workspace
from spica.model.errors import SpicaError, TransientError, UsageError
from spica_web.app import make_app
from spica_web.guard import hosts_for
from spica_web.session import make_entry, may_listen

TURN_S = 0.0005
"""How long a thread may hold the interpreter while others want it: a page asks for it after each of its statements,
and would wait 5 ms each time where another thread computes."""


def parse_words(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the words of the command line."""
    parser = argparse.ArgumentParser(prog="spica web", description="Serves the web pages of one survey.")
    parser.add_argument("--workspace", type=Path, help="folder of the survey")
    parser.add_argument("--host", help="address to listen on (default: of spica.toml, else 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port (default: of spica.toml, else 8765; 0: any free one)")
    parser.add_argument(
        "--name", action="append", default=[], metavar="HOST", help="further host name to answer to; repeatable"
    )
    return parser.parse_args(words)


def open_port(host: str, port: int) -> socket.socket:
    """Return a socket that listens; TransientError where the port is taken, UsageError for no address of this host."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except OverflowError:
        raise UsageError(f"{port} is no port; give one of 1 to 65535") from None
    except OSError as trouble:
        listening.close()
        if isinstance(trouble, socket.gaierror):
            raise UsageError(f"{host} is no address of this host; give another --host") from trouble
        raise TransientError(
            f"port {port} on {host} cannot be opened ({trouble.strerror}); end what uses it, or give another --port"
        ) from trouble
    return listening


def address_of(host: str, port: int, token: str | None) -> str:
    """Return the address to open, with the one-time token where there is one."""
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)  # noqa: S104  compared only
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "login")


def serve(workspace: Workspace, database: Database, words: argparse.Namespace) -> None:
    """Serve until stopped; the address stands on standard output before the first request."""
    host = words.host or workspace.web_host
    port = workspace.web_port if words.port is None else words.port
    if not may_listen(database, host):
        raise UsageError(
            f"pages on {host} can be reached from other hosts, and nobody has a password yet; add somebody first: "
            "spica person add NAME --role admin"
        )
    with open_port(host, port) as listening:
        app = make_app(workspace, database, hosts_for(host, words.name))
        address = address_of(host, listening.getsockname()[1], make_entry(database))
        sys.stdout.write(address + "\n")
        sys.stdout.flush()
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=20,
            timeout_graceful_shutdown=3,
            limit_concurrency=300,
            h11_max_incomplete_event_size=32 * 1024,
            ws="none",
        )
        _calm_collector()
        sys.setswitchinterval(TURN_S)
        uvicorn.Server(config).run(sockets=[listening])


def _calm_collector() -> None:
    """Let the collector leave alone what lives as long as the server: a walk through all of it stops every request."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def main(words: Sequence[str] | None = None) -> int:
    """Serve the pages; return the exit code of the door."""
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(level=logging.WARNING, format="%(asctime)sZ %(name)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
    try:
        given = parse_words(words)
        workspace = find_workspace(given.workspace)
        with open_database(workspace) as database:
            serve(workspace, database, given)
    except SpicaError as trouble:
        sys.stderr.write(f"spica web: {trouble}\n")
        return trouble.door_code
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
