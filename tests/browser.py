"""A real browser for tests of pages: headless Chromium, controlled with the DevTools protocol."""

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip


def start(kind: "type[Browser]", folders: pytest.TempPathFactory) -> "Iterator[Browser]":
    """The body of a fixture: a browser that is closed at the end; the test is skipped where there is no Chromium."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on the path")
    started = kind(folders.mktemp("chromium"))
    yield started
    started.close()


class Browser:
    """Headless Chromium, controlled over a pair of pipes: zero-terminated JSON messages."""

    def __init__(self, folder: Path):
        commands, self.commands = os.pipe()
        self.responses, responses = os.pipe()

        def connect_pipes() -> None:  # Chromium reads from 3 and writes to 4
            ends = os.dup(commands), os.dup(responses)
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self.process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
            preexec_fn=connect_pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands)
        os.close(responses)
        self.read, self.number, self.events, self.session = b"", 0, [], {}
        pages = [page for page in self.call("Target.getTargets")["targetInfos"] if page["type"] == "page"]
        attached = self.call("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
        self.session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    def message(self) -> dict:
        while b"\0" not in self.read:
            assert select.select([self.responses], [], [], 30)[0], "the browser does not answer"
            data = os.read(self.responses, 2**16)
            assert data, "the browser has exited"
            self.read += data
        text, _, self.read = self.read.partition(b"\0")
        return json.loads(text)

    def call(self, method: str, **parameters) -> dict:
        self.number += 1
        request = {"id": self.number, "method": method, "params": parameters, **self.session}
        os.write(self.commands, json.dumps(request).encode() + b"\0")
        while (response := self.message()).get("id") != self.number:
            self.events.append(response)
        assert "error" not in response, response
        return response["result"]

    def js(self, code: str):
        response = self.call("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in response, response
        return response["result"].get("value")

    def load(self, page: Path, width: int, height: int = 900, dark: bool = False, fragment: str = "") -> None:
        """Load a page from scratch."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url="about:blank")
        self.events.clear()
        self.call("Page.navigate", url=f"{page.as_uri()}#{fragment}")

    def wait(self, code: str) -> None:
        """Wait until a script gives a true value."""
        for _ in range(500):
            if self.js(f"Boolean({code})"):
                return
            time.sleep(0.02)
        raise AssertionError(f"this did not become true: {code}")

    def key(self, key: str) -> None:
        """Press and release a key."""
        text = {"text": {"Enter": "\r"}.get(key, key)} if len(key) == 1 or key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def complaints(self) -> list[dict]:
        """Errors, messages of the console, and requests other than for the page itself."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        said = [event for event in self.events if event.get("method") in kinds]
        asked = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return said + [event for event in asked if not event["params"]["request"]["url"].startswith(("file:", "data:"))]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        os.close(self.commands)
        os.close(self.responses)
