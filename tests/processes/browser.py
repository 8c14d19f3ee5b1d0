"""Debian's Chromium without a window, spoken to in its debugging protocol over two pipes."""

import base64
import fcntl
import itertools
import json
import os
import shutil
import subprocess
import time
from collections import deque
from pathlib import Path

CHROMIUM = shutil.which("chromium")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-extensions", "--hide-scrollbars", "--mute-audio", "--force-device-scale-factor=1"),
)


class Browser:
    """One browser with one page; what the page does is kept in `events`."""

    def __init__(self, profile: Path) -> None:
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        # Numbers above 3 and 4, the ones that Chromium reads and writes.
        given = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (to_browser, from_browser)]
        assert CHROMIUM is not None
        command = [CHROMIUM, "--remote-debugging-pipe", f"--user-data-dir={profile}", *OPTIONS]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{given[0]} 4>&{given[1]}', "bash", *command],
            pass_fds=given,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for descriptor in (to_browser, from_browser, *given):
            os.close(descriptor)
        self._numbers = itertools.count(1)
        self._buffer = b""
        self._messages: deque = deque()
        self._session: str | None = None
        self.events: list[dict] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        attached = self("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters):
        """Call a method of the protocol and return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def open(self, place: Path | str) -> None:
        """Load a file of this machine, or an address, and wait until it is there."""
        self.events.clear()
        url = place if isinstance(place, str) else place.resolve().as_uri()
        self("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def run(self, script: str):
        """The value of an expression in the page."""
        result = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def resize(self, width: int, height: int, mobile: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self("Emulation.setDeviceMetricsOverride", **size)

    def prefer(self, scheme: str) -> None:
        """Light or dark."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self("Emulation.setEmulatedMedia", features=[feature])

    def press(self, key: str) -> None:
        code = {"Enter": 13, "Tab": 9, "ArrowLeft": 37, "ArrowRight": 39, " ": 32}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self("Input.dispatchKeyEvent", type="keyUp", **common)

    def picture(self, file: Path, whole: bool = False) -> Path:
        """Write a PNG of what is seen, or of the whole page."""
        made = self("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(made["data"]))
        return file

    def requests(self) -> list[str]:
        """Addresses that the page asked for, itself and what lies inside it apart."""
        sent = [e["params"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        urls = [each["request"]["url"] for each in sent if each.get("type") != "Document"]
        return [url for url in urls if not url.startswith("data:")]

    def complaints(self) -> list[dict]:
        """Errors and warnings of the console, the log and of scripts."""
        found = []
        for event in self.events:
            parameters = event.get("params", {})
            kind = parameters.get("type", parameters.get("entry", {}).get("level"))
            if event.get("method") == "Runtime.exceptionThrown" or (
                event.get("method") in ("Runtime.consoleAPICalled", "Log.entryAdded")
                and kind in ("error", "warning", "assert")
            ):
                found.append(parameters)
        return found

    def close(self) -> None:
        self._session = None
        try:
            self("Browser.close")
            self._process.wait(10)
        except (OSError, EOFError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        for descriptor in (self._read, self._write):
            os.close(descriptor)

    def _next(self) -> dict:
        until = time.monotonic() + 60
        while not self._messages:
            assert time.monotonic() < until, "Chromium says nothing"
            received = os.read(self._read, 1 << 20)
            if not received:
                raise EOFError("Chromium has ended")
            *whole, self._buffer = (self._buffer + received).split(b"\0")
            self._messages += map(json.loads, whole)
        return self._messages.popleft()
