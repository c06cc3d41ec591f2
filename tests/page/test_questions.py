"""Ask and Chat in a browser: as messages where there is a chat template, with segments read as text where asked."""

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.page.conftest import Open
from tests.page.test_page import EXAMPLE, SOON, say
from tests.server.test_crash import Server
from tests.tiny import TEXT

EXPANDING = "Read the segments that the question speaks of as text"


def compress(page: Page, text: str, *, keeps_text: bool = True) -> None:
    page.get_by_label("The document's text").fill(text)
    page.get_by_label("Keep the text too").set_checked(keeps_text)
    page.get_by_role("button", name="Compress", exact=True).click()
    expect(page.locator(".chip")).to_contain_text(text.split("\n")[0][:20], timeout=SOON)


def bodies(page: Page) -> list[tuple[str, Any]]:
    """What the page posts from now on: paths and bodies."""
    sent: list[tuple[str, Any]] = []

    def note(request: Any) -> None:
        if request.method == "POST":
            sent.append((request.url.split("/", 3)[3], request.post_data_json))

    page.on("request", note)
    return sent


def ask(page: Page, question: str) -> None:
    page.locator("#prompt").fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#ask")).to_have_attribute("aria-busy", "false", timeout=SOON)


def test_a_model_with_a_chat_template_is_asked_in_messages(visit_answering: Open) -> None:
    opened = visit_answering()
    page = opened.page
    compress(page, TEXT)
    sent = bodies(page)
    page.get_by_label("Question", exact=True).fill("What colour is the cat?")
    ask(page, "What colour is the cat?")
    assert [path for path, _ in sent] == ["v1/chat/completions"] * 3
    (_, summary), (_, text), (_, nothing) = sent
    for body in (summary, text, nothing):
        assert (body["temperature"], body["max_tokens"]) == (0, 48)
        assert [message["role"] for message in body["messages"]] == ["user"]
    given, question = summary["messages"][0]["content"]
    assert given["type"] == "summary"
    assert question == {"type": "text", "text": "What colour is the cat?"}
    assert text["messages"][0]["content"] == f"{TEXT}\n\nWhat colour is the cat?"
    assert text["truncate"] == "left"
    assert nothing["messages"][0]["content"] == "What colour is the cat?"
    for kind in ("summary", "text", "nothing"):
        answer = page.locator(f".answer.{kind}")
        expect(answer.locator(".question")).to_have_text("What colour is the cat?")
        assert answer.locator(".body p").last.inner_text()
        expect(answer.locator("dd").first).to_have_text(re.compile(r"\d m?s$"))
    expect(page.locator(".answer.summary .read")).to_have_text(re.compile(r"^\d+ vectors \+ \d+ tokens$"))
    expect(page.locator(".answer.text .read")).to_have_text(re.compile(r"^\d+ tokens$"))
    assert opened.complaints == opened.violations() == []


def test_a_model_without_one_continues_a_text(visit: Open) -> None:
    page = visit().page
    compress(page, TEXT)
    sent = bodies(page)
    expect(page.get_by_label("Text to continue")).to_have_attribute("placeholder", re.compile("^The last thing"))
    page.get_by_text("Sampling").click()
    expect(page.get_by_label("Temperature")).to_have_value("0.7")
    page.get_by_label("Tokens", exact=True).fill("8")
    ask(page, "The keeper")
    assert [path for path, _ in sent] == ["generate", "v1/completions", "generate"]
    assert "expand" not in sent[0][1]
    expect(page.locator(".answer.summary .question")).to_have_count(0)


def test_the_example_brings_its_own_question_and_what_the_text_answers(visit_answering: Open) -> None:
    page = visit_answering().page
    page.get_by_role("button", name="Load an example").click()
    expect(page.get_by_label("Question", exact=True)).to_have_value(EXAMPLE["question"])
    expect(page.get_by_label("The document's text")).not_to_have_value("")
    ask(page, EXAMPLE["question"])
    expect(page.locator(".expected")).to_have_text(f"The text says: {EXAMPLE['answer']}")
    ask(page, "Another question?")
    expect(page.locator(".expected")).to_have_text("")
    page.get_by_role("button", name="Load an example").click()
    expect(page.get_by_label("Question", exact=True)).to_have_value("Another question?")


@pytest.mark.parametrize("opening", ["visit", "visit_answering"])
def test_segments_that_a_question_speaks_of_are_read_as_text(request: pytest.FixtureRequest, opening: str) -> None:
    page = request.getfixturevalue(opening)().page
    area = page.locator("#ask")
    switch = area.get_by_label(EXPANDING)
    expect(switch).to_be_disabled()
    compress(page, TEXT.strip() + " The inspector counted pelicans.", keeps_text=True)
    expect(area.get_by_label("Segments to read as text")).to_be_disabled()
    switch.check()
    expect(area.get_by_label("Segments to read as text")).to_have_value("2")
    area.get_by_label("Segments to read as text").fill("1")
    sent = bodies(page)
    ask(page, "pelicans")
    assert sent[0][1]["expand"] == {"segments": 1}
    assert all("expand" not in body for _, body in sent[1:])
    expect(page.locator(".answer.summary .read")).to_have_text(re.compile(r"segment \d+ as text$"))
    ask(page, "zzz")
    expect(page.locator(".answer.summary .read")).to_contain_text("no segment shares a word with it")
    compress(page, "Kept without its text. " * 20, keeps_text=False)
    expect(switch).to_be_disabled()
    expect(area.locator(".switch")).to_contain_text("The server has no text of")
    ask(page, "pelicans")
    expect(page.locator(".answer.summary").get_by_role("alert")).to_have_count(0)


def test_the_chat_reads_the_summary_and_its_segments_where_asked(visit_answering: Open) -> None:
    page = visit_answering().page
    area = page.locator("#chat")
    reading, switch = area.get_by_label("Read the summary above too"), area.get_by_label(EXPANDING)
    expect(reading).to_be_disabled()
    compress(page, TEXT)
    expect(switch).to_be_enabled()  # for what is compressed of the chat itself
    reading.check()
    switch.check()
    sent = bodies(page)
    say(page, "Tell of the cat.")
    ((path, body),) = sent
    assert path == "v1/chat/completions"
    assert [part["type"] for part in body["messages"][0]["content"]] == ["summary", "text"]
    assert body["expand"] == {"segments": 2}
    expect(page.locator(".meter")).to_contain_text("read as text")
    reading.uncheck()
    say(page, "And of the ships?")
    assert sent[1][0] == "v1/responses"
    assert [item["content"] for item in sent[1][1]["input"]][::2] == ["Tell of the cat.", "And of the ships?"]
    assert sent[1][1]["expand"] == {"segments": 2}, "of what is compressed of the chat itself"


def test_the_page_says_how_segments_are_read_and_that_nothing_was_trained(
    visit: Open, visit_answering: Open, server: Server, answering: Server
) -> None:
    trained, untrained = visit().page, visit_answering().page
    assert server.client.get("/info").json()["model"]["is_trained"]
    expect(trained.get_by_role("note")).to_have_count(0)
    expect(trained.locator("#reading")).to_contain_text("given all before it")
    assert not answering.client.get("/info").json()["model"]["is_trained"]
    expect(untrained.get_by_role("note")).to_contain_text("22 % of what the text of a segment gives")
    expect(untrained.get_by_role("note")).to_contain_text("autocompressor train")
    expect(untrained.locator("#reading")).to_contain_text("read alone")
