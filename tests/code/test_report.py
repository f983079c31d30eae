"""The report: pages that stand alone, escape what comes from outside, and an index without a pixel."""

import base64
import datetime as dt
import hashlib
import io
import re
from html.parser import HTMLParser
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from faceid_core.evaluate.calibration import calibration_of
from faceid_core.evaluate.grid import load_grid
from faceid_core.evaluate.metric_rows import MetricRow, MetricRows
from faceid_core.evaluate.summary import SubjectScores, aggregate, summarize
from faceid_core.miniature.people import person_from_seed
from faceid_core.miniature.renderer import Shot, render
from faceid_core.publish.pages import rows_by_person
from faceid_core.report import plots, svg
from faceid_core.report.contact_sheet import Cell, contact_sheet
from faceid_core.report.figures import duration, number
from faceid_core.report.gallery_page import SIDE, gallery_page, strip
from faceid_core.report.index_page import index_page
from faceid_core.report.likeness import likeness_of
from faceid_core.report.overlays import attention_overlay, embedded, mask_overlay, with_box
from faceid_core.report.person_page import person_page
from faceid_core.report.synthetic_mark import SyntheticMark
from tests.helpers.report_inputs import made_person, made_scores

ANN, BEN, CY = "a1" * 16, "b2" * 16, "c3" * 16
GRID = load_grid("miniature")
RUN = {
    "run_id": "2026-01-02-r1",
    "base_digest": "b" * 64,
    "run_date": dt.date(2026, 1, 2),
    "about": {"base": "miniature"},
}
HOSTILE = "<script>alert('x')</script> & co"


class _Page(HTMLParser):
    """Collects tags and addresses, and complains about elements that are not closed."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, page: bytes):
        super().__init__()
        self.open, self.tags, self.addresses, self.words = [], [], [], []
        self.feed(page.decode("utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def _scores(seed, identity, obeyed):
    return made_scores(GRID.prompts, seed, identity, obeyed, ("image_text", 0.5, ""))


@pytest.fixture(scope="module")
def run():
    subjects = [
        SubjectScores(
            "person", ANN, "woman", _scores(1, 0.6, 0.8), _scores(2, 0.2, 0.9), "ann", ANN, 48, 75.0
        ),
        SubjectScores(
            "person", BEN, "woman", _scores(3, 0.5, 0.9), _scores(4, 0.1, 0.9), "ben", BEN, 48, 71.2
        ),
        SubjectScores("class_word", "woman", "woman", _scores(5, 0, 0.9), images=48),
        SubjectScores("named", "kai moreau", "woman", _scores(6, 0.8, 0.9), images=48),
    ]
    rows = summarize(
        subjects,
        run_id=RUN["run_id"],
        run_date=RUN["run_date"],
        categories={prompt.id: prompt.category for prompt in GRID.prompts},
    )
    return SimpleNamespace(subjects=subjects, rows=rows)


@pytest.fixture(scope="module")
def page(run):
    shown, pictures, heat = made_person(GRID)
    return person_page(
        run=RUN,
        person={"identity_key": ANN, "class_word": "woman", "outcome": "done", "message": HOSTILE},
        photo=shown.image,
        crop=shown.image,
        mask=(shown.labels == 1).astype(np.float32),
        face_box=shown.boxes[0],
        quality={"face_pixels": 41.37, "sharpness": 0.8214},
        verdict={"region": "face_hair", "area_share": 0.3149, "touches_border": True, "ok": False},
        approximate=True,
        attention_before=heat,
        attention_after=heat[::-1],
        outside_before=0.61,
        outside_after=0.4,
        curve=[{"step": step, "loss_diffusion": 1 / (step + 1), "loss_attention": 0.1} for step in range(50)],
        prompts=GRID.prompts,
        pictures=pictures,
        scores=run.subjects[0].scores,
        floor_scores=run.subjects[0].floor,
        summary=run.rows,
        index_url="../../../runs/r1/report/index.html",
    )


def test_a_persons_page_stands_alone(page):
    found = _Page(page)
    assert found.tags.count("img") == 5 + 2 * len(GRID.prompts)
    outside = [address for address in found.addresses if not address.startswith("data:image/")]
    assert outside == ["../../../runs/r1/report/index.html"]
    assert "script" not in found.tags and "link" not in found.tags
    assert b"url(" not in page and b"@import" not in page


def test_a_persons_page_says_what_was_measured(page, run):
    text = _Page(page).text
    own = run.rows[0]
    assert (
        number(own["identity_similarity"]) in text and number(own["identity_fraction"], percent=True) in text
    )
    floor = np.mean([row.value for row in run.subjects[0].floor if row.metric == "identity"])
    # The floor is the class word against this person, not the mean over people.
    assert f"floor {floor:.2f}" in text and number(floor) in text
    assert "the photo; face 41 pixels, sharpness 0.821" in text
    assert "mask of face and hair, 31 % of the crop; approximate; touches the border" in text
    assert "attention after training, 40 % outside the mask" in text
    assert "a photo of V* on the beach" in text and "✗ scene" in text and "1 min 15 s" in text


def test_words_from_outside_are_escaped(page):
    assert HOSTILE in _Page(page).text and b"<script" not in page


def test_a_page_needs_nothing_but_a_photo():
    photo = render(person_from_seed(200_003), Shot()).image
    person = {"identity_key": BEN, "class_word": "man", "outcome": "failed"}
    found = _Page(person_page(run=RUN, person=person, photo=photo))
    assert found.tags.count("img") == 1 and found.addresses[0].startswith("data:")


def test_a_usual_mask_is_described_without_warnings():
    shown = render(person_from_seed(200_003), Shot())
    person = {"identity_key": BEN, "class_word": "man", "outcome": "done"}
    mask = (shown.labels == 1).astype(np.float32)
    usual = {"region": "face", "area_share": 0.2, "touches_border": False, "ok": True}
    for verdict, words in (
        (usual, "20 % of the crop"),
        (usual | {"ok": False}, "20 % of the crop; an unusual area"),
    ):
        page = person_page(
            run=RUN, person=person, photo=shown.image, crop=shown.image, mask=mask, verdict=verdict
        )
        assert f"<figcaption>mask of face, {words}</figcaption>" in page.decode()
    unjudged = person_page(run=RUN, person=person, photo=shown.image, crop=shown.image, mask=mask)
    assert f"mask, {100 * mask.mean():.0f} % of the crop" in _Page(unjudged).text


def test_a_page_without_class_word_and_named_people(run):
    photo = render(person_from_seed(200_003), Shot()).image
    person = {"identity_key": BEN, "class_word": "woman", "outcome": "done"}
    floor = run.subjects[1].floor
    alone = person_page(run=RUN, person=person, photo=photo, summary=run.rows[:2], floor_scores=floor)
    assert "class word –" in _Page(alone).text and b"<svg" not in alone


def _index(run, outcome_reports=None, **more):
    outcome_reports = outcome_reports or [
        {"identity_key": ANN, "identity_id": "ann-smith", "outcome": "done", "attempts": 1, "seconds": 75.0},
        {"identity_key": BEN, "identity_id": "ben", "outcome": "cached", "seconds": 0.0},
        {
            "identity_key": CY, "outcome": "rejected", "stage": "detect", "reason": "no_face",
            "message": HOSTILE, "value": 0.12, "threshold": 0.4,
        },
    ]  # fmt: skip
    return index_page(
        run=RUN,
        outcome_reports=outcome_reports,
        summary=run.rows,
        person_urls={ANN: f"../../identities/{ANN}/reports/r1.html"},
        notes=["one note"],
        **more,
    )


def test_the_index_has_no_pixel_and_no_id_and_runs_its_own_scripts_alone(run):
    index = _index(run)
    found = _Page(index)
    assert not {"img", "image", "picture", "canvas", "object", "style:image"} & set(found.tags)
    scripts = re.findall(rb"<script>(.*?)</script>", index, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts]
    policy = (
        re.search(rb'Content-Security-Policy" content="([^"]+)"', index)[1].decode().replace("&#39;", "'")
    )
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; script-src " + " ".join(
        f"'sha256-{each}'" for each in hashes
    )
    assert len(scripts) == 2 and b"DataTables 3" in scripts[0] and b"ann-smith" not in index
    index = re.sub(rb"<script>.*?</script>", b"", index, flags=re.DOTALL)
    assert b"data:" not in index and b"base64" not in index and b"url(" not in index
    assert b"ann-smith" not in index
    assert set(found.addresses) == {f"../../identities/{ANN}/reports/r1.html"}


def test_the_index_accounts_for_everybody(run):
    text = _Page(_index(run)).text
    for key in (ANN, BEN, CY):
        assert key[:12] in text
    assert "detect: no_face" in text and HOSTILE in text and "0.120" in text and "Rejected photos" in text
    assert "2 of 2 surely above the class word" in text and "one note" in text
    share = aggregate(run.rows)["relative_to_class_word"]["concepts_obeyed"]
    assert f"; {share:.0%} of the class word's" in text.replace(" %", "%")


def test_the_index_begins_with_what_changed_and_a_gallery_holds_no_pixel(run):
    changes = [{"identity_key": BEN, "kind": "worse", "text": "normalized identity −0.31"}]
    index = _index(
        run, changes=changes, compared_with="r0", comparison_url="comparison.html", gallery_url="g.html"
    )
    _Page(index)
    places = [
        index.index(part) for part in (b"<h2>What changed since", b"<h2>Rejected photos", b"<h2>People</h2>")
    ]
    assert places == sorted(places) and b'href="g.html"' in index and b'href="comparison.html"' in index
    rows = re.findall(rb"<tr>.*?</tr>", index[index.index(b'id="people"') :], re.DOTALL)
    assert BEN[:12].encode() in rows[1] and CY[:12].encode() in rows[2], (
        "the changed one first, then the rejected"
    )
    people = [{"identity_key": ANN, "weak": True, "url": "ann.html", "strip": "ann.jpg"}]
    gallery = gallery_page(
        run_id="r1", prompts=["a photo of V*"], people=people, seed=0, index_url="index.html"
    )
    assert b"data:" not in gallery and {"ann.jpg", "ann.html"} <= set(_Page(gallery).addresses)
    tiles = [np.zeros((64, 64, 3), np.uint8), np.full((300, 300, 3), 255, np.uint8)]
    shown = Image.open(io.BytesIO(strip(tiles, SyntheticMark("ab" * 32))))
    assert shown.size == (2 * SIDE, SIDE) and shown.getpixel((SIDE // 2, 5))[0] < 20
    assert shown.getpixel((SIDE + SIDE // 2, 5))[0] > 235


def test_of_more_people_than_a_page_can_list_it_lists_those_first_whom_something_happened_to(
    run, monkeypatch
):
    monkeypatch.setattr("faceid_core.report.index_page.MOST_PEOPLE", 2)
    outcome_reports = [
        *({"identity_key": f"{number:032x}", "outcome": "cached"} for number in range(3)),
        *(
            {"identity_key": f"{number:032x}", "outcome": "rejected", "stage": "detect"}
            for number in range(10, 14)
        ),
        {"identity_key": ANN, "outcome": "failed", "stage": "generate"},
    ]
    index = _index(run, outcome_reports)
    listed = re.findall(rb"<tr>.*?</tr>", index[index.index(b'id="people"') :], re.DOTALL)[1:3]
    assert [b"rejected" in row for row in listed] == [True, True]
    text = _Page(index).text
    assert "2 people are listed" in text and "6 more are in the tables" in text, "none is lost from the count"
    assert "Rejected photos 4" in text and "Failed 1" in text and ANN[:12] in text
    monkeypatch.setattr("faceid_core.report.index_page.MOST_PEOPLE", 3)
    assert "are listed, those first" not in _Page(_index(run)).text, "three people are few enough"
    people = [{"identity_key": ANN, "weak": False, "url": "a.html", "strip": "a.jpg"}]
    few = gallery_page(run_id="r", prompts=["V*"], people=people, seed=0, index_url="i.html", left_out=4_000)
    assert "4000 more people of the run are not shown here" in _Page(few).text


def test_a_persons_page_is_made_from_the_own_row_and_those_of_floor_and_ceiling(run):
    """Not from the rows of all people, which every page would look through."""
    found = rows_by_person(run.rows)
    assert set(found) == {ANN, BEN}
    assert [[row["subject"] for row in found[who]] for who in (ANN, BEN)] == [
        [ANN, "woman", "kai moreau"],
        [BEN, "woman", "kai moreau"],
    ]


def test_failing_prompts_come_first_with_what_was_seen(page):
    text = page.decode()
    assert text.index("Prompts that fail") == text.index("<h3>") + len("<h3>")
    first = text[text.index("Prompts that fail") :]
    assert (
        first.index("✗ scene") < first.index("seen scene: night")
        and "<h3>" not in first[: first.index("✗ scene")]
    )
    assert (
        text.count("<img") == text.count(' width="') - text.count("<svg width")
        and 'loading="lazy"' not in text
    )


def test_many_people_are_shown_as_a_density(run):
    rng = np.random.default_rng(0)
    many = [
        run.rows[0] | {"identity_key": f"{number:032x}", "identity_similarity": float(rng.normal(0.5, 0.1)),
                       "concepts_obeyed": float(rng.uniform(0.5, 1))}
        for number in range(933)
    ]  # fmt: skip
    drawing = plots.identity_concepts_plot([*many, *run.rows[2:]])
    fields = re.findall(r"<title>(\d+) (?:person|people):", drawing)
    assert sum(map(int, fields)) == 933 and len(fields) < 641 and "point person" not in drawing
    assert not plots.is_density(run.rows)


def test_a_drawing_of_twice_the_people_takes_twice_the_reads(run):
    class Counted(dict):
        reads = 0

        def __getitem__(self, name):
            Counted.reads += 1
            return super().__getitem__(name)

    def reads_of(people):
        Counted.reads = 0
        plots.identity_concepts_plot([Counted(run.rows[0]) for _ in range(people)])
        return Counted.reads

    assert reads_of(800) < 2.5 * reads_of(400)


def test_weak_people_and_shared_photos_are_told_on_both_pages(run):
    outcome_reports = [
        {"identity_key": ANN, "outcome": "done", "weak": True, "same_photo": 0, "message": "try more steps"},
        {"identity_key": BEN, "outcome": "cached", "weak": False, "same_photo": 1, "message": "one photo"},
    ]
    text = _Page(_index(run, outcome_reports)).text
    assert "Weak: not surely above the class word" in text and "try more steps" in text
    assert "One photo under several ids" in text and "one photo" in text
    plain = [outcome_report | {"weak": None, "same_photo": None} for outcome_report in outcome_reports]
    assert "Weak" not in _Page(_index(run, plain)).text
    person = {
        "identity_key": ANN,
        "class_word": "woman",
        "outcome": "done",
        "weak": True,
        "message": "try this",
    }
    page = person_page(run=RUN, person=person, photo=np.zeros((8, 8, 3), np.uint8))
    assert b'<span class="badge weak">weak</span>' in page and "try this" in _Page(page).text


def test_an_index_without_figures_is_still_a_page(run):
    outcome_reports = [{"identity_key": CY, "outcome": "not_reached", "reason": "deadline"}]
    empty = SimpleNamespace(rows=[])
    text = _Page(_index(empty, outcome_reports)).text
    assert "Not reached" in text and "deadline" in text


def test_the_plot_places_people_between_floor_and_ceiling(run):
    drawing = ElementTree.fromstring(plots.identity_concepts_plot(run.rows, {ANN: "ann.html"}))
    space = "{http://www.w3.org/2000/svg}"
    at = {group.get("class").split()[1]: group.find(f"{space}circle") for group in drawing.iter(f"{space}g")}
    heights = {kind: float(circle.get("cy")) for kind, circle in at.items()}
    assert heights["named"] < heights["person"] < heights["class_word"]
    lines = {line.get("class"): float(line.get("y1")) for line in drawing.iter(f"{space}line")}
    assert lines["floor"] == pytest.approx(heights["class_word"], abs=0.02)
    assert [link.get("href") for link in drawing.iter(f"{space}a")] == ["ann.html"]
    assert plots.identity_concepts_plot([]) == ""


def test_the_curve_shows_both_losses_and_survives_bad_steps():
    curve = [{"step": step, "loss_diffusion": 0.1, "loss_attention": float("nan")} for step in range(5)]
    curve[3]["loss_attention"] = 0.3
    drawing = plots.curve_plot(curve)
    assert "diffusion loss" in drawing and "attention loss" in drawing and "nan" not in drawing
    long = plots.curve_plot([{"step": step, "loss_diffusion": step % 7} for step in range(20_000)])
    assert len(long) < 30_000 and "attention loss" not in long
    assert plots.curve_plot([]) == ""


def test_the_bar_needs_a_way_from_floor_to_ceiling():
    assert plots.scale_bar(0.5, 0.4, 0.6, 0.7, 0.7) == "" and plots.scale_bar(None, None, None, 0, 1) == ""
    drawing = ElementTree.fromstring(plots.scale_bar(0.5, None, None, 0.0, 1.0))
    assert float(drawing.find("{http://www.w3.org/2000/svg}circle").get("cx")) == pytest.approx(150, abs=0.1)


def test_svg_escapes_and_ticks_are_round():
    assert "<script" not in svg.text(1, 2, "<script>") and "&#34;" in svg.element("a", href='"')
    assert svg.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert svg.ticks(-0.13, 0.31) == [-0.1, 0, 0.1, 0.2, 0.3] and svg.ticks(3, 3) == [3]
    assert svg.tick_text(-0.5) == "−0.5" and svg.tick_text(0.0) == "0"


def test_figures_as_words():
    assert number(None) == "–" and number(0.1234) == "0.123" and number(0.876, percent=True) == "88 %"
    assert number(-0.02) == "−0.020"
    assert [duration(value) for value in (None, 3.21, 75, 3700)] == ["–", "3.2 s", "1 min 15 s", "1 h 01 min"]


def test_overlays_change_what_they_say():
    image = np.full((8, 8, 3), 200, np.uint8)
    mask = np.zeros((8, 8), np.float32)
    mask[:4] = 1
    laid = mask_overlay(image, mask)
    assert laid[0, 0].sum() > laid[7, 0].sum() and laid[7, 0, 0] == 90
    hot = np.zeros((4, 4), np.float32)
    hot[0, 0] = 1
    shown = attention_overlay(image, hot).astype(int)
    assert shown[0, 0].sum() > shown[7, 7].sum() + 150
    weak = attention_overlay(image, hot, strongest=10.0).astype(int)
    assert weak[0, 0].sum() < shown[0, 0].sum()
    assert attention_overlay(image, np.zeros((4, 4))).shape == (8, 8, 3)
    boxed = with_box(image, (1, 1, 6, 6))
    assert (boxed != image).any() and (image == 200).all()


def test_large_pictures_are_shrunk_and_small_ones_exact():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (64, 48, 3), dtype=np.uint8)
    assert embedded(small).uri.startswith("data:image/png;base64,")
    large = embedded(rng.integers(0, 256, (900, 600, 3), dtype=np.uint8), most_pixels=300)
    assert large.uri.startswith("data:image/jpeg") and len(large.uri) < 100_000
    assert (large.width, large.height) == (200, 300)
    tiny = embedded(rng.integers(0, 256, (512, 512, 3), dtype=np.uint8), most_pixels=112)
    assert tiny.uri.startswith("data:image/jpeg"), "a large picture is never exact, however small it is shown"


def test_a_cell_has_its_score_and_a_miss_its_frame():
    gray = np.full((20, 20, 3), 128, np.uint8)

    def red(cell):
        sheet = np.asarray(Image.open(io.BytesIO(contact_sheet([("ann", [cell])], ["beach"], title="run r"))))
        return ((sheet[..., 0] > 170) & (sheet[..., 1] < 60)).sum()

    plain, scored = contact_sheet([("ann", [gray])]), contact_sheet([("ann", [Cell(gray, "0.61")])])
    assert plain != scored and red(gray) == red(Cell(gray, "0.61")) == 0
    assert red(Cell(gray, "0.61", is_marked=True)) >= 4 * 3 * (128 - 3)


def test_a_contact_sheet_puts_pictures_in_their_places():
    red, blue = np.zeros((10, 10, 3), np.uint8), np.zeros((20, 10, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    rows = [("a photo of V* on the beach", [red, None]), ("wordwithoutanyspaceinitwhatsoever" * 3, [blue])]
    data = contact_sheet(rows, ["seed 0", "seed 1"], cell_pixels=48, label_pixels=100)
    sheet = np.asarray(Image.open(io.BytesIO(data)))
    assert data == contact_sheet(rows, ["seed 0", "seed 1"], cell_pixels=48, label_pixels=100)
    is_red = (sheet[..., 0] > 200) & (sheet[..., 1] < 60) & (sheet[..., 2] < 60)
    is_blue = (sheet[..., 2] > 200) & (sheet[..., 0] < 60) & (sheet[..., 1] < 60)
    assert is_red.sum() == 48 * 48
    assert is_blue.sum() == 48 * 24  # a tall picture keeps its shape
    assert np.argwhere(is_red)[:, 0].max() < np.argwhere(is_blue)[:, 0].min()
    words = np.argwhere(sheet[26:].max(-1) < 120)[:, 1]
    assert len(words) and words.max() < 100  # below the heads, words keep to their own column
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([])


def test_templates_hold_no_inline_handlers(page, run):
    for written in (page, _index(run)):
        assert not re.search(rb"\son[a-z]+=", written)


def test_pages_lead_with_what_a_cosine_means(run):
    """With Dlib two strangers have 0.8: the share accepted and the percentile say what a cosine does not."""
    calibration = calibration_of("Dlib")
    pictures = [("beach", 0, 0.96), ("beach", 1, 0.90), ("night", 0, 0.80)]
    scores = [MetricRow(prompt, seed, "identity", value) for prompt, seed, value in pictures]
    scores += [
        MetricRow(prompt, seed, "identity:accepted", float(value > 0.93)) for prompt, seed, value in pictures
    ]
    floor = [MetricRow("beach", 0, "identity", 0.80), MetricRow("beach", 0, "identity:accepted", 0.0)]
    scores, floor = MetricRows.of(scores), MetricRows.of(floor)
    likeness = likeness_of(scores, floor, calibration)
    assert likeness.accepted == pytest.approx(1 / 3) and likeness.accepted_floor == 0
    assert likeness.percentile_floor < 0.6 < likeness.percentile < 0.9
    page = index_page(
        run=RUN, outcome_reports=[{"identity_key": ANN, "outcome": "done"}], summary=run.rows, calibration=calibration,
        likeness={ANN: likeness},
    )  # fmt: skip
    text = _Page(page).text
    assert text.index("taken for the same person") < text.index("identity similarity")
    assert "33 %" in text and f"{calibration.different.count} pairs of different people" in text
    person = {"identity_key": ANN, "class_word": "woman", "outcome": "done"}
    photo = render(person_from_seed(200_003), Shot()).image
    own = person_page(
        run=RUN, person=person, photo=photo, scores=scores, floor_scores=floor, summary=run.rows, calibration=calibration
    )  # fmt: skip
    assert "percentile among strangers" in _Page(own).text and "33 %" in _Page(own).text


def test_percentiles_are_those_of_the_pairs():
    calibration = calibration_of("Dlib")
    quantiles = dict(calibration.different.quantiles)
    assert calibration.different.share_below(quantiles[0.95]) == pytest.approx(0.95)
    assert calibration.different.share_below(1.0) == 1 and calibration.different.share_below(0.0) == 0
    assert calibration.typical_percentile > 0.99
    assert calibration_of("none measured") is None


@pytest.mark.parametrize("side", [64, 500])
def test_a_generated_picture_says_so_and_keeps_its_pixels(side):
    """In XMP, as IPTC wants it, in PNG and in JPEG: small pictures are one, large ones the other."""
    image = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    plain, marked = (
        Image.open(io.BytesIO(base64.b64decode(embedded(image, mark=mark).uri.split(",")[1])))
        for mark in (None, SyntheticMark("b" * 64, "2026-01-02-r1"))
    )
    assert np.array_equal(np.array(plain), np.array(marked)) and plain.format == marked.format
    assert "xmp" not in plain.info and "XML:com.adobe.xmp" not in plain.info
    text = marked.info.get("XML:com.adobe.xmp") or marked.info["xmp"].decode()
    (about,) = ElementTree.fromstring(text).iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    values = {name.rpartition("}")[2]: value for name, value in about.attrib.items()}
    assert (
        values["DigitalSourceType"]
        == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    )
    assert values["AISystemVersionUsed"].endswith("b" * 64) and values["run"] == "2026-01-02-r1"


def test_on_a_page_the_pictures_are_marked_and_what_shows_the_photo_is_not(page):
    shown = [each.split(",")[1] for each in _Page(page).addresses if each.startswith("data:image/")]
    marked = [b"trainedAlgorithmicMedia" in base64.b64decode(each) for each in shown]
    assert marked.count(True) == 2 * len(GRID.prompts) and not any(marked[:2])
