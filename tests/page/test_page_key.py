"""The page at a server that wants a key: asked for once, sent as a bearer token, kept in its tab."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.page.conftest import ROOT
from tests.server.keys import ALL, KEYS
from tests.server.test_crash import Server

SOON = 20_000  # milliseconds: a machine may be busy


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("locked")
    store, log = f"sqlite:{folder}/store.sqlite3", folder / "server.log"
    running = Server(ROOT / "model" / "paper", store, log, "--api-keys", ALL)
    try:
        yield running
    finally:
        running.stop()
    assert not any(key in log.read_text() for key in KEYS.values())


def opened(browser: Browser, contexts: list[BrowserContext], server: Server) -> Page:
    context = browser.new_context()
    contexts.append(context)
    context.set_default_timeout(SOON)
    context.add_init_script(
        "window.violations = []; addEventListener('securitypolicyviolation', (event) => "
        "violations.push(`${event.violatedDirective} ${event.blockedURI}`))"
    )
    page = context.new_page()
    page.goto(str(server.client.base_url))
    return page


def test_a_key_is_asked_for_and_then_sent(browser: Browser, contexts: list[BrowserContext], locked: Server) -> None:
    page = opened(browser, contexts, locked)
    dialog = page.get_by_role("dialog", name="This server wants a key")
    expect(dialog).to_be_visible()
    expect(page.get_by_text("is not valid")).to_be_hidden()
    page.get_by_label("Key", exact=True).fill("ac-nobody-s")
    page.get_by_label("Key", exact=True).press("Enter")
    expect(page.get_by_text("is not valid")).to_be_visible()
    page.get_by_label("Key", exact=True).fill(f"  {KEYS['reader']}\u200b")
    page.get_by_role("button", name="Use this key").click()
    expect(dialog).to_be_hidden()
    page.get_by_text("window of").wait_for()  # what was asked before is answered now
    assert page.get_by_role("alert").count() == 0
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    page.get_by_label("The document's text").fill("A short text, kept by whoever has the key.")
    page.get_by_role("button", name="Compress", exact=True).click()
    expect(page.locator(".stored")).to_have_count(1)
    page.reload()
    expect(page.locator(".stored")).to_have_count(1)
    expect(dialog).to_be_hidden()
    other = opened(browser, contexts, locked)
    other.get_by_label("Key", exact=True).fill(KEYS["writer"])
    other.get_by_label("Key", exact=True).press("Enter")
    other.get_by_text("window of").wait_for()
    expect(other.locator(".stored")).to_have_count(0)
    page.get_by_role("button", name="Forget the key").click()
    expect(dialog).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0
    assert page.evaluate("window.violations") == other.evaluate("window.violations") == []


def test_without_a_key_the_page_says_so_and_asks_again(
    browser: Browser, contexts: list[BrowserContext], locked: Server
) -> None:
    page = opened(browser, contexts, locked)
    page.get_by_role("button", name="Go on without").click()
    notice = page.get_by_role("alert").first
    expect(notice).to_contain_text("A key is wanted")
    expect(notice).to_contain_text("401 invalid_api_key")
    notice.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("dialog", name="This server wants a key")).to_be_visible()


def test_a_script_from_elsewhere_or_in_the_page_does_not_run(
    browser: Browser, contexts: list[BrowserContext], locked: Server
) -> None:
    page = opened(browser, contexts, locked)
    page.get_by_role("dialog", name="This server wants a key").wait_for()
    page.evaluate(
        "() => { const script = document.createElement('script');"
        " try { script.textContent = 'window.ran = true'; } catch { window.refused = true }"
        " document.body.append(script) }"
    )
    page.evaluate("fetch('https://elsewhere.example/').catch(() => null)")
    assert page.evaluate("[window.ran, window.refused]") == [None, True]
    assert any("connect-src" in each for each in page.evaluate("window.violations"))
