"""The dashboard's page in a real browser: what it shows, what it never runs, how it bears a broken stream.

Chromium is asked over the pipe of its DevTools protocol. `--dump-dom` with a virtual time would stand still here:
that time does not go on while a request is open, and the stream always is; and no window is under 500 px wide.
"""

from __future__ import annotations

import base64
import json
import os
import re
import select
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import count, product
from pathlib import Path
from typing import Any

import pytest

from tests.eventually import eventually
from tests.system import admin_stub
from tests.system.admin_stub import AdminStub, connection, record, status, worker
from tests.system.conftest import Prepare
from tests.system.running import exchange

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
HOSTILE = "<img src=x onerror=alert(1)>"
MIB = 1 << 20
ANSWER_SECONDS = 60

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed (Debian: apt install chromium)")


class Browser:
    """A headless browser with one page.

    Attributes:
        seen: what the page did: requests, exceptions, lines of its console.
    """

    def __init__(self, folder: Path) -> None:
        down, self._orders = os.pipe()
        self._answers, up = os.pipe()
        # Chromium reads its orders from descriptor 3 and answers on 4; the shell puts the pipes there.
        command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder}", "--remote-debugging-pipe", "about:blank"]
        shell = ["bash", "-c", f'exec "$@" 3<&{down} 4>&{up}', "bash", *command]
        self._process = subprocess.Popen(
            shell, pass_fds=(down, up), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(down)
        os.close(up)
        self._numbers = count(1)
        self._rest = b""
        self._session: str | None = None
        self.seen: list[dict[str, Any]] = []
        pages = eventually(
            lambda: [t for t in self.ask("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        )
        found = self.ask("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the result of an order."""
        number = next(self._numbers)
        order = {"id": number, "method": method, "params": params}
        if self._session:
            order["sessionId"] = self._session
        os.write(self._orders, json.dumps(order).encode() + b"\0")
        while True:
            told = self._read()
            if told.get("id") == number:
                assert "result" in told, told
                return dict(told["result"])
            self.seen.append(told)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._answers], [], [], ANSWER_SECONDS)[0], "the browser says nothing"
            piece = os.read(self._answers, 1 << 20)
            assert piece, "the browser is gone"
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))

    def value(self, expression: str) -> Any:
        """Return what an expression of JavaScript is worth in the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def text(self, selector: str) -> str:
        """Return the visible text of an element, its blanks made one."""
        shown = self.value(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")
        return " ".join(str(shown).split())

    def open(self, url: str, width: int = 1280, scheme: str = "light") -> None:
        self.seen.clear()
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask("Page.navigate", url=url)

    def press(self, key: str) -> None:
        more = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.ask(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key], **more
            )

    def shoot(self, path: Path) -> None:
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def hosts(self) -> set[str]:
        urls = [t["params"]["request"]["url"] for t in self.seen if t.get("method") == "Network.requestWillBeSent"]
        return {url.split("/")[2] for url in urls if not url.startswith("data:")}

    def complaints(self) -> list[str]:
        """Return exceptions, dialogs, and what the browser itself found wrong, such as a breach of the policy."""
        bad = ("Runtime.exceptionThrown", "Page.javascriptDialogOpening", "Log.entryAdded")
        return [json.dumps(t["params"]) for t in self.seen if t.get("method") in bad]

    def close(self) -> None:
        self._session = None
        self.ask("Browser.close")
        self._process.wait(20)
        os.close(self._orders)
        os.close(self._answers)


KEYS = {"Tab": 9, "Enter": 13, "ArrowLeft": 37, "Home": 36}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("browser"))
    yield made
    made.close()


@pytest.fixture
def stub() -> Iterator[AdminStub]:
    with admin_stub.serving() as found:
        yield found


@pytest.fixture
def shows(browser: Browser) -> Callable[[str, str], None]:
    """Wait until an element has a text in it."""

    def _shows(selector: str, text: str) -> None:
        try:
            eventually(lambda: text in browser.text(selector))
        except AssertionError as error:
            raise AssertionError(f"{selector} shows {browser.text(selector)!r}, never {text!r}") from error

    return _shows


Shows = Callable[[str, str], None]


def test_slots_are_tiles_that_say_their_state_and_numbers(browser: Browser, stub: AdminStub, shows: Shows) -> None:
    odd = [
        worker(1, state="draining", generation=2),
        worker(1, state="starting", pid=None),
        worker(2, busy=0.97, lag=1.5),
    ]
    stub.tell(("status", status(workers=[worker(0), *odd], ready=False, why=["slot 1 starting for 3.1 s"])))
    browser.open(stub.url)
    shows("#tiles", "slot 3 ○ no worker nobody serves here")
    shows("#tiles", "slot 0 ● ready pid 4200 · generation 3 busy 42 % connections 120 RSS 32 MiB")
    shows("#tiles", "slot 1 ◒ draining")
    shows("#tiles", "slot 1 ◔ starting pid —")
    shows("#tiles", "busy 97 % connections 122 RSS 32 MiB longest turn ⚠ 1.5 s")
    shows("#ready", "✕ not ready")
    shows("#why", "slot 1 starting for 3.1 s")
    shows("#facts", "target 4 workers, 2 ready")
    assert browser.value("document.title") == "✕ not ready · prefork"


def test_charts_are_made_of_differences_and_a_restart_counts_as_nothing(
    browser: Browser, stub: AdminStub, shows: Shows
) -> None:
    stub.tell(("status", status(0)), ("status", status(1, received=5 * MIB)))
    browser.open(stub.url)
    shows(".charts .card:nth-child(1) .legend", "in 5.0 MiB/s out 15 MiB/s")
    shows(".charts .card:nth-child(1) .top", "20 MiB/s")
    shows(".charts .card:nth-child(3) .legend", "accepted 40 closed 38")
    shows(".charts .card:nth-child(4) .legend", "3.1 ms")
    stub.tell(("status", status(0, uptime=1.0)))
    shows(".charts .card:nth-child(1) .legend", "in 0 B/s out 0 B/s")
    shows(".charts .card:nth-child(3) .legend", "accepted 0 closed 0")
    assert "NaN" not in browser.value("document.querySelector('#charts').innerHTML")


def test_a_chart_is_read_by_the_keyboard(browser: Browser, stub: AdminStub, shows: Shows) -> None:
    stub.tell(("status", status(0)), ("status", status(1, received=MIB)))
    browser.open(stub.url)
    shows(".legend", "in 1.0 MiB/s")
    while browser.value("document.activeElement.getAttribute('role')") != "slider":
        browser.press("Tab")
    browser.press("Home")
    shows(".charts .axis", "5 min 0 s ago now")
    shows(".legend", "in — out —")
    assert browser.value("document.activeElement.getAttribute('aria-valuetext')") == "5 min 0 s ago in — out —"


def test_tables_show_what_is_not_zero(browser: Browser, stub: AdminStub, shows: Shows) -> None:
    reload = {"verdict": "refused", "reason": "listeners[0]: no such app", "changes": ["workers 4→6"]}
    dates = [admin_stub.certificate("www.example.org", 80.5), admin_stub.certificate("old.example.org", 5.5)]
    bans = [{"network": "203.0.113.0/24", "seconds": 89.5}]
    stub.tell(("status", status(last_reload=reload, certificates=dates, bans=bans)))
    browser.open(stub.url)
    shows("#closes", "the peer broke it 12 0")
    assert "drain" not in browser.text("#closes")
    assert browser.text("#rejections tbody") == "per_ip 17 0 rate 0 5"
    assert browser.text("#certificates tbody") == "old.example.org api ⚠ 5 days www.example.org api 80 days"
    assert browser.text("#bans tbody") == "203.0.113.0/24 1 min 30 s"
    assert browser.text("#verdict") == "✕ refused: listeners[0]: no such app"
    assert browser.text("#changes") == "workers 4→6"


def test_what_strangers_say_is_text(browser: Browser, stub: AdminStub, shows: Shows) -> None:
    stub.conns = (200, [connection(1, HOSTILE, 1)])
    reload = {"verdict": HOSTILE, "reason": HOSTILE, "changes": [HOSTILE]}
    certificates = [{"listener": HOSTILE, "subject": HOSTILE, "ends_at": 0}]
    told = status(version=HOSTILE, why=[HOSTILE], workers=[worker(0, state=HOSTILE)], last_reload=reload)
    told |= {"rejected": {HOSTILE: 1}, "bans": [{"network": HOSTILE, "seconds": 1}], "certificates": certificates}
    stub.tell(("status", told), record(1, HOSTILE, "error"), record(2, "next", HOSTILE))
    browser.open(stub.url)
    for place in (
        "#log",
        "#why",
        "#verdict",
        "#changes",
        "#rejections",
        "#bans",
        "#certificates",
        "#talkers",
        "#tiles",
    ):
        shows(place, HOSTILE)
    assert browser.value("document.querySelectorAll('img').length") == 0
    assert browser.complaints() == []
    assert browser.hosts() == {stub.url.removeprefix("http://")}
    assert {host for _, host in stub.asked} == browser.hosts()
    assert {path for path, _ in stub.asked} == {"/", "/events", "/conns.json"}


def test_top_talkers_are_shown_or_why_they_are_not(browser: Browser, stub: AdminStub, shows: Shows) -> None:
    stub.conns = (200, [connection(n, f"192.0.2.{n}:5000", n * MIB) for n in range(1, 31)])
    browser.open(stub.url)
    shows("#talkers-note", "15 of 30")
    shows("#talkers tbody tr", "192.0.2.30:5000 api 2 1 min 40 s 400 ms 30 MiB 60 MiB — 922 KiB/s")
    stub.conns = (403, {"error": "not for you"})
    shows("#talkers-note", 'not to be had: 403 {"error": "not for you"}')


def test_a_broken_stream_is_told_and_comes_back_without_a_line_twice(
    browser: Browser, stub: AdminStub, shows: Shows
) -> None:
    stub.tell(("status", status()), record(1, "worker is ready"), record(2, "worker has died", "error"))
    browser.open(stub.url)
    shows("#log", "worker has died")
    assert browser.value("document.querySelector('#banner').hidden")
    stub.shut()
    shows("#banner", "no connection since ")
    assert browser.value("document.title") == "⚠ no connection · prefork"
    stub.reopen()
    eventually(lambda: browser.value("document.querySelector('#banner').hidden"))
    assert browser.value("document.querySelectorAll('#log li').length") == 2
    browser.value("document.querySelector('#grave').click()")
    assert "worker is ready" not in browser.text("#log")


def test_a_pause_holds_the_numbers(browser: Browser, stub: AdminStub, shows: Shows) -> None:
    stub.tell(("status", status(uptime=60.0)))
    browser.open(stub.url)
    shows("#facts", "uptime 1 min 0 s")
    browser.press("Tab")
    assert browser.text(":focus") == "Pause"
    browser.press("Enter")
    eventually(lambda: browser.value("document.activeElement.getAttribute('aria-pressed')") == "true")
    stub.tell(("status", status(uptime=120.0)), record(1, "said while it was paused"))
    shows("#log", "said while it was paused")
    assert "uptime 1 min 0 s" in browser.text("#facts")
    browser.press("Enter")
    shows("#facts", "uptime 2 min 0 s")


@pytest.mark.parametrize("screen", [*product([360, 1280, 3840], ["light", "dark"])])
def test_it_fits_a_screen_in_both_schemes(
    browser: Browser, stub: AdminStub, shows: Shows, screen: tuple[int, str], tmp_path: Path
) -> None:
    width, scheme = screen
    stub.conns = (200, [connection(n, f"192.0.2.{n}:5000", n * MIB) for n in range(1, 6)])
    stub.tell(("status", status(0)), ("status", status(1, received=MIB)), record(1, "x" * 400))
    browser.open(stub.url, width, scheme)
    shows("#talkers", "192.0.2.1:5000")
    shows("#log", "x" * 400)
    assert browser.value("innerWidth") == width
    assert browser.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    dark = browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(17, 20, 24)"
    assert dark == (scheme == "dark")
    browser.shoot(tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_the_admin_process_serves_it_and_its_policy_lets_it_work(
    browser: Browser, prepare: Prepare, shows: Shows
) -> None:
    server = prepare(admin={"bind": "tcp://127.0.0.1:0"}).start()
    (port,) = eventually(lambda: re.findall(r"admin listens on tcp://127\.0\.0\.1:(\d+)", server.log()))
    browser.open(f"http://127.0.0.1:{port}/")
    shows("#tiles", "slot 1 ● ready")
    shows("#ready", "● ready")
    shows("#log", "admin listens on ")
    with server.connect() as client:
        exchange(client, b"x" * 5000)
    shows("#listeners tbody", "1 4.9 KiB 4.9 KiB")
    assert browser.complaints() == []
    assert browser.hosts() == {f"127.0.0.1:{port}"}
    browser.open("about:blank")
