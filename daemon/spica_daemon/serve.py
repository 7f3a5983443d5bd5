"""Serves this node's files to the daemons of other nodes, by content and for a bearer token."""

from __future__ import annotations

import hmac
import re
import shutil
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from spica.model.errors import SpicaError, TransientError

Lookup = Callable[[str], Path | None]
_PATH = re.compile(r"/files/([0-9a-f]{64})\Z")
_TIMEOUT_S = 60.0


class FileService:
    """An HTTP server in threads of this process: `GET /files/<sha256>` gives the whole file.

    Parameters
    ----------
    lookup : gives the path on this node of a content, or None; only what the database says lies here is served.
    token : what `Authorization: Bearer` must hold.
    host, port : where to listen; port 0 takes a free one.

    Raises
    ------
    TransientError
        Where the port is taken.
    """

    def __init__(self, lookup: Lookup, token: str, host: str, port: int) -> None:
        """Listen at once; `start` begins to answer."""
        handler = type("_Bound", (_Handler,), {"lookup": staticmethod(lookup), "token": token})
        try:
            self._server = ThreadingHTTPServer((host, port), handler)
        except OSError as trouble:
            raise TransientError(
                f"the file service cannot listen on {host}:{port} ({trouble.strerror}); choose another port by --serve"
            ) from trouble
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="files", daemon=True)

    @property
    def port(self) -> int:
        """Port it listens on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the port."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    lookup: Lookup
    token: str
    timeout = _TIMEOUT_S
    server_version = "spica"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer one request."""
        given = self.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode("latin-1", "replace"), f"Bearer {self.token}".encode()):
            self._refuse(HTTPStatus.UNAUTHORIZED)
            return
        match = _PATH.match(self.path)
        path = self._find(match.group(1)) if match else None
        if path is None:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        self._send(path)

    def _find(self, sha256: str) -> Path | None:
        try:
            return type(self).lookup(sha256)
        except SpicaError:
            return None

    def _send(self, path: Path) -> None:
        try:
            stream = path.open("rb")
        except OSError:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        with stream:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(path.stat().st_size))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            shutil.copyfileobj(stream, self.wfile, 1024 * 1024)

    def _refuse(self, status: HTTPStatus) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the database knows what lies where."""
