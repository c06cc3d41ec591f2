"""Writes docs/compaction.png: the page's chat with the default model, once what was said first has been compacted.

PYTHONPATH=. python docs/picture.py
"""

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from benchmarks.live import LiveServer

DOCS = Path(__file__).parent
SOON = 120_000  # milliseconds
THRESHOLD = 512  # positions, the least that the page has
SAID = (
    "The beekeeper of our village is called Ottoline Marsh. She keeps forty hives behind the chapel, and sells the "
    "honey on Saturdays. Her brother Casper mends clocks in the old mill, and has not sold one in years.",
    "In winter the road to the pass is closed, and the post comes by sledge once a week. The schoolmaster, Mr Imre, "
    "reads the letters aloud to those who cannot read, and writes their answers for a jar of honey.",
    "The lighthouse at the end of the bay was built of red stone. Its lamp burns rape oil, and its keeper writes one "
    "line a day: the wind, the ships, the fog. In March he counted eleven ships and no fog.",
    "The chapel has a bell that nobody rings. It was cast from a ship's anchor, and the rope was sold long ago.",
    "What is the name of the beekeeper of our village?",
)


def say(page: Page, words: str) -> None:
    said = page.locator(".said.assistant").count()
    page.get_by_label("Message").fill(words)
    page.get_by_label("Message").press("Enter")
    expect(page.locator(".said.assistant")).to_have_count(said + 1, timeout=SOON)
    expect(page.locator("#chat")).to_have_attribute("aria-busy", "false", timeout=SOON)


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with (
        tempfile.TemporaryDirectory() as folder,
        LiveServer(Path(folder)) as server,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]) as browser,
    ):
        page = browser.new_page(viewport={"width": 1280, "height": 1100})
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.get_by_label("Compact from").fill(str(THRESHOLD))
        page.locator("#chat").get_by_label("Read the segments that the question speaks of as text").check()
        page.locator("#chat").get_by_role("spinbutton").fill("1")
        for words in SAID:
            say(page, words)
        page.evaluate("document.activeElement.blur(); document.querySelector('.talk').scrollTop = 0")
        page.locator("#chat").screenshot(path=DOCS / "compaction.png", animations="disabled")


if __name__ == "__main__":
    main()
