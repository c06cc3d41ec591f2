"""The page in a browser: a whole session, what it shows when refused, a phone, the dark."""

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from tests.page.conftest import ROOT, Open
from tests.server.test_crash import Server

SOON = 20_000  # milliseconds: a machine may be busy
CHAPTER = (ROOT / "examples" / "chapter.txt").read_text()[:8000]
EXAMPLE = json.loads((ROOT / "server" / "http" / "static" / "example.json").read_text())


def compress_example(page: Page) -> None:
    page.get_by_role("button", name="Load an example").click()
    expect(page.get_by_label("The document's text")).not_to_have_value("")
    expect(page.get_by_label("Text to continue")).to_have_value(EXAMPLE["continue"])
    compress_text(page)


def compress_text(page: Page) -> None:
    page.get_by_role("button", name="Compress", exact=True).click()
    expect(page.locator(".comparison")).to_contain_text("vectors", timeout=SOON)
    expect(page.locator(".stored")).not_to_have_count(0, timeout=SOON)


def ask(page: Page) -> None:
    if not page.get_by_label("Tokens", exact=True).is_visible():
        page.get_by_text("Sampling").click()
    page.get_by_label("Tokens", exact=True).fill("32")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#ask")).to_have_attribute("aria-busy", "false", timeout=SOON)


def measure(page: Page) -> None:
    page.get_by_role("button", name="Measure", exact=True).click()
    expect(page.locator(".verdict")).to_contain_text("nats", timeout=SOON)


def say(page: Page, words: str) -> None:
    said = page.locator(".said.assistant").count()
    page.get_by_label("Message").press("End")
    page.get_by_label("Message").press_sequentially(words)
    page.get_by_label("Message").press("Enter")
    expect(page.locator(".said.assistant")).to_have_count(said + 1, timeout=SOON)
    expect(page.locator("#chat")).to_have_attribute("aria-busy", "false", timeout=SOON)


def figure(page: Page, name: str) -> int:
    return int(page.locator(".meter dl div", has_text=name).locator("dd").inner_text().replace(",", ""))


def screenshot(page: Page, path: Path) -> None:
    page.evaluate("document.activeElement.blur(); scrollTo({ top: 0, behavior: 'instant' })")
    page.screenshot(path=path, full_page=True, animations="disabled")


def test_a_whole_session(visit: Open, server: Server, artifacts: Path) -> None:
    """Compress, ask, measure, chat, delete: as a reader would, with the server that people have."""
    for summary in server.client.get("/summaries").json()["data"]:
        server.client.delete(f"/summaries/{summary['id']}").raise_for_status()
    opened = visit()
    page = opened.page
    expect(page.locator("#library")).to_contain_text("Nothing is stored yet")
    screenshot(page, artifacts / "page-empty.png")
    page.get_by_label("The document's text").fill(CHAPTER)
    compress_text(page)
    page.get_by_label("Text to continue").fill("I looked at")
    num_segments = page.locator(".cell").count()
    assert num_segments > 4
    expect(page.locator(".cell.made")).to_have_count(num_segments)
    expect(page.locator(".progress .facts")).to_contain_text(f"{num_segments} segments")

    ask(page)
    for kind in ("summary", "text", "nothing"):
        answer = page.locator(f".answer.{kind}")
        assert len(answer.locator(".body p").last.inner_text()) > 20
        expect(answer.locator("dd").first).to_have_text(re.compile(r"\d m?s$"))
        expect(answer.locator("dd").last).to_have_text(re.compile(r"^\d+$"))
    expect(page.locator(".answer.summary .read")).to_contain_text("vectors")
    expect(page.locator(".answer.text .read")).to_contain_text("left out")

    measure(page)
    assert page.locator(".mark").count() > 60
    page.locator(".mark").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".mark").nth(1)).to_be_focused()
    expect(page.locator(".tip")).to_contain_text("without")
    expect(page.locator(".stored")).to_have_count(1)  # the first part's own summary is not left behind

    page.get_by_role("button", name="Add the document above").click()
    say(page, "What did she do?")
    assert figure(page, "tokens compressed") > 1000
    say(page, "And then?")
    expect(page.locator(".meter .facts")).to_contain_text(re.compile(r"^[\d,]+ of [\d,]+ input positions known"))
    screenshot(page, artifacts / "page-light.png")

    example = page.locator(".stored", has_text="CHAPTER III")
    example.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Keep it").click()
    expect(example).to_have_count(1)
    example.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(example).to_have_count(0, timeout=SOON)
    expect(page.locator(".answer.summary")).to_contain_text("Compress a document")

    assert opened.complaints == []
    assert opened.violations() == []
    assert opened.hosts == {server.client.base_url.netloc.decode()}


def test_several_summaries_are_asked_together_and_stopped(visit: Open) -> None:
    page = visit().page
    for text in ("The keeper wrote one line a day. " * 40, "Eleven ships passed in the fog. " * 40):
        page.get_by_label("The document's text").fill(text)
        page.get_by_role("button", name="Compress", exact=True).click()
        expect(page.locator(".chip")).to_contain_text(text[:20], timeout=SOON)
    expect(page.locator(".stored", has_text="The keeper")).to_have_count(1, timeout=SOON)
    for title in ("The keeper", "Eleven ships"):
        page.locator(".stored", has_text=title).get_by_role("checkbox").check()
    page.get_by_role("button", name="Fuse 2 and ask").click()
    expect(page.locator(".chip")).to_have_count(2)
    page.get_by_label("Text to continue").fill("On the last day")
    page.get_by_text("Sampling").click()
    page.get_by_label("Tokens", exact=True).fill("512")
    page.get_by_label("Text to continue").press("Enter")
    expect(page.locator(".answer.summary dd").first).to_have_text(re.compile("s$"), timeout=SOON)
    page.locator("#ask").get_by_role("button", name="Stop").click()
    expect(page.locator("#ask")).to_have_attribute("aria-busy", "false")
    expect(page.locator(".stopped")).not_to_have_count(0)


def test_what_the_command_line_stored_goes_by_its_file(visit: Open, server: Server) -> None:
    for metadata in ({"file": "logs/may.txt"}, {"file": "logs/june.txt", "title": "June at the light"}):
        body = {"text": f"Kept in {metadata['file']}.", "metadata": metadata}
        server.client.post("/compress", json=body).raise_for_status()
    library = visit().page.locator("#library")
    expect(library.get_by_role("checkbox", name="logs/may.txt")).to_have_count(1, timeout=SOON)
    expect(library.get_by_role("checkbox", name="June at the light")).to_have_count(1)


def test_compressing_again_on_the_page_keeps_other_metadata(visit: Open, server: Server) -> None:
    body = {"text": "Sent from a program first.", "metadata": {"project": "x"}}
    made = server.client.post("/compress", json=body).raise_for_status().json()
    page = visit().page
    page.get_by_label("The document's text").fill(body["text"])
    page.get_by_role("button", name="Compress", exact=True).click()
    expect(page.locator(".chip")).to_contain_text("Sent from", timeout=SOON)
    kept = server.client.get(f"/summaries/{made['id']}").json()["metadata"]
    assert kept == {"project": "x", "title": "Sent from a program first."}


def test_refusals_are_shown_in_the_server_s_words(visit: Open, artifacts: Path) -> None:
    page = visit().page
    page.get_by_role("button", name="Compress", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Paste a text first")
    page.get_by_label("The document's text").fill("far too long " * 9000)
    page.get_by_role("button", name="Compress", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("413 context_length_exceeded", timeout=SOON)
    screenshot(page, artifacts / "page-error.png")

    def overloaded(route: Route) -> None:
        error = {"message": "the server holds 256 requests", "type": "rate_limit_error", "param": None}
        route.fulfill(status=429, headers={"Retry-After": "1"}, json={"error": {**error, "code": "overloaded"}})

    page.get_by_label("The document's text").fill("Short enough.")
    page.route("**/compress", overloaded)
    page.get_by_role("button", name="Compress", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("The server is full")
    expect(page.get_by_role("button", name="Try again in 1 s")).to_be_disabled()
    screenshot(page, artifacts / "page-overload.png")
    page.unroute("**/compress")
    page.get_by_role("button", name="Try again", exact=True).click()
    expect(page.locator(".comparison")).to_be_visible(timeout=SOON)
    expect(page.get_by_role("alert")).to_have_count(0)

    page.route("**/generate", lambda route: route.abort())
    page.get_by_label("Text to continue").fill("On")
    ask(page)
    expect(page.locator(".answer.nothing").get_by_role("alert")).to_contain_text("cannot be reached")


@pytest.mark.parametrize(
    ("name", "width", "scheme"), [("phone", 360, "light"), ("phone", 360, "dark"), ("desktop", 1280, "dark")]
)
def test_it_fits_and_is_dark_where_asked(visit: Open, artifacts: Path, name: str, width: int, scheme: str) -> None:
    page = visit(viewport={"width": width, "height": 780}, color_scheme=scheme).page
    compress_example(page)
    ask(page)
    measure(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", paper)[0]) < 60) is (scheme == "dark")
    screenshot(page, artifacts / f"page-{name}-{scheme}.png")
    for theme in ("light", "dark", "as the system"):
        page.get_by_role("button", name=re.compile("^Theme")).click()
        expect(page.get_by_role("button", name=f"Theme: {theme}")).to_be_visible()


def test_a_page_that_is_opened_while_the_model_is_loaded_waits_for_it(visit: Open) -> None:
    page = visit().page
    refused = {"info": False, "summaries": False}
    error = {"message": "the model is being loaded", "type": "server_error", "param": None, "code": "not_ready"}

    def at_first_refused(route: Route) -> None:
        name = urlsplit(route.request.url).path.removeprefix("/")
        if refused[name]:
            route.continue_()
        else:
            refused[name] = True
            route.fulfill(status=503, headers={"Retry-After": "5"}, json={"error": error})

    page.route(re.compile(r"/(info|summaries\?.*)$"), at_first_refused)
    page.reload()
    expect(page.locator("#model")).to_have_text("The model is being loaded…")
    expect(page.locator("#model")).to_contain_text("window of", timeout=SOON)
    expect(page.locator("#library .notice")).to_have_count(0)


def test_the_keyboard_reaches_everything_and_is_seen(visit: Open) -> None:
    page = visit(reduced_motion="reduce").page
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the document")).to_be_focused()
    seen: set[str] = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        assert outline != "none" or page.evaluate("document.activeElement === document.body")
        if "Send" in seen:
            break
    assert seen >= {"theme", "text", "Load an example", "Compress", "prompt", "Ask", "Refresh", "message", "Send"}


def test_files_are_cached_by_their_content_and_nothing_else_is_served(server: Server) -> None:
    page = server.client.get("/")
    assert page.headers["content-security-policy"].startswith("default-src 'none';")
    assert server.client.head("/").headers["etag"] == page.headers["etag"]
    for path in re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text):
        whole = server.client.get(path).raise_for_status()
        again = server.client.get(path, headers={"If-None-Match": whole.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    for path in ("/static/none.js", "/static/..%2fapp.py", "/static/%2e%2e/app.py"):
        refused = server.client.get(path)
        assert refused.status_code == 404
        assert refused.json()["error"]["code"] == "not_found"
