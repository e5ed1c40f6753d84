# SPDX-License-Identifier: Apache-2.0
"""A real browser without a window, spoken to over a pipe: no port, no driver, no other package."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from support.patience import Limit, patient
from support.waiting import eventually

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WHY_NOT = "there is no chromium here: apt-get install chromium"
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--disable-default-apps", "--no-pings", "--hide-scrollbars",
    "--remote-debugging-pipe",
)  # fmt: skip
_SECONDS = 30.0


def find_browser() -> str | None:
    """The path of a browser; None if there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A context manager: one page in a browser of its own, and what it did.

    Attributes:
        problems: what the page's console said that is an error or a warning, and exceptions.
        requests: the addresses that it asked for.
        refused: why it did not get what it asked for.
        contacted: the first lines of what came to the proxy that it was told to use for all.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.refused: list[str] = []
        self.contacted: list[str] = []
        self._buffer = b""
        self._number = 0
        self._session: str | None = None

    def __enter__(self) -> Browser:
        self._folder = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        self._proxy = socket.create_server(("127.0.0.1", 0))
        self._proxy.setblocking(False)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        browser = find_browser()
        assert browser, WHY_NOT
        command = [
            browser,
            *_FLAGS,
            f"--proxy-server=127.0.0.1:{self._proxy.getsockname()[1]}",
            "--proxy-bypass-list=<-loopback>",
            f"--user-data-dir={self._folder.name}",
            "about:blank",
        ]
        # It reads descriptor 3 and writes to 4.
        shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "browser", *command],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": self._folder.name},
            process_group=0,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            self._attach()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)
        self._proxy.close()
        # Its processes are killed, but the last ones may end a moment later, and write till then.
        eventually(lambda: self._folder.cleanup() or not Path(self._folder.name).exists())

    def _attach(self) -> None:
        targets = self.ask("Target.getTargets")["targetInfos"]
        target = next(one for one in targets if one["type"] == "page")
        attached = self.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Has the browser do something, and waits for the answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, path: Path, *, script: bool = True) -> None:
        """Opens a file, with its script or without, and waits until it is drawn."""
        self.ask("Emulation.setScriptExecutionDisabled", value=not script)
        self.ask("Page.navigate", url=path.as_uri())
        while self._next().get("method") != "Page.loadEventFired":
            pass
        self._count_connections()

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        result = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def look(self, *, width: int, dark: bool = False, media: str = "screen") -> None:
        """The page is seen so wide, light or dark, on a screen or on paper."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def screenshot(self) -> bytes:
        """All of the page, as PNG."""
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        self._count_connections()
        return base64.b64decode(shot["data"])

    def pdf(self) -> bytes:
        """What a printer would get."""
        printed = self.ask("Page.printToPDF", preferCSSPageSize=True, printBackground=False)
        return base64.b64decode(printed["data"])

    def _next(self) -> dict[str, Any]:
        limit = Limit(_SECONDS)
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], limit.left())
            assert ready, "the browser doesn't answer"
            data = os.read(self._in, 1 << 20)
            assert data, "the browser has ended"
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        method, values = message.get("method"), message.get("params", {})
        if method == "Runtime.consoleAPICalled":
            self.problems.append(f"console: {values}")
        elif method == "Runtime.exceptionThrown":
            self.problems.append(f"exception: {values}")
        elif method == "Log.entryAdded":
            self.problems.append(f"log: {values['entry'].get('text')}")
        elif method == "Network.loadingFailed":
            self.refused.append(values.get("blockedReason") or values["errorText"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])

    def _count_connections(self) -> None:
        while True:
            try:
                connection, _ = self._proxy.accept()
            except BlockingIOError:
                return
            with connection:
                connection.settimeout(patient(1))
                self.contacted.append(connection.recv(1000).partition(b"\r")[0].decode())
