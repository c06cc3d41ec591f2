"""A conversation that is compacted, in a browser: on its way, on demand, and where the server has forgotten it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.page.conftest import Open
from tests.page.test_page import SOON, figure, say
from tests.page.test_questions import bodies, compress
from tests.tiny import TEXT

BECAME = re.compile(r"^\d[\d,]* tokens became \d+ vectors$")
WINDOW = 1024
STORY = " ".join(TEXT.split())  # a line break would send it


def set_threshold(page: Page, positions: int) -> None:
    page.get_by_label("Compact from").fill(str(positions))


def last_response(page: Page, words: str) -> dict[str, Any]:
    """What the server kept of the answer to these words."""
    say(page, words)
    made = page.locator(".talk > .receipt").last.get_attribute("id")
    kept: dict[str, Any] = page.request.get(f"{page.url}v1/responses/{made}").json()
    return kept


def told(page: Page) -> tuple[int, int]:
    """Tokens and vectors of the fold."""
    words = page.locator(".fold > summary strong").inner_text()
    tokens, vectors = re.findall(r"[\d,]+", words)
    return int(tokens.replace(",", "")), int(vectors)


def test_a_conversation_is_compacted_on_its_way_and_goes_on(visit_answering: Open) -> None:
    opened = visit_answering()
    page = opened.page
    expect(page.get_by_label("Compact from")).to_have_value(str(WINDOW // 2))
    set_threshold(page, 192)
    sent = bodies(page)
    say(page, STORY[:500])
    expect(page.locator(".fold")).to_have_count(0)
    first = last_response(page, "What colour is the cat?")
    assert [path for path, _ in sent] == ["v1/responses"] * 2
    assert sent[0][1]["context_management"] == [{"type": "compaction", "compact_threshold": 192}]
    assert "previous_response_id" not in sent[0][1]
    assert sent[1][1]["input"] == [{"role": "user", "content": "What colour is the cat?"}]
    assert sent[1][1]["previous_response_id"].startswith("resp_")

    fold = page.locator(".talk > .fold")
    expect(fold.locator("> summary strong")).to_have_text(BECAME)
    compaction = first["compression"]["compaction"]
    assert told(page) == (compaction["tokens"], compaction["vectors"])
    assert figure(page, "tokens compressed") == compaction["tokens"]
    assert figure(page, "vectors") == first["compression"]["summary_vectors"]
    expect(page.locator(".talk > .said.user")).to_have_text(re.compile("What colour is the cat"))
    expect(fold.locator(".said.user")).to_be_hidden()
    fold.locator("> summary").focus()
    page.keyboard.press("Enter")
    expect(fold.locator(".said.user")).to_contain_text("The lighthouse")
    expect(fold.locator(".said")).to_have_count(2)

    second = last_response(page, STORY[500:1100])
    assert sent[2][1]["previous_response_id"] == first["id"]
    third = last_response(page, "And the ships?")
    expect(page.locator(".fold")).to_have_count(1)  # the new one has the old one's turns, and a seam
    later = [each["compression"]["compaction"] for each in (second, third)]
    new = [each for each in later if each]
    assert new
    assert told(page) == (compaction["tokens"] + sum(each["tokens"] for each in new), new[-1]["vectors"])
    fold.locator("> summary").click()
    expect(page.locator(".seam")).to_have_count(len(new))
    expect(page.locator(".seam").first).to_contain_text("became")
    assert opened.complaints == opened.violations() == []


def test_each_answer_says_what_it_was_read_from_and_what_came_back(visit_answering: Open) -> None:
    page = visit_answering().page
    set_threshold(page, 192)
    say(page, STORY[:500])
    expect(page.locator(".receipt .facts")).to_have_text(re.compile(r"^Read: \d+ tokens as said$"))
    kept = last_response(page, "Tell of the lighthouse keeper.")
    expanded = kept["compression"]["expanded"]
    assert expanded
    last = page.locator(".talk > .receipt")
    expect(last.locator("> .facts")).to_contain_text(f"{sum(each['tokens'] for each in expanded)} tokens as text again")
    back = last.locator("details")
    expect(back).to_have_count(len(expanded))
    expect(back.first).to_contain_text(f"Segment {expanded[0]['segment'] + 1} came back as text")
    back.first.locator("summary").click()
    expect(back.first.locator("p")).to_contain_text("lighthouse", timeout=SOON)


def test_compact_now_folds_all_and_the_conversation_goes_on_from_it(visit_answering: Open) -> None:
    page = visit_answering().page
    button = page.get_by_role("button", name="Compact now")
    expect(button).to_be_disabled()
    say(page, STORY[:300])
    sent = bodies(page)
    button.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".fold strong")).to_have_text(BECAME, timeout=SOON)
    expect(page.get_by_label("Message")).to_be_focused()
    expect(page.locator(".talk > .said")).to_have_count(0)
    expect(button).to_be_disabled()  # there is nothing new
    ((path, body),) = sent
    assert path == "v1/responses/compact"
    assert set(body) == {"model", "previous_response_id"}
    assert figure(page, "vectors") == told(page)[1]
    kept = last_response(page, "What colour is the cat?")
    given = sent[1][1]["input"]
    assert [item["type"] for item in given[:-1]] == ["message", "compaction"]
    assert given[-1] == {"role": "user", "content": "What colour is the cat?"}
    assert "previous_response_id" not in sent[1][1]
    assert kept["compression"]["summary_vectors"] > 0
    expect(page.locator(".talk > .said")).to_have_count(2)
    expect(button).to_be_enabled()


def test_what_fails_is_said_and_a_forgotten_conversation_is_told_anew(visit_answering: Open) -> None:
    page = visit_answering().page
    button = page.get_by_role("button", name="Compact now")
    kept = last_response(page, STORY[:200])

    def overloaded(route: Route) -> None:
        error = {"message": "the server holds 256 requests", "type": "rate_limit_error", "param": None}
        route.fulfill(status=429, headers={"Retry-After": "0"}, json={"error": {**error, "code": "overloaded"}})

    page.route("**/v1/responses/compact", overloaded)
    button.click()
    expect(page.locator("#chat").get_by_role("alert")).to_contain_text("429 overloaded", timeout=SOON)
    expect(page.locator(".fold")).to_have_count(0)
    page.unroute("**/v1/responses/compact")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".fold strong")).to_have_text(BECAME, timeout=SOON)
    expect(page.get_by_role("alert")).to_have_count(0)

    kept = last_response(page, "And then?")
    assert page.request.delete(f"{page.url}v1/responses/{kept['id']}").ok
    page.get_by_label("Message").fill("What colour is the cat?")
    page.get_by_label("Message").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("400 previous_response_not_found", timeout=SOON)
    sent = bodies(page)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".said.assistant")).to_have_count(3, timeout=SOON)
    expect(page.locator("#chat")).to_have_attribute("aria-busy", "false", timeout=SOON)
    assert [item["role"] for item in sent[0][1]["input"]] == ["user", "assistant"] * 2 + ["user"]
    expect(page.locator(".fold")).to_have_count(0)  # of a conversation that is read as it was said


def test_an_answer_that_breaks_off_after_a_compaction_goes_on_from_its_item(visit_answering: Open) -> None:
    page = visit_answering().page
    say(page, "Who lives there?")
    item = {"id": "cmp_1", "type": "compaction", "encrypted_content": "gAAAA"}
    events = [
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "error", "error": {"message": "the batch failed", "type": "server_error", "code": "engine_failed"}},
    ]
    stream = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    page.route("**/v1/responses", lambda route: route.fulfill(content_type="text/event-stream", body=stream))
    sent = bodies(page)
    page.get_by_label("Message").fill("And the cat?")
    page.get_by_label("Message").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("engine_failed", timeout=SOON)
    expect(page.locator(".talk > .fold strong")).to_have_text("What was said above became vectors")
    expect(page.locator(".talk > .said")).to_have_text(re.compile("And the cat"))
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("alert")).to_contain_text("engine_failed", timeout=SOON)
    assert "previous_response_id" in sent[0][1]
    assert sent[1][1]["input"] == [item]  # it has what was asked last
    assert "previous_response_id" not in sent[1][1]


def test_what_was_said_of_a_broken_answer_is_told_to_the_server(visit_answering: Open) -> None:
    page = visit_answering().page
    event = {"type": "response.output_text.delta", "delta": "A keeper"}
    stream = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
    page.route("**/v1/responses", lambda route: route.fulfill(content_type="text/event-stream", body=stream))
    page.get_by_label("Message").fill("Who lives there?")
    page.get_by_label("Message").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("connection_lost", timeout=SOON)
    page.unroute("**/v1/responses")
    sent = bodies(page)
    say(page, "And the cat?")
    assert [item["content"] for item in sent[0][1]["input"]] == ["Who lives there?", "A keeper", "And the cat?"]
    expect(page.locator(".talk > .receipt")).to_have_count(1)


def test_a_conversation_that_reads_a_summary_goes_on_without_it(visit_answering: Open) -> None:
    page = visit_answering().page
    compress(page, TEXT)
    say(page, "Who lives there?")
    sent = bodies(page)
    reading = page.get_by_label("Read the summary above too")
    reading.check()
    expect(page.get_by_label("Compact from")).to_be_disabled()
    expect(page.get_by_role("button", name="Compact now")).to_be_disabled()
    say(page, "And the cat?")
    reading.uncheck()
    say(page, "And the ships?")
    assert [path for path, _ in sent] == ["v1/chat/completions", "v1/responses"]
    assert [message["role"] for message in sent[0][1]["messages"]] == ["user", "assistant", "user"]
    assert [item["role"] for item in sent[1][1]["input"]] == ["user", "assistant", "user"]
    assert sent[1][1]["previous_response_id"].startswith("resp_")


@pytest.mark.parametrize(("name", "width", "scheme"), [("phone", 360, "dark"), ("desktop", 1280, "light")])
def test_it_fits_the_screen(visit_answering: Open, artifacts: Path, name: str, width: int, scheme: str) -> None:
    page = visit_answering(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce").page
    set_threshold(page, 192)
    for words in (STORY[:500], "Tell of the lighthouse keeper.", STORY[500:900], "What colour is the cat?"):
        say(page, words)
    page.locator(".fold > summary").click()
    page.locator("#chat").screenshot(path=artifacts / f"page-compacted-{name}-open.png")
    page.locator(".fold > summary").click()
    page.locator(".talk .receipt details summary").last.click()
    expect(page.locator(".receipt .text p")).not_to_have_count(0, timeout=SOON)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#chat").screenshot(path=artifacts / f"page-compacted-{name}.png")
