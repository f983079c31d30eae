"""`faceid serve` as a person uses it, in a real browser: from the form in the Prefect UI to the report of the run.

`make test-browser` runs this; it needs Chromium (Debian: `apt-get install chromium`; elsewhere
`.venv/bin/playwright install chromium`). With FACEID_SCREENSHOTS=docs/images the pictures of the documentation are
taken again; the people on them are rendered.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from faceid_core.run.records import read_request, read_status, run_ids
from faceid_core.store import open_store
from flows.prefect_auth import auth_file
from tests.browser.conftest import WAIT_SECONDS, keep_picture

pytestmark = pytest.mark.browser

GRID = """\
name: small
prompts:
  - {id: beach, text: "a photo of V* on the beach", category: scene, expected: {scene: beach}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where `faceid serve` is started and its store lies."""
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def reports(folder):
    """A web server that shows the store, as one of the house's would behind its sign-in."""
    (folder / "store").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder / "store"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def served(folder, reports):
    """`faceid serve` on a port of its own, with a small run as the forms' beginning: ({name: address}, store)."""
    (folder / "grid.yaml").write_text(GRID)
    run = {
        "name": "small",
        "store": "store",
        "identities": "miniature:samples",
        "personalize": {"preset": "semantic-fidelity", "slots": 2, "method": {"steps": 2, "samples_per_step": 5}},
        "generate": {"grid": "grid.yaml", "seeds": 1, "steps": 2, "batch": 4},
        "score": {"named_people": 1},
        "execution": {"threads_per_worker": 1},
        "run": {"only": ["sample-9001"], "report_url": reports},
    }
    (folder / "night.yaml").write_text(yaml.safe_dump(run))
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
            # A shell that runs the tests in the background ignores Ctrl-C, and a child inherits that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
    try:
        yield _printed_addresses(log, server), folder / "store"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)


def _printed_addresses(log: Path, server: subprocess.Popen) -> dict[str, str]:
    """Every deployment's page, as `faceid serve` prints it."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        told = log.read_text(errors="replace")
        if "start any of them" in told:
            return dict(
                re.findall(r"^(\S+) +(http://\S+/deployments/deployment/[0-9a-f-]+)$", told, re.MULTILINE)
            )
        assert server.poll() is None, log.read_text(errors="replace")[-2000:]
        time.sleep(0.5)
    raise AssertionError(
        f"no address printed within {WAIT_SECONDS} s: {log.read_text(errors='replace')[-2000:]}"
    )


@pytest.fixture(scope="module")
def signed_in(page, served):
    """The page of somebody who has typed the string once, where the server asks for it."""
    addresses, _ = served
    page.goto(addresses["nightly"])
    field = page.locator("input[type=password]")
    field.wait_for()
    assert "/login" in page.url and "nightly" not in page.inner_text("body")
    keep_picture(page, "prefect-login")
    for string in ("faceid:guess", auth_file().read_text().strip()):
        field.fill(string)
        page.get_by_role("button", name=re.compile("log ?in", re.IGNORECASE)).click()
        page.wait_for_timeout(1500)
        assert ("/login" in page.url) == (string == "faceid:guess")
    return page


def _open_form(page, address: str, about: str = "Everything that one nightly run needs to know.") -> None:
    """From the deployment's page to its form, by the buttons that a person presses."""
    page.goto(address)
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").first.click()
    page.get_by_text(about).first.wait_for()


def _use_json(page) -> None:
    """Show the whole configuration, as the form's description says."""
    page.locator(".schema-form-property__header button").first.click()
    page.locator(".p-overflow-menu-item").filter(has_text="Use JSON input").first.click()


def _fill(page, label: str, value: str) -> None:
    """Type into the form's only field of that label."""
    field = page.locator("label").filter(has_text=re.compile(rf"^{label} \(Optional\)$"))
    field.locator("xpath=../..").locator("input").fill(value)


def test_the_string_is_asked_for_once_and_stands_in_no_address(signed_in, served, folder):
    addresses, _ = served
    secret = auth_file().read_text().strip()
    _open_form(signed_in, addresses["nightly"])
    signed_in.reload()
    signed_in.get_by_text("Everything that one nightly run needs to know.").first.wait_for()
    assert secret not in signed_in.url
    assert secret not in (folder / "serve.log").read_text(), "what is no terminal may be a log"
    server = urlsplit(addresses["nightly"]).netloc
    assert signed_in.asked - {""} == {server}, "the pages ask nothing of anybody else"


def test_the_form_explains_every_choice_and_offers_lists(signed_in, served):
    page = signed_in
    addresses, _ = served
    _open_form(page, addresses["nightly"])
    keep_picture(page, "prefect-form")
    told = page.inner_text("body")
    for sentence in ("Manifest: identities.csv", "Images per prompt", "Identity ids to run", "The date of this run"):
        assert sentence in told, sentence
    assert "Learning rate" not in told and page.locator(".schema-form-property-object label").count() < 40
    chosen = page.locator("button.p-select-button__control").filter(has_text="semantic-fidelity")
    assert chosen.count() == 1, "a preset is chosen from a list, not typed"
    # The other keys are one choice away, with the deployment's values.
    _use_json(page)
    page.get_by_text('"backend"').first.wait_for()


def test_a_wrong_value_of_a_key_that_is_not_shown_starts_nothing(signed_in, served):
    page = signed_in
    addresses, folder = served
    before = run_ids(open_store(str(folder)))
    _open_form(page, addresses["nightly"])
    _use_json(page)
    page.locator("[contenteditable=true], .p-code-input textarea").first.click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text('{"execution": {"attempts": 0}}')
    page.get_by_role("button", name="Submit").click()
    page.get_by_text(re.compile("attempts.*0 is less than the minimum of 1")).first.wait_for()
    assert run_ids(open_store(str(folder))) == before


def test_a_night_is_started_from_the_form_and_its_report_is_opened(signed_in, served, reports):
    page = signed_in
    addresses, folder = served
    _open_form(page, addresses["nightly"])
    _fill(page, "Seeds", "2")
    page.get_by_role("button", name="Submit").click()
    page.locator("a[href*='/flow-run/']").first.click()
    page.get_by_text("Completed", exact=True).first.wait_for(timeout=WAIT_SECONDS * 1000)

    store = open_store(str(folder))
    (run_id,) = run_ids(store)
    request, record = read_request(store, run_id), read_status(store, run_id)
    assert request["config"]["generate"]["seeds"] == 2, "what was typed is what was run"
    assert record["state"] == "complete" and record["outcomes"]["done"] == 1

    date = f"{run_id[:4]}-{run_id[4:6]}-{run_id[6:8]}"
    page.get_by_text(f"small-{date}-miniature-1").first.wait_for()
    keep_picture(page, "prefect-run")
    (key,) = [person["identity_key"] for person in record["people"]]
    page.get_by_text("Artifacts", exact=True).first.click()
    for name in ("outcomes", "figures", "progress", "report"):
        page.get_by_text(name, exact=True).first.wait_for()
    keep_picture(page, "prefect-artifacts")
    assert "sample-9001" not in page.inner_text("body") and len(key) == 32
    of_the_run = page.url

    page.get_by_text("outcomes", exact=True).first.click()
    page.get_by_text(key).first.wait_for()
    keep_picture(page, "prefect-outcomes")
    page.goto(of_the_run)
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_text("report", exact=True).first.click()
    link = page.get_by_role("link", name=f"Report of run {run_id}").first.get_attribute("href")
    assert link == f"{reports}/runs/{run_id}/index.html"
    page.goto(link)
    page.get_by_text(run_id).first.wait_for()
    keep_picture(page, "report-index")
    page.locator(f"a[href*='{key}']").first.click()
    page.get_by_text(re.compile("a photo of V")).first.wait_for()
    assert page.evaluate("Array.from(document.images).every(image => image.naturalWidth > 0)")
    keep_picture(page, "report-person")


def test_an_impossible_value_is_refused_with_its_name(signed_in, served):
    page = signed_in
    addresses, folder = served
    before = run_ids(open_store(str(folder)))
    _open_form(page, addresses["nightly"])
    _fill(page, "Seeds", "0")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text(re.compile("generate.seeds.*0 is less than the minimum of 1")).first.wait_for()
    assert run_ids(open_store(str(folder))) == before, "nothing was started"


def test_a_person_can_be_asked_for_without_json(signed_in, served):
    page = signed_in
    addresses, folder = served
    before = run_ids(open_store(str(folder)))
    assert set(addresses) == {
        "nightly", "personalize-one", "evaluate-only", "study", "erase", "erase-expired-consent", "collect-garbage",
    }  # fmt: skip
    _open_form(page, addresses["personalize-one"], "One identity that is in no manifest, as a form asks for it.")
    for sentence in (
        "Identity id: opaque, no name.",
        "What the person is to the base model",
        "Last day on which",
    ):
        page.get_by_text(sentence).first.wait_for()
    keep_picture(page, "prefect-one-person")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text(re.compile("identity_id|Identity Id")).first.wait_for()
    assert run_ids(open_store(str(folder))) == before, "a person without an id is not started"
