"""A browser, and live servers for it to visit: with the bundled `paper` model, and with one that answers messages."""

import copy
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from model import AutoCompressor
from tests.server.test_crash import Server
from tests.tiny import tiny_base, tiny_tokenizer

ROOT = Path(__file__).parents[2]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
Open = Callable[..., "Visit"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    running = Server(ROOT / "model" / "paper", f"sqlite:{folder}/store.sqlite3", folder / "server.log")
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With a tiny model that nobody trained: a chat template, anchored vectors, 4 for 32 tokens read alone."""
    folder = tmp_path_factory.mktemp("answering")
    tokenizer = copy.deepcopy(tiny_tokenizer())  # that one is shared
    tokenizer.chat_template = TEMPLATE
    base = tiny_base("llama", max_positions=1024)
    model = AutoCompressor.from_base(base, 4, segment_length=32, compressor="anchored", tokenizer=tokenizer)
    model.save_pretrained(folder / "tiny")
    running = Server(folder / "tiny", f"sqlite:{folder}/store.sqlite3", folder / "server.log")
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")  # while it is open its event loop runs, and no other test's can
def browser() -> Iterator[Browser]:
    """Debian's Chromium; a machine without one skips, continuous integration may not."""
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    if binary is None and os.environ.get("CI") != "true":
        pytest.skip("there is no chromium on the PATH")
    assert binary is not None, "continuous integration installs chromium, and it is not there"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """Where screenshots go, to be looked at; git ignores it."""
    folder = ROOT / "artifacts"
    folder.mkdir(exist_ok=True)
    return folder


@dataclass
class Visit:
    """An open page, and what it did that it should not have."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def violations(self) -> list[str]:
        """Breaches of the content security policy."""
        found: list[str] = self.page.evaluate("window.violations")
        return found


@pytest.fixture
def contexts(browser: Browser) -> Iterator[list[BrowserContext]]:
    """Those that a test opens, closed at its end."""
    opened: list[BrowserContext] = []
    yield opened
    for context in opened:
        with suppress(Exception):  # a browser that a failed test has closed
            context.close()


def opener(browser: Browser, contexts: list[BrowserContext], server: Server) -> Open:
    def open_page(**options: Any) -> Visit:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        context.set_default_timeout(20_000)
        context.add_init_script(
            "window.violations = []; addEventListener('securitypolicyviolation', (event) => "
            "violations.push(`${event.violatedDirective} ${event.blockedURI}`))"
        )
        opened = Visit(context.new_page())
        opened.page.on("console", lambda line: opened.complaints.append(line.text) if line.type == "error" else None)
        opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        opened.page.on("request", lambda request: opened.hosts.add(urlsplit(request.url).netloc))
        opened.page.goto(str(server.client.base_url))
        opened.page.get_by_text("window of").wait_for()  # the model is known
        return opened

    return open_page


@pytest.fixture
def visit(browser: Browser, contexts: list[BrowserContext], server: Server) -> Open:
    """Opens the page in a browser context of its own, with Playwright's options of one."""
    return opener(browser, contexts, server)


@pytest.fixture
def visit_answering(browser: Browser, contexts: list[BrowserContext], answering: Server) -> Open:
    """As `visit`, of the server whose model answers messages."""
    return opener(browser, contexts, answering)
