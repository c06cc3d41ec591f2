"""What a summary keeps, in a browser: its segments with the words their vectors stand at, and how much they tell."""

import json
import re

import pytest
from playwright.sync_api import Page, Route, expect

from tests.page.conftest import Open
from tests.page.test_page import SOON
from tests.page.test_questions import compress
from tests.server.test_crash import Server
from tests.tiny import TEXT


def amount(page: Page, index: int) -> float:
    """How strong a highlighted word's tint is."""
    found: str = page.locator(".shown mark").nth(index).evaluate("(mark) => mark.style.getPropertyValue('--amount')")
    return float(found)


def stored(server: Server, title: str) -> str:
    summaries = server.client.get("/summaries").json()["data"]
    return next(str(one["id"]) for one in summaries if one["metadata"].get("title", "").startswith(title))


def test_a_segment_shows_its_text_and_the_words_its_vectors_stand_at(visit_answering: Open, answering: Server) -> None:
    opened = visit_answering()
    page = opened.page
    compress(page, TEXT)
    segments = answering.client.get(f"/summaries/{stored(answering, 'The lighthouse')}/segments").json()["data"]
    tabs = page.get_by_role("tab")
    expect(tabs).to_have_count(len(segments))
    expect(page.locator(".caption")).to_contain_text("Segment 1:")
    tabs.nth(1).hover()
    expect(page.locator(".caption")).to_contain_text("Segment 2: 32 tokens → 4 vectors")
    expect(tabs.nth(1)).to_have_attribute("aria-selected", "true")
    second = segments[1]
    panel = page.get_by_role("tabpanel")
    assert "".join(second["pieces"]).split() == re.sub("[·↵]", "", panel.inner_text()).split()
    marks = page.locator(".shown mark")
    expect(marks).to_have_count(4)
    in_place = sorted(zip(second["anchors"], second["ranks"], strict=True))
    for index, (place, rank) in enumerate(in_place):
        assert second["pieces"][place].strip() in ("", marks.nth(index).inner_text())
        expect(marks.nth(index)).to_have_attribute("title", f"{rank + 1} of 4 in importance")
    by_rank = [index for _, index in sorted((rank, index) for index, (_, rank) in enumerate(in_place))]
    tints = [amount(page, index) for index in by_rank]
    assert tints == sorted(tints, reverse=True)
    assert tints[0] == 1 > tints[-1] > 0
    assert opened.complaints == opened.violations() == []


def test_segments_are_reached_by_keys_and_by_touch(visit_answering: Open) -> None:
    page = visit_answering(viewport={"width": 360, "height": 780}, has_touch=True, color_scheme="dark").page
    compress(page, TEXT)
    tabs = page.get_by_role("tab")
    tabs.nth(0).focus()
    page.keyboard.press("ArrowRight")
    expect(tabs.nth(1)).to_be_focused()
    expect(page.locator(".caption")).to_contain_text("Segment 2:")
    page.keyboard.press("End")
    expect(tabs.last).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("tabpanel")).to_be_focused()
    tabs.nth(2).tap()
    expect(page.locator(".caption")).to_contain_text("Segment 3:")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_long_document_s_segments_come_when_asked_for(visit_answering: Open) -> None:
    page = visit_answering().page
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/segments" in request.url else None)
    compress(page, TEXT * 4)
    tabs = page.get_by_role("tab")
    expect(tabs).to_have_count(24)
    assert len(asked) == 1
    page.get_by_role("button", name="Show more segments").click()
    expect(tabs.nth(24)).to_be_focused()
    expect(page.locator(".caption")).to_contain_text("Segment 25:")
    assert re.search(r"limit=24&after=23$", asked[1])


def test_a_stored_summary_s_segments_are_shown_and_those_without_text_say_so(visit_answering: Open) -> None:
    page = visit_answering().page
    compress(page, "Never kept as text. " * 20, keeps_text=False)
    expect(page.get_by_role("tabpanel")).to_contain_text("The server has no text of it")
    compress(page, "Stored with its text. " * 20)
    expect(page.get_by_role("tabpanel")).to_contain_text("Stored with its text")
    page.reload()
    expect(page.get_by_role("tab")).to_have_count(0)
    page.locator(".stored", has_text="Stored with its text").get_by_role("checkbox").check()
    page.get_by_role("button", name="Ask with these").click()
    expect(page.get_by_role("tabpanel")).to_contain_text("Stored with its text")
    expect(page.locator("#ask").get_by_label("Read the segments")).to_be_enabled()


def test_vectors_that_stand_at_no_words_tint_none(visit: Open) -> None:
    page = visit().page
    compress(page, TEXT)
    expect(page.get_by_role("tabpanel")).to_contain_text("The lighthouse keeper")
    expect(page.locator(".shown mark")).to_have_count(0)
    expect(page.locator(".caption")).to_contain_text("stand at no words")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_was_kept_is_drawn(visit: Open, scheme: str) -> None:
    page = visit(color_scheme=scheme).page
    compress(page, TEXT)
    with page.expect_response("**/compress") as answered:
        page.get_by_role("button", name="Measure what was kept").click()
    measured = answered.value.json()
    assert json.loads(answered.value.request.post_data or "")["measure"] is True
    assert measured["cached_segments"] == measured["segments"]
    retention = measured["retention"]
    figure = page.get_by_role("group", name="What the vectors keep")
    for end in ("none", "summary", "full"):
        expect(figure).to_contain_text(f"{retention[end]:.2f}")
    expect(figure).to_contain_text(f"over the last {retention['scored_tokens']} tokens")


@pytest.mark.parametrize(
    ("share", "says", "place"),
    [
        (0.8, "80 % of what the text gives", 0.8),
        (-0.25, "\N{MINUS SIGN}25 % of what the text gives", 0),
        (1.5, "150 % of what the text gives", 1),
        (None, "The text in full is no help here", None),
    ],
)
def test_where_the_vectors_stand(visit: Open, share: float | None, says: str, place: float | None) -> None:
    page = visit().page
    compress(page, TEXT)

    def measured(route: Route) -> None:
        retention = {"scored_tokens": 50, "context_tokens": 200, "none": 4.0, "summary": 3.2, "full": 3.0}
        route.fulfill(json={"retention": {**retention, "share": share}})

    page.route("**/compress", measured)
    page.get_by_role("button", name="Measure what was kept").click()
    expect(page.locator(".scale .part")).to_have_text(says)
    dot, line = (page.locator(f".scale {name}").bounding_box() for name in (".dot", ".line"))
    if place is None:
        assert dot is None
        return
    assert dot is not None
    assert line is not None
    assert (dot["x"] - line["x"]) / (line["width"] - dot["width"]) == pytest.approx(place, abs=0.01)


def test_a_text_too_short_to_measure_says_so(visit: Open) -> None:
    page = visit().page
    compress(page, "Too short.")
    page.get_by_role("button", name="Measure what was kept").click()
    expect(page.locator(".retention")).to_contain_text("fewer than 64 tokens", timeout=SOON)
