"""Chromium and a real server process for tests: what takes long begins once a process of pytest, and is shared."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = os.environ.get("SPICA_CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
expect.set_options(timeout=20_000)  # pages are waited for, however busy the machine is


class Chromium:
    """A running Chromium; only within `awake` does its event loop count as that of this thread."""

    def __init__(self, browser: Browser) -> None:
        """Take over what has just been started, and let it rest."""
        self.browser, self._loop = browser, asyncio.get_running_loop()
        asyncio._set_running_loop(None)

    @contextlib.contextmanager
    def awake(self) -> Iterator[Browser]:
        """Give the browser; afterwards a test of this process may run an event loop of its own."""
        asyncio._set_running_loop(self._loop)
        try:
            yield self.browser
        finally:
            asyncio._set_running_loop(None)


@contextlib.contextmanager
def start_chromium() -> Iterator[Chromium]:
    """Start Chromium, and end it."""
    driver = sync_playwright().start()
    started = Chromium(driver.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS)))
    try:
        yield started
    finally:
        with started.awake() as browser:
            browser.close()
            driver.stop()


FORKS = """
import os, signal, sys
from spica_web.__main__ import main
while words := sys.stdin.readline():
    child = os.fork()
    if not child:
        try:
            code = main(words[:-1].split("\\t"))
        finally:
            print("left", flush=True)
        sys.exit(code)
    sys.stdin.readline()
    os.kill(child, signal.SIGTERM)
    signal.alarm(30)
    os.waitpid(child, 0)
    signal.alarm(0)
    print("gone", flush=True)
"""


class WarmServer:
    """A process that has imported the application; each server is a fork of it, and begins at once."""

    def __init__(self) -> None:
        """Start it; it waits for words."""
        path = os.pathsep.join([str(ROOT), str(ROOT / "web")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORKS], env={**os.environ, "PYTHONPATH": path}, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def _ask(self, words: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(words + "\n")
        return self.process.stdout.readline().strip()

    @contextlib.contextmanager
    def serve(self, workspace: Path) -> Iterator[str]:
        """Serve a workspace; give the address that is printed, with its one-time token."""
        line = self._ask(f"--workspace\t{workspace}\t--port\t0")
        try:
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{20,}", line), line
            yield line
        finally:
            assert self._ask("end") in ("gone", "left")

    def close(self) -> None:
        """End it; it leaves when there are no more words."""
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()


class Pages:
    """Pages, each in a browser context of its own, and what went wrong on them: faults of script and of policy."""

    def __init__(self, browser: Browser) -> None:
        """No page yet."""
        self.browser, self.faults = browser, list[str]()
        self.contexts = contextlib.ExitStack()

    def open(self, *cookies: Any, size: tuple[int, int] = (1440, 900), calm: str = r"(?!)") -> Page:
        """Return an empty page; what matches `calm` is no fault."""
        context = self.browser.new_context(viewport={"width": size[0], "height": size[1]})
        self.contexts.callback(context.close)
        context.add_cookies(list(cookies))
        page = context.new_page()

        def note(text: str) -> None:
            if not re.search(calm, text):
                self.faults.append(text)

        page.on("pageerror", lambda error: note(str(error)))
        page.on("console", lambda said: note(said.text) if said.type == "error" else None)
        return page


def until(page: Page, words: str, given: Any = None) -> None:
    """Wait until an expression holds; asked from outside, since the pages' policy lets no text be run within."""
    for _ in range(600):
        if page.evaluate(words, given):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{words} never came true")


def picture_stands(page: Page) -> None:
    """Wait until the scripts of a page have run, and its viewer shows the image."""
    until(page, "Boolean(document.querySelector('[data-viewer]').viewer?.shown)")
