"""`faceid serve` as a person uses it: the form in the Prefect UI, in a real browser, starts a night.

`make test-browser` runs this; it needs Chromium (Debian: `apt-get install chromium`).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from faceid_core.night.runs import read_status, run_ids
from faceid_core.store import open_store

pytestmark = pytest.mark.browser

GRID = """\
name: small
prompts:
  - {id: beach, text: "a photo of V* on the beach", category: scene, expected: {scene: beach}}
"""
WAIT_SECONDS = 240


@pytest.fixture(scope="module")
def page():
    """A page of a real browser."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert chromium, "no Chromium on this machine; install it (Debian: apt-get install chromium)"
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=quiet)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """`faceid serve` on a port of its own, with a small night as the form's beginning: (address, store)."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "grid.yaml").write_text(GRID)
    night = {
        "name": "small",
        "store": str(folder / "store"),
        "identities": "miniature:samples",
        "personalize": {"slots": 2, "method": {"steps": 2, "samples_per_step": 5}},
        "generate": {"grid": str(folder / "grid.yaml"), "seeds": 1, "steps": 2, "batch": 4},
        "score": {"named_people": 1},
        "execution": {"threads_per_worker": 1},
        "run": {"only": ["sample-9001"]},
    }
    (folder / "night.yaml").write_text(yaml.safe_dump(night))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    environment |= {"PREFECT_HOME": str(folder / "prefect"), "PYTHONUNBUFFERED": "1"}
    log = folder / "serve.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [str(Path(sys.executable).parent / "faceid"), "serve", "--config", "night.yaml", "--port", str(port)],
            cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield _printed_address(log, server), folder / "store"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)


def _printed_address(log: Path, server: subprocess.Popen) -> str:
    """The deployment's page, as `faceid serve` prints it."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        found = re.search(r"http://\S+/deployments/deployment/[0-9a-f-]+", log.read_text(errors="replace"))
        if found:
            return found.group()
        assert server.poll() is None, log.read_text(errors="replace")[-2000:]
        time.sleep(0.5)
    raise AssertionError(
        f"no address printed within {WAIT_SECONDS} s: {log.read_text(errors='replace')[-2000:]}"
    )


def _open_form(page, address: str) -> None:
    """From the deployment's page to its form, by the buttons that a person presses."""
    page.goto(address)
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").first.click()
    page.get_by_text("Everything that one nightly run needs to know.").wait_for()


def _fill(page, label: str, value: str) -> None:
    """Type into the form's only field of that label."""
    field = page.locator("label").filter(has_text=re.compile(rf"^{label} \(Optional\)$"))
    field.locator("xpath=../..").locator("input").fill(value)


def test_the_form_explains_every_choice_and_offers_lists(page, served):
    address, _ = served
    _open_form(page, address)
    told = page.inner_text("body")
    for sentence in (
        "Learning rate",
        "Face detector and parser",
        "Pictures per prompt",
        "Identity ids to run",
    ):
        assert sentence in told, sentence
    for value in ("semantic-fidelity", "DPMSolverMultistepScheduler", "float32"):
        chosen = page.locator("button.p-select-button__control").filter(has_text=value)
        assert chosen.count() == 1, f"{value} is chosen from a list, not typed"


def test_a_night_is_started_from_the_form_and_its_result_is_shown(page, served):
    address, folder = served
    _open_form(page, address)
    _fill(page, "Seeds", "2")
    page.get_by_role("button", name="Submit").click()
    page.locator("a[href*='/flow-run/']").first.click()
    page.get_by_text("Completed", exact=True).first.wait_for(timeout=WAIT_SECONDS * 1000)

    store = open_store(str(folder))
    (run_id,) = run_ids(store)
    request, record = read_status(store, run_id)
    assert request["config"]["generate"]["seeds"] == 2, "what was typed is what was run"
    assert record["state"] == "complete" and record["outcomes"]["done"] == 1

    (key,) = [person["identity_key"] for person in record["people"]]
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_text(re.compile("Report lies|Outcomes of run|Where the report lies")).first.wait_for()
    assert "sample-9001" not in page.inner_text("body") and len(key) == 32


def test_an_impossible_value_is_refused_with_its_name(page, served):
    address, folder = served
    before = run_ids(open_store(str(folder)))
    _open_form(page, address)
    _fill(page, "Seeds", "0")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text(re.compile("generate.seeds.*0 is less than the minimum of 1")).first.wait_for()
    assert run_ids(open_store(str(folder))) == before, "nothing was started"
