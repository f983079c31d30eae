"""The pages of a run with a thousand people in a real browser: nothing is cut at three widths, in light and dark, axe
finds nothing, and the table of people can be sorted, filtered and searched without a network.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from faceid_core.evaluate.grid import load_grid
from faceid_core.evaluate.metric_rows import MetricRows
from faceid_core.evaluate.summary import SubjectScores, summarize
from faceid_core.report.comparison_page import comparison_page
from faceid_core.report.gallery_page import SIDE, gallery_page, strip
from faceid_core.report.index_page import index_page
from faceid_core.report.overlays import embedded
from faceid_core.report.person_page import person_page
from faceid_core.report.synthetic_mark import SyntheticMark
from tests.browser.conftest import keep_picture
from tests.helpers.report_inputs import made_person, made_scores

pytestmark = pytest.mark.browser

PEOPLE = 1000
WIDTHS = (360, 768, 1440)
GRID = load_grid("miniature")
RUN = {
    "run_id": "20260102-nightly-0a1b2c3d", "base_digest": "b" * 64, "run_date": dt.date(2026, 1, 2),
    "about": {"base model": "miniature", "method": "semantic-fidelity", "pictures": "24 prompts x 2 seeds"},
}  # fmt: skip
KEYS = [hashlib.sha256(str(number).encode()).hexdigest()[:32] for number in range(PEOPLE)]


def scores(seed: int, identity: float, accuracy: float) -> MetricRows:
    return made_scores(GRID.prompts, seed, identity, accuracy, ("leakage", 0.25, "clothes"))


@pytest.fixture(scope="module")
def summary() -> list[dict]:
    """Rows of `identity_summary` of a thousand people, floor and ceiling."""
    subjects = [
        SubjectScores("person", KEYS[0], "woman", scores(1, 0.6, 0.8), scores(2, 0.2, 0.9), "ann", KEYS[0], 48, 75.0),
        SubjectScores("class_word", "woman", "woman", scores(5, 0.1, 0.9), images=48),
        SubjectScores("named", "kai moreau", "woman", scores(6, 0.8, 0.9), images=48),
    ]
    categories = {prompt.id: prompt.category for prompt in GRID.prompts}
    rows = summarize(subjects, run_id=RUN["run_id"], run_date=RUN["run_date"], categories=categories)
    rng = np.random.default_rng(0)
    copies = []
    for key in KEYS[1:]:
        shift = float(rng.normal(0, 0.1))
        moved = {name: rows[0][name] + shift for name in rows[0] if name.startswith("identity_similarity")
                 and rows[0][name] is not None}  # fmt: skip
        copies.append(rows[0] | moved | {
            "identity_key": key, "subject": key, "concepts_obeyed": float(np.clip(rng.normal(0.8, 0.1), 0, 1)),
        })  # fmt: skip
    return rows + copies


@pytest.fixture(scope="module")
def address(summary, tmp_path_factory):
    """A web server with the pages of one run."""
    root = tmp_path_factory.mktemp("report")
    (root / "runs").mkdir()
    reports = [
        {"identity_key": key, "outcome": "done", "attempts": 1, "seconds": 75.0, "weak": number % 50 == 7,
         "message": "try another photo" if number % 50 == 7 else None}
        for number, key in enumerate(KEYS)
    ]  # fmt: skip
    for number in range(3, PEOPLE, 40):
        reports[number] = {
            "identity_key": KEYS[number], "outcome": "rejected", "stage": "detect", "reason": "no_face", "value": 0.12,
            "threshold": 0.4, "message": "No face was found in the photo; send one that shows the whole face.",
        }  # fmt: skip
    changes = [{"identity_key": KEYS[3], "kind": "outcome", "text": "rejected (no_face), was done"}]
    changes += [{"identity_key": key, "kind": "worse", "text": "normalized identity −0.31"} for key in KEYS[4:6]]
    urls = {key: f"person-{key}.html" for key in KEYS}
    told = {"compared_with": "20260101-nightly-00000000", "comparison_url": "comparison.html"}
    pages = {
        "index": index_page(
            run=RUN, outcome_reports=reports, summary=summary, person_urls=urls, changes=changes,
            gallery_url="gallery.html", sentence="current: 20260102-nightly-0a1b2c3d", **told,
        ),
        "comparison": comparison_page(
            run_id=RUN["run_id"], changes=changes, sentence="", least_people=20, index_url="index.html",
            comparisons=[{
                "first": told["compared_with"], "people": 900, "too_few": False, "fails": True, "differences": [{
                    "figure": "identity", "people": 900, "mean": -0.05, "low": -0.06, "high": -0.04,
                    "detectable": 0.01, "limit": -0.02, "fails": True,
                }],
            }],
        ),
        "gallery": gallery_page(
            run_id=RUN["run_id"], prompts=[prompt.text for prompt in GRID.prompts], seed=0, index_url="index.html",
            people=[{"identity_key": key, "weak": False, "url": urls[key], "strip": "strip.jpg"} for key in KEYS],
        ),
        f"person-{KEYS[0]}": one_person(summary),
    }  # fmt: skip
    for name, page in pages.items():
        (root / "runs" / f"{name}.html").write_bytes(page)
    colors = [np.full((64, 64, 3), 10 * number, np.uint8) for number in range(len(GRID.prompts))]
    (root / "runs" / "strip.jpg").write_bytes(strip(colors, SyntheticMark("ab" * 32)))
    (root / "runs" / "favicon.ico").write_bytes(b"")  # which a browser asks for
    handler = partial(SimpleHTTPRequestHandler, directory=str(root / "runs"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def one_person(summary) -> bytes:
    shown, pictures, heat = made_person(GRID)
    word = {(row.prompt, row.seed): embedded(row.image, most_pixels=112) for row in pictures}
    return person_page(
        run=RUN, person={"identity_key": KEYS[0], "class_word": "woman", "outcome": "done", "weak": True},
        photo=shown.image, crop=shown.image, mask=(shown.labels == 1).astype(np.float32), face_box=shown.boxes[0],
        quality={"face_pixels": 41.37, "sharpness": 0.8214}, attention_before=heat, attention_after=heat[::-1],
        curve=[{"step": step, "loss_diffusion": 1 / (step + 1), "loss_attention": 0.1} for step in range(50)],
        prompts=GRID.prompts, pictures=pictures, scores=scores(1, 0.6, 0.8), floor_scores=scores(2, 0.2, 0.9),
        summary=summary[:3], index_url="index.html", beside=[("class word “woman”", word), ("run before", word)],
        reproduction={
            "facts": {"configuration digest": "0" * 16}, "commands": ["faceid draw --identity ID --prompt 'V*'"],
            "results": [{"stage": "detect", "version": 3, "key": "a" * 64, "finished_at": "2026-01-02T03:04:05Z"}],
        },
    )  # fmt: skip


PAGES = ("index", "comparison", "gallery", f"person-{KEYS[0]}")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_and_axe_finds_nothing(page, address, name, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page.emulate_media(color_scheme=scheme)
    wrong = []
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.told.clear()
        page.goto(f"{address}/{name}.html")
        keep_picture(page, f"report-{name[:6]}-{width}-{scheme}")
        wider = page.evaluate(
            """() => [document.documentElement, ...document.querySelectorAll("main, table, .card, .tile, .prompt")]
            .filter(each => each.scrollWidth > each.clientWidth + 1 && getComputedStyle(each).display != "table")
            .map(each => `${each.tagName} ${each.ariaLabel}: ${each.scrollWidth} > ${each.clientWidth}`)"""
        )
        found = [
            f"{each['id']}: {each['nodes'][0]['html'][:200]} {each['nodes'][0]['failureSummary']}"
            for each in Axe().run(page).response["violations"]
        ]
        # No script is refused and none fails.
        wrong += [f"{width} pixels: {text}" for text in (*wider, *found, *page.told)]
    assert not wrong, "\n".join(wrong)
    assert page.asked <= {address.removeprefix("http://")}, "the pages ask nothing of another host"


def test_people_are_sorted_filtered_and_searched(page, address):
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto(f"{address}/index.html")
    assert page.evaluate("document.documentElement.scrollHeight") < 8000, "a thousand people are pages of a table"
    headings = page.locator("h2").all_inner_texts()
    assert headings[0].startswith("What changed since") and headings[1].startswith("Rejected photos")
    rows = page.locator("#people tbody tr")
    assert rows.count() == 50
    assert KEYS[3][:12] in rows.nth(0).inner_text() and "worse" in rows.nth(1).inner_text(), "what changed comes first"
    page.locator("select[data-column='1']").select_option("rejected")
    page.get_by_text("1 to 25 of 25 people").wait_for()
    page.locator("select[data-column='1']").select_option("")
    page.locator(".dt-search input").fill(KEYS[512][:12])
    page.get_by_text("1 to 1 of 1 people").wait_for()
    page.locator(".dt-search input").fill("")
    page.locator("#people thead th").filter(has_text="identity").first.click()
    values = [float(text.split("\n")[0].replace("−", "-")) for text in page.locator(
        "#people tbody tr td[data-label='identity']").all_inner_texts() if text[0] in "−0123456789"]  # fmt: skip
    assert values == sorted(values) and len(values) > 20


def test_the_gallery_shows_the_chosen_prompt(page, address):
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto(f"{address}/gallery.html")
    image = page.locator(".gallery img").first
    shown = []
    for number in (0, 5):
        page.locator(f"#prompt-{number}").check()
        page.wait_for_timeout(200)
        shown.append(image.evaluate("each => getComputedStyle(each).objectPosition"))
    assert shown[0].startswith("0px") and shown[1].startswith(f"-{5 * SIDE}px")
    loaded = page.evaluate("[...document.images].filter(each => each.complete && each.naturalWidth > 0).length")
    assert 0 < loaded < PEOPLE, "pictures out of sight wait"


def test_a_persons_page_keeps_its_places_and_prints_whole(page, address):
    page.goto(f"{address}/person-{KEYS[0]}.html")
    assert page.evaluate("[...document.images].every(each => each.hasAttribute('width') && each.hasAttribute('height'))")
    assert page.locator("h3").first.inner_text() == "Prompts that fail"
    assert "seen scene: night" in page.inner_text("main")
    assert page.locator("img.beside").count() == 2 * 2 * len(GRID.prompts)
    page.emulate_media(media="print")
    cut = "[...document.querySelectorAll('.scroll')].filter(each => getComputedStyle(each).overflowX != 'visible')"
    assert page.evaluate(f"{cut}.length") == 0
    page.emulate_media(media="screen")
