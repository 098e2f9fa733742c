"""A page in headless Chromium, driven over the DevTools protocol: what a reader would see, press and find.

Chromium is the Debian package ``chromium`` (``make test-browser`` installs it where it is missing); any program of that
name on the path does.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_START_SECONDS = 60.0
_ANSWER_SECONDS = 60.0


def chromium() -> str:
    """The browser's program. Raises ``LookupError`` that says how to get it."""
    for name in PROGRAMS:
        if (found := shutil.which(name)) is not None:
            return found
    raise LookupError("no Chromium here: run make test-browser, or apt-get install chromium")


@dataclass
class Page:
    """One open page. What went wrong in it, and what it asked the network for, gathers in two lists."""

    connection: ClientConnection
    session: str
    complaints: list[str] = field(default_factory=list)
    """Console errors and warnings, uncaught exceptions, violations of the page's policy."""
    requests: list[str] = field(default_factory=list)
    """Addresses, ``data:`` left out."""
    _calls: int = 0
    _loaded: bool = False

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its result. Raises ``RuntimeError`` when it is refused."""
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": parameters, "sessionId": self.session}
        self.connection.send(json.dumps(message))
        while (answer := self._receive()).get("id") != self._calls:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    def open(self, url: str) -> None:
        """Load a page to its end."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self._loaded = False
        self.complaints.clear()
        self.requests.clear()
        self.call("Page.navigate", url=url)
        while not self._loaded:
            self._receive()

    def show(self, width: int, height: int = 900, scheme: str = "light") -> None:
        """Take the size (CSS pixels) and colour scheme of a reader's device."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression. Raises ``RuntimeError`` when it throws."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def click(self, selector: str) -> None:
        """Press the mouse in the middle of an element."""
        x, y = self.evaluate(
            f"(() => {{ const element = document.querySelector({json.dumps(selector)});"
            " element.scrollIntoView({block: 'center', inline: 'center'});"
            " const box = element.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press ``Tab``, ``Enter`` or ``Space`` where the focus is."""
        code, text = {"Tab": (9, ""), "Enter": (13, "\r"), "Space": (32, " ")}[key]
        name = " " if key == "Space" else key
        keys = {"key": name, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **keys)
        self.call("Input.dispatchKeyEvent", type="keyUp", **keys)

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Write a PNG of what is in view, or of the whole page."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.connection.recv(timeout=_ANSWER_SECONDS))
        parameters = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(parameters["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "warning", "assert"):
                self.complaints.append(json.dumps(parameters["args"]))
            case "Log.entryAdded" if parameters["entry"]["level"] in ("error", "warning"):
                self.complaints.append(parameters["entry"]["text"])
            case "Network.requestWillBeSent":
                if not parameters["request"]["url"].startswith("data:"):
                    self.requests.append(parameters["request"]["url"])
        return message


@contextmanager
def browser_page(profile: Path) -> Iterator[Page]:
    """An empty page of a browser of its own, whose profile is in the folder ``profile``."""
    options = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-first-run"]
    options += ["--disable-gpu", "--disable-extensions", "--disable-background-networking", "--disable-dev-shm-usage"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")  # As root Chromium refuses to start otherwise.
    log = (profile.parent / "chromium.log").open("w")
    with log, subprocess.Popen([chromium(), *options, "about:blank"], stdout=log, stderr=log) as process:
        try:
            port, path = _endpoint(profile, process)
            with connect(f"ws://127.0.0.1:{port}{path}", max_size=None) as connection:
                yield Page(connection, _attached(connection))
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()


def _endpoint(profile: Path, process: subprocess.Popen[bytes]) -> tuple[str, str]:
    """Port and path of the protocol, which the browser writes into its profile once it listens."""
    file = profile / "DevToolsActivePort"
    give_up_at = time.monotonic() + _START_SECONDS
    while time.monotonic() < give_up_at and process.poll() is None:
        if file.exists() and len(lines := file.read_text().splitlines()) == 2:
            return lines[0], lines[1]
        time.sleep(0.1)
    raise RuntimeError(f"Chromium did not start; its words are in {profile.parent / 'chromium.log'}")


def _attached(connection: ClientConnection) -> str:
    """The session of a new page."""

    def ask(number: int, method: str, **parameters: Any) -> dict[str, Any]:
        connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := json.loads(connection.recv(timeout=_ANSWER_SECONDS))).get("id") != number:
            pass
        return dict(answer["result"])

    target = ask(-1, "Target.createTarget", url="about:blank")["targetId"]
    return str(ask(-2, "Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
