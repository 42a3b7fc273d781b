"""A headless Chromium over its debugging pipe: one page, no dependency but the browser."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")


def executable() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Tab:
    """`errors`: what the console and the page's own exceptions said so far."""

    def __init__(self, read: int, write: int):
        self._in, self._out = os.fdopen(read, "rb"), os.fdopen(write, "wb")
        self._rest, self._number, self._session = b"", 0, None
        self._loads = 0
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._in], [], [], 60)[0], "the browser says nothing for a minute"
            chunk = os.read(self._in.fileno(), 1 << 20)
            assert chunk, "the browser has closed its pipe"
            self._rest += chunk
        line, self._rest = self._rest.split(b"\0", 1)
        event = json.loads(line)
        said = event.get("params", {})
        if event.get("method") == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.errors.append(said["entry"]["text"])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(said["exceptionDetails"]))
        elif event.get("method") == "Page.loadEventFired":
            self._loads += 1
        return event

    def open(self, page: Path, width: int, height: int = 900, dark: bool = False, media: str = "") -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        before = self._loads
        self.call("Page.navigate", url=page.resolve().as_uri())
        while self._loads == before:
            self._receive()

    def run(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=9)

    def screenshot(self) -> bytes:
        """PNG of the whole page."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])


@contextmanager
def tab(profile: Path) -> Iterator[Tab]:
    """A browser of its own, gone afterwards."""
    path = executable()
    assert path is not None
    (their_in, write), (read, their_out) = os.pipe(), os.pipe()
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
    flags += ["--no-first-run", "--disable-extensions", f"--user-data-dir={profile}"]

    def pipes() -> None:  # in the browser's process: it reads 3 and writes 4
        a, b = os.dup(their_in), os.dup(their_out)
        os.dup2(a, 3)
        os.dup2(b, 4)

    process = subprocess.Popen(
        [path, *flags], preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(their_in)
    os.close(their_out)
    try:
        yield Tab(read, write)
    finally:
        process.terminate()
        process.wait(30)
