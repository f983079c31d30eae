"""A page of a real browser, for every test here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

# A machine that does other work beside may need more.
WAIT_SECONDS = int(os.environ.get("FACEID_BROWSER_WAIT_SECONDS", "240"))
NO_CHROMIUM = (
    "no Chromium on this machine; install it (Debian: apt-get install chromium; elsewhere: "
    ".venv/bin/playwright install chromium) and run make test-browser again"
)


@pytest.fixture(scope="module")
def page():
    """A page of a real browser; `page.asked` collects the hosts that it asks, `page.told` what its console says."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        chromium = chromium or playwright.chromium.executable_path
        assert Path(chromium).is_file(), NO_CHROMIUM
        browser = playwright.chromium.launch(executable_path=chromium, args=quiet)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(WAIT_SECONDS * 250)
        page.asked = set()  # hosts; pictures in the page itself have none
        page.on("request", lambda request: page.asked.add(urlsplit(request.url).netloc))
        page.told = []
        page.on("console", lambda message: page.told.append(message.text))
        page.on("pageerror", lambda error: page.told.append(str(error)))
        yield page
        browser.close()


def keep_picture(page, name: str) -> None:
    """Keep what the page shows, where FACEID_SCREENSHOTS says."""
    folder = os.environ.get("FACEID_SCREENSHOTS")
    if folder:
        page.wait_for_timeout(1000)  # the page's own movements end
        page.screenshot(path=Path(folder) / f"{name}.png")
