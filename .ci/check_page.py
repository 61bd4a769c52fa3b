"""Open an HTML page in a headless Chromium and fail on anything a reader would miss or trip over.

    python .ci/check_page.py runs/demo/report.html [--screenshot DIR] [--chromium PATH]

Fails when the page logs an error or a warning of the browser, throws, asks for anything outside its
own file, has a figure, picture, drawing or canvas that is empty, hidden or not loaded, shows fewer
figures than `--at-least`, or is wider than the window. Standard library only: Chromium is spoken to
in its DevTools protocol over a pipe, so no port is opened.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--metrics-recording-only",
    "--mute-audio",
    "--remote-debugging-pipe",
)
# Chromium reads commands from descriptor 3 and answers on 4; they are moved there in a process of
# its own, since the numbers may be taken in this one.
LAUNCHER = """
import fcntl, os, sys
reads, writes = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3])
os.dup2(reads, 3), os.dup2(writes, 4)
os.close(reads), os.close(writes)
os.execv(sys.argv[3], sys.argv[3:])
"""
# Every <details> is opened and the page scrolled through once, so that lazy content loads.
INSPECT = """
(async () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
  const pause = ms => new Promise(done => setTimeout(done, ms));
  const view = window.innerHeight;
  for (let y = 0; y < document.documentElement.scrollHeight; y += view) {
    window.scrollTo(0, y); await pause(20);
  }
  window.scrollTo(0, 0);
  await Promise.all([...document.images].map(image => image.decode().catch(() => null)));
  const name = e => e.tagName.toLowerCase() + (e.id ? "#" + e.id : "")
    + (e.className && e.className.baseVal === undefined ? "." + e.className : "")
    + " (" + (e.getAttribute("aria-label") || e.getAttribute("alt")
    || (e.textContent || "").replace(/\\s+/g, " ").trim().slice(0, 60) || "no text") + ")";
  const store = e => e.tagName === "svg" && e.children.length > 0
    && [...e.children].every(part => ["defs", "symbol", "style", "title"].includes(part.tagName));
  const faults = [];
  const seen = document.querySelectorAll("figure, img, svg, canvas");
  for (const e of seen) {
    if (store(e) || (e.tagName === "svg" && e.parentElement.closest("svg"))) continue;
    const box = e.getBoundingClientRect();
    if (box.width < 1 || box.height < 1)
      faults.push(`${name(e)} has the size ${box.width} x ${box.height}`);
    else if (!e.checkVisibility({opacityProperty: true, visibilityProperty: true}))
      faults.push(`${name(e)} is hidden`);
    if (e.tagName === "IMG" && !(e.complete && e.naturalWidth > 0))
      faults.push(`${name(e)} did not load`);
    if (e.tagName === "svg") {
      const drawn = e.getBBox();
      if (drawn.width <= 0 && drawn.height <= 0) faults.push(`${name(e)} draws nothing`);
    }
    if (e.tagName === "CANVAS" && e.width * e.height > 0) {
      const blank = document.createElement("canvas");
      blank.width = e.width; blank.height = e.height;
      if (e.toDataURL() === blank.toDataURL()) faults.push(`${name(e)} is blank`);
    }
    if (e.tagName === "FIGURE" && !e.querySelector("img, svg, canvas, table, video, pre"))
      faults.push(`${name(e)} holds nothing to see`);
  }
  const root = document.documentElement;
  if (root.scrollWidth > window.innerWidth + 1)
    faults.push(`the page is ${root.scrollWidth} pixels wide in a window of ${window.innerWidth}`);
  if (!document.title.trim()) faults.push("the page has no title");
  if (/(^|[^\\w\\[])NaN($|\\W)/.test(document.body.innerText))
    faults.push("the text of the page contains NaN");
  if (document.body.innerText.includes("[object Object]"))
    faults.push("the text of the page contains [object Object]");
  return JSON.stringify({faults, figures: seen.length, title: document.title,
    height: root.scrollHeight});
})()
"""


class PageError(Exception):
    """Something the page or the browser did wrong, in one sentence."""


class Browser:
    """One headless Chromium and its DevTools pipe."""

    def __init__(self, program: str, profile: str) -> None:
        """Start the browser with a profile folder of its own."""
        child_reads, self._to = os.pipe()
        self._from, child_writes = os.pipe()
        command = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(child_reads), str(child_writes), *command],
            pass_fds=(child_reads, child_writes),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        os.close(child_reads)
        os.close(child_writes)
        self._buffer = b""
        self._last_id = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str = "", timeout: float = 60.0, **params: Any) -> Any:
        """Send one command and wait for its answer; events met on the way are kept."""
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + timeout
        while True:
            answer = self._receive(deadline, method)
            if answer.get("id") != self._last_id:
                self.events.append(answer)
            elif "error" in answer:
                raise PageError(f"the browser refused {method}: {answer['error']['message']}")
            else:
                return answer["result"]

    def listen(self, until: str = "", seconds: float = 60.0) -> None:
        """Keep events until one of the named method arrives, or for so many seconds."""
        deadline = time.monotonic() + seconds
        while not (until and any(event.get("method") == until for event in self.events)):
            try:
                self.events.append(self._receive(deadline, until or "the page"))
            except TimeoutError as late:
                if until:
                    raise PageError(str(late)) from late
                return

    def _receive(self, deadline: float, awaited: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._from], [], [], left)[0]:
                raise TimeoutError(f"the browser did not answer in time ({awaited})")
            block = os.read(self._from, 1 << 20)
            if not block:
                self._log.seek(0)
                said = self._log.read().decode(errors="replace").strip().splitlines()[-5:]
                raise PageError("the browser ended early; it said: " + " | ".join(said))
            self._buffer += block
        text, self._buffer = self._buffer.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(text)
        return answer

    def close(self) -> None:
        """End the browser, by its own command or else by its process."""
        try:
            self.call("Browser.close", timeout=10)
        except (OSError, PageError, TimeoutError):
            pass
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._log.close()


def event_fault(event: dict[str, Any]) -> str:
    """What an event of the browser says is wrong with the page, or nothing."""
    method, params = event.get("method", ""), event.get("params", {})
    if method == "Runtime.exceptionThrown":
        details = params["exceptionDetails"]
        return "uncaught: " + str(
            details.get("exception", {}).get("description") or details.get("text")
        )
    if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
        words = [str(a.get("value", a.get("description", ""))) for a in params["args"]]
        return "console: " + " ".join(words)
    if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
        return f"browser {params['entry']['level']}: {params['entry']['text']}"
    if method == "Network.loadingFailed" and not params.get("canceled"):
        return f"a request failed: {params.get('errorText')}"
    if method == "Inspector.targetCrashed":
        return "the page crashed"
    return ""


def requests_outside(events: list[dict[str, Any]], page: str) -> list[str]:
    """Addresses the page asked for besides itself and what it carries inline."""
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    return [url for url in asked if url != page and not url.startswith(("data:", "blob:"))]


def check(
    page: Path, program: str, screenshots: Path, width: int, settle: float
) -> tuple[list[str], dict[str, Any]]:
    """Open the page once at a width and return what is wrong with it and what was seen."""
    address = page.resolve().as_uri()
    with tempfile.TemporaryDirectory(prefix="check-page-", ignore_cleanup_errors=True) as profile:
        browser = Browser(program, profile)
        try:
            target = browser.call("Target.createTarget", url="about:blank")["targetId"]
            session = browser.call("Target.attachToTarget", targetId=target, flatten=True)
            tab = session["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network", "Inspector"):
                browser.call(f"{domain}.enable", tab)
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            browser.call("Emulation.setDeviceMetricsOverride", tab, **size)
            browser.call("Page.navigate", tab, url=address)
            browser.listen(until="Page.loadEventFired")
            browser.listen(seconds=settle)
            answer = browser.call(
                "Runtime.evaluate", tab, expression=INSPECT, awaitPromise=True, returnByValue=True
            )
            if "exceptionDetails" in answer:
                raise PageError(f"the page could not be inspected: {answer['exceptionDetails']}")
            seen: dict[str, Any] = json.loads(answer["result"]["value"])
            picture = browser.call(
                "Page.captureScreenshot", tab, format="png", captureBeyondViewport=True
            )
            shot = screenshots / f"{page.stem}-{width}.png"
            shot.write_bytes(base64.b64decode(picture["data"]))
            browser.listen(seconds=0.2)
            seen["screenshot"] = str(shot)
        finally:
            browser.close()
    faults = [fault for fault in map(event_fault, browser.events) if fault]
    faults += [
        f"the page asked for {url[:200]}" for url in requests_outside(browser.events, address)
    ]
    return faults + seen["faults"], seen


def find_browser(given: str) -> str:
    """Path of the browser to use."""
    for name in (given,) if given else BROWSERS:
        if path := shutil.which(name):
            return path
    wanted = given or "chromium"
    raise PageError(
        f"no browser: {wanted!r} is not installed (on Debian and Ubuntu: apt install chromium)"
    )


def main() -> int:
    """Check the pages of the command line; 0 when nothing is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("page", type=Path, nargs="+", help="HTML file")
    parser.add_argument("--at-least", type=int, default=1, metavar="N", help="figures to be seen")
    parser.add_argument("--width", type=int, nargs="+", default=[1280, 390], help="window, pixels")
    parser.add_argument("--settle", type=float, default=1.0, help="seconds to watch after loading")
    parser.add_argument("--screenshot", type=Path, default=None, metavar="DIR", help="where to")
    parser.add_argument("--chromium", default="", metavar="PATH", help="browser to use")
    args = parser.parse_args()
    folder = args.screenshot or Path(tempfile.mkdtemp(prefix="check-page-shots-"))
    folder.mkdir(parents=True, exist_ok=True)
    bad = False
    for page in args.page:
        for width in args.width:
            try:
                if not page.is_file():
                    raise PageError(f"there is no file {page}")
                program = find_browser(args.chromium)
                faults, seen = check(page, program, folder, width, args.settle)
                if seen["figures"] < args.at_least:
                    faults.append(f"{seen['figures']} figures, at least {args.at_least} expected")
                print(
                    f"{page} at {width} pixels: {seen['figures']} figures, {seen['height']} pixels"
                    f" high, title {seen['title']!r}, screenshot {seen['screenshot']}"
                )
            except (PageError, TimeoutError) as fault:
                faults = [str(fault)]
            for line in faults:
                print(f"  FAULT {page} at {width} pixels: {line}")
            bad = bad or bool(faults)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
