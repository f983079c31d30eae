"""The summary: intervals that cover, gains on paired pictures, floor and ceiling in their places."""

import datetime as dt

import numpy as np
import pytest

from data_contracts import contract
from faceid_core.evaluate.intervals import Interval, over_people, over_pictures, t_quantile
from faceid_core.evaluate.metric_rows import MetricRow, MetricRows
from faceid_core.evaluate.null_reasons import NO_REFERENCE_FACE
from faceid_core.evaluate.summary import SubjectScores, aggregate, normalized_identity, summarize
from faceid_core.evaluate.weak_identity import is_weak_identity
from faceid_core.tables.columns import renamed

ANN, BEN = "a" * 32, "b" * 32
CATEGORIES = {"s": "scene", "m": "mixed", "c": "clothing"}
COLUMNS = (
    *("run_id", "run_date", "identity_id", "identity_key", "subject_kind", "subject", "images", "seconds"),
    *("identity_similarity", "identity_similarity_low", "identity_similarity_high"),
    "identity_similarity_counting_faceless",
    *("identity_gain", "identity_gain_low", "identity_gain_high", "identity_fraction"),
    *("concepts_obeyed", "concepts_obeyed_low", "concepts_obeyed_high", "single_concepts_obeyed"),
    *("scene_obeyed", "attribute_obeyed", "action_obeyed", "clothing_obeyed", "pair_obeyed", "mixed_obeyed"),
    *("image_text", "image_text_low", "image_text_high", "detection", "attention_outside"),
    *("leakage", "leakage_low", "leakage_high", "leakage_floor"),
    *("leakage_excess", "leakage_excess_low", "leakage_excess_high"),
    *("leakage_clothes", "leakage_background", "leakage_framing", "leakage_position"),
    *("copying", "copying_low", "copying_high"),
    *("identity_accepted", "identity_second", "image_text_second", "diversity", "attributes_kept", "flagged"),
    *("weak", "personalise_key", "generate_key"),
)


def _metric(metric, values):
    """Values in the order of three prompts x two seeds."""
    cells = [(prompt, seed) for prompt in CATEGORIES for seed in (0, 1)]
    return [
        MetricRow(prompt, seed, metric, value) for (prompt, seed), value in zip(cells, values, strict=True)
    ]


def _subject(kind, subject, class_word, scores, floor=(), *more, **named):
    return SubjectScores(kind, subject, class_word, MetricRows.of(scores), MetricRows.of(floor), *more, **named)


def _run(subjects):
    return summarize(subjects, run_id="r1", run_date=dt.date(2026, 1, 2), categories=CATEGORIES)


def _subjects():
    ann = [
        *_metric("identity", [0.6, 0.8, None, 0.7, 0.5, 0.7]),
        *_metric("detection", [1, 1, 0, 1, 1, 1]),
        *_metric("concepts", [1, 0, 1, 1, None, None]),
        *_metric("concepts:scene", [1, 0, 1, 1, 1, 1]),
        *_metric("image_text", [0.1, 0.2, 0.3, 0.1, 0.2, 0.3]),
        *_metric("attention", [0.2, 0.4, None, 0.3, 0.3, 0.3]),
        *_metric("leakage", [0.5, 0.75, None, 0.25, 0.5, 1.0]),
        *_metric("leakage:clothes", [1, 1, None, 0, 1, 1]),
        *_metric("leakage:framing", [None] * 6),
        *_metric("copying", [0.4, 0.2, None, 0.3, 0.3, 0.3]),
    ]
    ben = _metric("identity", [None] * 6) + _metric("leakage", [0.1] * 6)
    ann_floor = _metric("identity", [0.1, None, 0.2, 0.2, 0.1, 0.2])
    ben_floor = _metric("identity", [0.0, 0.0, 0.0, 0.0, None, None])
    ann_floor += _metric("leakage", [0.25, 0.25, 0.25, 0.25, None, 0.0])
    ann_floor += _metric("copying", [0.1, 0.1, 0.0, 0.0, None, 0.05])
    ann_floor += _metric("leakage:clothes", [0, 1, 0, 0, 0, 0])
    ben_floor += _metric("leakage", [0.1] * 6) + _metric("leakage:clothes", [0] * 6)
    person = _metric("concepts", [1, 1, 1, 1, 1, 0]) + _metric("detection", [1] * 6)
    return [
        _subject("person", ANN, "woman", ann, ann_floor, "ann", ANN, 6, 12.34567, "1" * 64, "2" * 64),
        _subject("person", BEN, "woman", ben, ben_floor, "ben", BEN),
        _subject("class_word", "woman", "woman", person),
        _subject("named", "kai moreau", "woman", _metric("identity", [0.9] * 6)),
        _subject("named", "ines silva", "woman", _metric("identity", [0.7] * 6)),
    ]


def test_a_persons_row():
    row = _run(_subjects())[0]
    assert tuple(row) == COLUMNS
    assert row["run_id"] == "r1" and row["identity_key"] == row["subject"] == ANN and row["seconds"] == 12.346
    assert row["identity_similarity"] == pytest.approx(0.66)
    assert row["identity_similarity_counting_faceless"] == pytest.approx(3.3 / 6)
    # Pairs with a face in both: (.6 - .1), (.7 - .2), (.5 - .1), (.7 - .2)
    assert row["identity_gain"] == pytest.approx(1.9 / 4)
    assert row["identity_gain_low"] <= row["identity_gain"] <= row["identity_gain_high"]
    # Floor .16, ceiling .8; the picture without a face counts as the floor.
    assert row["identity_fraction"] == pytest.approx(((3.3 + 0.16) / 6 - 0.16) / (0.8 - 0.16), abs=1e-5)
    assert row["concepts_obeyed"] == pytest.approx(0.75)
    assert row["single_concepts_obeyed"] == pytest.approx(5 / 6, abs=1e-5)
    assert (row["scene_obeyed"], row["mixed_obeyed"], row["clothing_obeyed"]) == (0.5, 1.0, None)
    assert row["detection"] == pytest.approx(5 / 6) and row["attention_outside"] == pytest.approx(0.3)
    assert (row["personalise_key"], row["generate_key"]) == ("1" * 64, "2" * 64)


def test_a_person_without_a_single_face_has_no_similarity_but_counts_as_zero():
    row = _run(_subjects())[1]
    assert row["identity_similarity"] is None and row["identity_similarity_counting_faceless"] == 0
    assert row["identity_gain"] is None and row["concepts_obeyed"] is None
    assert row["identity_fraction"] == 0, "as far from the ceiling as the class word, and not left out"


def test_a_photo_that_shows_no_face_to_the_scorers_is_no_reason_to_count_pictures_as_zero():
    rows = [MetricRow(row.prompt_id, row.seed, "identity", None, NO_REFERENCE_FACE.text)
            for row in _metric("identity", [None] * 6)]  # fmt: skip
    named = _subject("named", "kai moreau", "woman", _metric("identity", [0.9] * 6))
    person = _run([_subject("person", ANN, "woman", rows, rows, "ann", ANN), named])[0]
    assert person["identity_similarity_counting_faceless"] is None and person["identity_fraction"] is None


def test_the_class_words_identity_is_the_mean_of_its_peoples_floors():
    row = _run(_subjects())[2]
    assert row["subject_kind"] == "class_word" and row["identity_key"] is None
    assert row["identity_similarity"] == pytest.approx((0.16 + 0.0) / 2)
    assert row["identity_similarity_counting_faceless"] == pytest.approx((0.8 / 6 + 0) / 2, abs=1e-5)
    assert row["identity_gain"] is None and row["concepts_obeyed"] == pytest.approx(5 / 6, abs=1e-5)


def test_leakage_stands_beside_what_the_class_word_leaks_by_chance():
    ann, ben, word, named, _ = _run(_subjects())
    assert ann["leakage"] == pytest.approx(0.6) and ann["leakage_floor"] == pytest.approx(0.2)
    # Pairs measured in both: (.5 - .25), (.75 - .25), (.25 - .25), (1 - 0)
    assert ann["leakage_excess"] == pytest.approx(1.75 / 4)
    assert ann["leakage_excess_low"] <= ann["leakage_excess"] <= ann["leakage_excess_high"]
    assert (ann["leakage_clothes"], ann["leakage_framing"]) == (0.8, None)
    assert ben["leakage_excess"] == 0
    assert word["leakage"] == word["leakage_floor"] == pytest.approx(0.15)
    assert ann["copying"] == pytest.approx(0.3) and ann["copying_low"] <= 0.3 <= ann["copying_high"]
    assert word["copying"] == pytest.approx(0.05) and named["copying"] is None
    assert word["leakage_clothes"] == pytest.approx(1 / 12, abs=1e-5) and word["leakage_excess"] is None
    assert named["leakage"] is None and named["leakage_floor"] is None
    over = aggregate([ann, ben, word, named])["over_people"]
    assert over["leakage"]["mean"] == pytest.approx(0.35) and over["leakage"]["floor"] == pytest.approx(0.15)
    assert over["leakage_clothes"]["floor"] == pytest.approx(1 / 12, abs=1e-5)


def test_the_run_as_a_whole():
    total = aggregate(_run(_subjects()))
    assert (total["people"], total["named_people"], total["people_with_gain"]) == (2, 2, 1)
    identity = total["over_people"]["identity_similarity"]
    assert identity["mean"] == pytest.approx(0.66) and identity["low"] is None
    assert identity["floor"] == pytest.approx(0.08) and identity["ceiling"] == pytest.approx(0.8)
    assert total["relative_to_class_word"]["concepts_obeyed"] == pytest.approx(0.75 / (5 / 6), abs=1e-5)
    assert total["relative_to_class_word"]["action_obeyed"] is None
    assert aggregate([])["people"] == 0


def test_a_person_not_surely_above_the_class_word_is_weak():
    ann, ben, word, named, _ = _run(_subjects())
    assert (ann["weak"], ben["weak"], word["weak"], named["weak"]) == (False, True, None, None)
    no_floor = _subject("person", ANN, "woman", _metric("identity", [0.9] * 6), (), "ann", ANN)
    assert _run([no_floor])[0]["weak"] is None, "nothing to compare with"


def _cells(values):
    """So many prompts with four seeds each."""
    return {(f"p{place // 4}", place % 4): value for place, value in enumerate(values)}


def _strangers(seed=0):
    """Similarities of the class word's pictures as the miniature has them: another face in each."""
    return np.random.default_rng(seed).normal(0.0, 0.2, 96)


def test_one_wrong_face_in_all_pictures_does_not_pass_for_the_person():
    floor = _cells(_strangers())
    # Nearer to the photo than strangers are on average, and that for sure; but as near as one stranger in seven.
    wrong = _cells(np.random.default_rng(1).normal(0.22, 0.08, 96))
    gain = [wrong[cell] - floor[cell] for cell in floor]
    assert over_pictures(gain, [prompt for prompt, _ in floor]).low > 0.1
    assert is_weak_identity(wrong, floor) is True
    assert is_weak_identity(_cells(np.random.default_rng(1).normal(0.45, 0.15, 96)), floor) is False


def test_pictures_without_a_face_count_as_the_class_word_s():
    floor, good = _cells(_strangers()), _cells([0.6] * 96)
    some = {cell: value if place % 6 else None for place, (cell, value) in enumerate(good.items())}
    few = {cell: value if place < 4 else None for place, (cell, value) in enumerate(good.items())}
    assert is_weak_identity(some, floor) is False and is_weak_identity(few, floor) is True
    assert is_weak_identity(dict.fromkeys(floor), floor) is True


def test_two_pairs_are_the_least_from_which_weakness_is_told():
    assert is_weak_identity({("p", 0): 0.9}, {("p", 0): 0.1}) is None
    assert is_weak_identity({("p", 0): 0.9}, {("p", 1): 0.1, ("p", 2): 0.1}) is None
    assert is_weak_identity({("p", 0): 0.9, ("q", 0): 0.8}, {("p", 0): 0.1, ("q", 0): 0.2}) is False


def test_of_tokens_that_came_to_nothing_few_are_not_told():
    # Each draws one face of no one known, so its likeness to the photo is one more draw of what strangers have.
    found = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        found.append(
            is_weak_identity(_cells(rng.normal(0, 0.2) + rng.normal(0, 0.08, 96)), _cells(_strangers(seed)))
        )
    assert sum(found) >= 0.9 * len(found)


def test_what_photographs_alone_have_stands_beside_it_and_the_class_word_has_the_floors():
    measured = {"identity:accepted": 1, "identity_second": 0.5, "image_text_second": 0.3, "diversity": 0.2}
    scores = [row for metric, value in measured.items() for row in _metric(metric, [value] * 6)]
    floor = _metric("identity_second", [0.1] * 6) + _metric("attributes", [0.5] * 6)
    ann = _subject("person", ANN, "person", scores, floor=floor, identity_id="ann", identity_key=ANN)
    word = _subject("class_word", "person", "person", _metric("diversity", [0.6] * 6))
    person, floor_row = _run([ann, word])
    assert [person[name] for name in ("identity_accepted", "identity_second", "diversity")] == [1, 0.5, 0.2]
    assert [floor_row[name] for name in ("identity_second", "diversity", "attributes_kept")] == [
        0.1,
        0.6,
        0.5,
    ]
    assert floor_row["image_text_second"] is None and person["attributes_kept"] is None
    summary = contract("identity_summary")
    summary.check(summary.table([renamed(person), renamed(floor_row)]))


def test_rows_keep_the_contract_of_their_table():
    summary = contract("identity_summary")
    summary.check(summary.table([renamed(row) for row in _run(_subjects())]))


def test_fraction_of_a_way_without_length_is_none():
    assert normalized_identity(0.5, 0.2, 0.8) == pytest.approx(0.5)
    assert normalized_identity(0.5, 0.8, 0.8) is None and normalized_identity(0.5, None, 0.8) is None


def test_intervals_of_few_or_equal_values():
    assert over_pictures([], []) == Interval(None, None, None)
    assert over_pictures([0.3], ["a"]) == Interval(0.3, None, None)
    assert over_pictures([0.5] * 4, list("aabb")) == Interval(0.5, 0.5, 0.5)
    assert over_people([0.4]) == Interval(0.4, None, None)
    one_prompt = over_pictures([0.0, 1.0, 0.0, 1.0], ["a"] * 4)
    assert one_prompt.low < 0.5 < one_prompt.high


def test_intervals_are_the_same_each_time():
    values = list(np.random.default_rng(1).random(96))
    prompts = [index // 4 for index in range(96)]
    assert over_pictures(values, prompts) == over_pictures(values, prompts)


def test_prompts_that_differ_widen_the_interval():
    """Four pictures of one prompt that say the same are one observation, not four."""
    values = np.repeat(np.random.default_rng(2).random(12), 4)
    together = over_pictures(values, np.repeat(np.arange(12), 4))
    apart = over_pictures(values, np.arange(48))
    assert together.high - together.low > 1.6 * (apart.high - apart.low)


@pytest.mark.parametrize("interval", ["pictures", "people"])
def test_intervals_cover_the_truth_about_95_times_in_100(interval):
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(300):
        if interval == "people":
            found = over_people(rng.normal(0.5, 0.1, 8))
        else:
            values = rng.normal(0.5, 0.1, (24, 1)) + rng.normal(0, 0.1, (24, 4))
            found = over_pictures(values.ravel(), np.repeat(np.arange(24), 4))
        covered += found.low <= 0.5 <= found.high
    assert 0.90 <= covered / 300 <= 0.985


def test_t_quantiles_against_published_values():
    assert t_quantile(1) == pytest.approx(12.706, abs=1e-3)
    assert t_quantile(11) == pytest.approx(2.2010, abs=1e-3)
    assert t_quantile(30) == pytest.approx(2.0423, abs=1e-3)
    assert t_quantile(10_000) == pytest.approx(1.9602, abs=1e-3)
