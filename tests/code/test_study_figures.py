"""What a study's rows come to: balance, paired differences, Holm's correction, verdicts, the CSV that sessions share."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError
from faceid_core.evaluate.power import detectable, people_needed
from faceid_core.studies import definitions
from faceid_core.studies.compare import (
    balance,
    best_variant,
    differences_from,
    holm,
    mean_over_people,
    paired_difference,
)
from faceid_core.studies.definitions import studies
from faceid_core.studies.figure import study_figure
from faceid_core.studies.page import write_page
from faceid_core.studies.rows import (
    frame_of,
    merge_rows,
    of_condition,
    read_rows,
    refuse_record,
    require_same_settings,
    study_rows,
    unlearnable_row,
    write_rows,
)
from faceid_core.studies.study import AS_CONFIGURED, Claim
from faceid_core.studies.tuned import read_tuned, tuned_settings
from faceid_core.studies.verdict import judge_claim, room


def rows(variant, values, measure="balance", **more):
    """A row per person with one measure, of framing said unless it is told otherwise."""
    more = {"condition": "said", **more}
    return [
        {"variant": variant, "kind": "person", "subject": f"p{n}", measure: value, **more}
        for n, value in enumerate(values)
    ]


def summary_row(kind, **figures):
    usual = dict.fromkeys(
        ("identity_id", "identity_fraction", "identity_similarity", "concepts_obeyed", "seconds", "detection")
    )
    return {**usual, "subject_kind": kind, "subject": kind, **figures}


def test_balance_is_a_harmonic_mean_that_either_axis_can_lose():
    assert balance(0.5, 1.0) == pytest.approx(2 / 3)
    assert balance(0.8, 0.8) == pytest.approx(0.8)
    assert balance(-0.3, 1.0) == 0.0 and balance(0.0, 0.0) == 0.0
    assert balance(None, 1.0) is None


def test_rows_hold_fractions_of_the_ceiling_and_the_excess_over_the_floor():
    summary = [
        summary_row("class_word", concepts_obeyed=1.0),
        summary_row("named", concepts_obeyed=0.9),
        summary_row("named", concepts_obeyed=0.7),
        summary_row("person", identity_id="ann", identity_fraction=0.5, concepts_obeyed=0.6,
                    leakage=0.4, leakage_floor=0.1),
        summary_row("person", identity_id="bob", identity_fraction=0.0, concepts_obeyed=0.8),
    ]  # fmt: skip
    made = study_rows("5", summary, {"ann": {"samples": 30, "run_id": "r"}})
    by_subject = {row["subject"]: row for row in made}
    ann, bob = by_subject["ann"], by_subject["bob"]
    assert ann["concepts_fraction"] == pytest.approx(0.75) and ann["balance"] == pytest.approx(0.6)
    assert ann["leakage_excess"] == pytest.approx(0.3) and ann["samples"] == 30
    assert bob["balance"] == 0.0
    assert bob["leakage_excess"] is None, "a run that did not measure leakage has none"
    assert {row["kind"]: row["variant"] for row in made} == {"floor": "", "ceiling": "", "person": "5"}


def test_holm_as_published():
    # Independent computation: R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm").
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []


def test_paired_differences_are_those_of_scipy_over_the_people_that_both_have():
    draws = np.random.default_rng(3)
    default, other = draws.normal(0.5, 0.2, 12), draws.normal(0.45, 0.2, 12)
    frame = frame_of([*rows("on", default), *rows("off", other[:10])])
    found = paired_difference(frame, "balance", "off", "on")
    expected = stats.ttest_rel(other[:10], default[:10])
    low, high = expected.confidence_interval()
    assert found.people == 10 and found.p == pytest.approx(expected.pvalue)
    assert found.difference == pytest.approx((np.mean(other[:10] - default[:10]), low, high), abs=1e-4)
    mean = mean_over_people(frame, "on", "balance")
    assert mean.low == pytest.approx(
        stats.t.interval(0.95, 11, default.mean(), stats.sem(default))[0], abs=1e-4
    )


def test_comparisons_are_corrected_for_their_number():
    base = np.linspace(0.3, 0.7, 8)
    noise = np.random.default_rng(1).normal(0, 0.05, (3, 8))
    sets = {f"v{n}": base + 0.04 + noise[n] for n in range(3)}
    frame = frame_of(rows("d", base) + [row for name, values in sets.items() for row in rows(name, values)])
    found = differences_from(frame, "balance", "d", ["d", *sets])
    plain = [stats.ttest_rel(values, base).pvalue for values in sets.values()]
    assert [found[name].p_holm for name in sets] == pytest.approx(holm(plain))
    alone = differences_from(frame, "balance", "d", ["d", "v0"])["v0"]
    assert alone.p_holm == pytest.approx(plain[0])


@pytest.mark.parametrize(
    ("shift", "verdict"), [(-0.1, "agrees"), (0.1, "does not agree"), (0.0, "undecided")]
)
def test_a_claim_is_judged_by_its_intervals(shift, verdict):
    base = np.linspace(0.3, 0.7, 10)
    jitter = np.where(np.arange(10) % 2, 0.02, -0.02)
    for measure, sign in (("balance", 1), ("attention_outside", -1)):
        frame = frame_of(rows("a", base, measure) + rows("b", base + jitter + sign * shift, measure))
        assert judge_claim(frame, Claim("a beats b", measure, "a", ("b",))).verdict == verdict
        assert judge_claim(frame, Claim("a beats c", measure, "a", ("b", "c"))).verdict == "not measured"
    if shift:
        assert best_variant(frame, "attention_outside", ["a", "b"]) == ("a" if shift < 0 else "b")


def test_people_without_any_difference_leave_a_claim_undecided():
    frame = frame_of(rows("a", [0.5, 0.5, 0.5]) + rows("b", [0.5, 0.5, 0.5]))
    judged = judge_claim(frame, Claim("", "balance", "a", ("b",)))
    assert judged.verdict == "undecided" and judged.people is None and "more than 10,000" in judged.text


def test_a_claim_without_room_is_not_testable_and_one_with_room_says_how_many_people_would_decide():
    """As much noise in both: the first variant has left 0.01 to gain, the second 0.3."""
    noise = np.random.default_rng(5).normal(0, 0.05, 12)
    noise -= noise.mean()
    claim = Claim("a obeys more than b", "concepts_fraction", "a", ("b",))

    def judged(worse, advantage):
        frame = frame_of(
            rows("a", worse + advantage + noise, "concepts_fraction")
            + rows("b", [worse] * 12, "concepts_fraction")
        )
        return frame, judge_claim(frame, claim)

    frame, found = judged(0.99, 0.01)
    assert found.verdict == "not testable here"
    assert found.room == pytest.approx(0.01) == room(frame, "concepts_fraction", "b")
    assert found.detectable > found.room
    _, found = judged(0.7, 0.01)
    assert found.verdict == "undecided"
    spread = noise.std(ddof=1)
    alone, fewer = (
        stats.nct.sf(stats.t.isf(0.025, n - 1), n - 1, 0.01 / spread * n**0.5)
        for n in (found.people, found.people - 1)
    )
    assert fewer < 0.8 <= alone + 1e-6, "the fewest people whose test has the power of 0.8"
    # What the class word's pictures show, more than the known people's, is the best that can be had.
    floor = {"kind": "floor", "subject": "person", "concepts_fraction": 1.02}
    assert room(frame_of([*frame.to_dict("records"), floor]), "concepts_fraction", "b") == pytest.approx(0.03)


def test_the_detectable_difference_is_found_with_the_power_that_it_claims():
    """By simulation: of many experiments with that true difference, four of five find it."""
    people, spread = 20, 0.1
    least = detectable(spread, people)
    draws = np.random.default_rng(2).normal(least, spread, (4000, people))
    found = stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.02)
    assert people_needed(least, spread) == people and detectable(spread, 2 * people) < least
    assert detectable(spread, 2) is None and people_needed(0.0, spread) is None
    assert people_needed(1e-6, spread) is None, "more than anybody measures"


def test_conditions_are_judged_apart_and_stand_side_by_side(tmp_path):
    study = studies()["lambda"]
    rng = np.random.default_rng(4)
    base, noise = np.linspace(0.5, 0.7, 8), rng.normal(0, 0.01, 8)
    values = {
        "said": {"0.003": base + 0.2 + noise, "0.0001": base},
        "unsaid": {"0.003": base + noise, "0.0001": base},
    }
    frame = frame_of(
        [
            row
            for condition, variants in values.items()
            for label, found in variants.items()
            for row in rows(label, found, "concepts_fraction", condition=condition)
        ]
    )
    claim = study.claims[0]
    assert judge_claim(of_condition(frame, "said"), claim).verdict == "agrees"
    assert judge_claim(of_condition(frame, "unsaid"), claim).verdict == "undecided"
    page, figure = write_page(study, frame, NightlyConfig(), tmp_path)
    text = page.read_text()
    line = next(line for line in text.splitlines() if line.startswith("| With too small a lambda"))
    assert line.index("**agrees**") < line.index("**undecided**")
    assert "| variant | concepts, said | concepts, unsaid |" in text
    assert "## Framing unsaid: `a photo of {}`" in text
    drawn = figure.read_text()
    assert drawn.count("<circle") == 4 and drawn.count('class="second') == 2


def test_a_table_of_version_0_1_is_not_written_over(tmp_path):
    old = tmp_path / "lambda.csv"
    old.write_text("variant,kind,subject,balance\n0.003,person,p0,0.5\n")
    with pytest.raises(
        ConfigurationError, match=r"lambda.csv is a table of version 0.1.*another folder with --out"
    ):
        refuse_record(old)
    write_rows(tmp_path / "new.csv", frame_of(rows("0.003", [0.5])))
    refuse_record(tmp_path / "new.csv")
    refuse_record(tmp_path / "absent.csv")


def test_reports_take_the_settings_that_tuning_chose_in_the_same_condition(tmp_path, monkeypatch):
    monkeypatch.setattr(definitions, "TUNING_RATES", (0.1, 0.4))
    monkeypatch.setattr(definitions, "TUNING_STEPS", (100,))
    tune, path = studies()["tune"], tmp_path / "tune.csv"
    trials = [label for label in tune.labels if label.startswith("prospect")]
    best = dict(zip(("said", "unsaid"), trials, strict=True))
    rates = [float(label.split()[2]) for label in trials]  # in units of the vocabulary's spread
    frame = [
        row
        for condition, chosen in best.items()
        for label in trials
        for row in rows(label, [0.9, 0.8] if label == chosen else [0.2, 0.3], condition=condition)
    ]
    write_rows(path, frame_of(frame))
    tuned = read_tuned(path, tune)
    study = studies()["presets"]
    prospect = next(variant for variant in study.variants if variant.label == "prospect")
    for condition, rate in zip(study.conditions, rates, strict=True):
        chosen = tuned_settings(prospect, condition, tuned)
        assert chosen["personalize.method.learning_rate"] == pytest.approx(rate, rel=1e-3)
        assert chosen["personalize.method.samples_per_step"] == 10
    assert tuned["said", "prospect"].trials == 2 and tuned["said", "prospect"].people == 2
    assert not tuned_settings(study.variants[0], study.conditions[0], tuned), "another preset was not tried"
    free = studies()["parametrization"]
    assert not tuned_settings(free.variants[0], AS_CONFIGURED, tuned)
    text = write_page(study, frame_of(rows("prospect", [0.5, 0.6])), NightlyConfig(), tmp_path, tuned)[
        0
    ].read_text()
    assert f"Tuned in this condition: `prospect` learning rate {rates[0]:g}, steps 100" in text

    more = next(label for label in tune.labels if label.startswith("celeb-basis"))
    write_rows(path, frame_of([*frame, *rows(more, [0.5, 0.5])]))
    with pytest.raises(ConfigurationError, match="unequal trials of the presets, framing said"):
        read_tuned(path, tune)
    with pytest.raises(ConfigurationError, match="`faceid study tune` writes it"):
        read_tuned(tmp_path / "absent.csv", tune)
    for content in (b"", b"\xff\xfe", b"condition,balance\nsaid,much\n"):
        path.write_bytes(content)
        with pytest.raises(ConfigurationError, match="is not the table of a study"):
            read_tuned(path, tune)


def test_a_later_session_extends_the_table_and_replaces_what_it_measured_again(tmp_path):
    path = tmp_path / "pairs.csv"
    same = {"settings_digest": "people=1 prompts=1"}
    floor = {"variant": "", "kind": "floor", "subject": "person", **same}
    first = merge_rows(
        read_rows(path), [floor, *rows("10", [1 / 3, 0.2], variant_digest="x", **same)], ["1", "10"], ["said"]
    )
    write_rows(path, first)
    second = merge_rows(
        read_rows(path), [floor, *rows("1", [0.7], variant_digest="y", **same)], ["1", "10"], ["said"]
    )
    write_rows(path, second)
    again = read_rows(path)
    assert again.variant.to_list() == ["", "1", "10", "10"] and again.balance.to_list()[2] == 1 / 3
    assert not list(tmp_path.glob("*.partial"))
    third = merge_rows(again, [floor, *rows("10", [0.9], **same)], ["1", "10"], ["said"])
    assert third[third.variant == "10"].balance.to_list() == [0.9]

    now, methods = "people=1 prompts=1", {("said", "1"): "y", ("said", "10"): "x"}
    require_same_settings(again, now, methods, path=path)
    with pytest.raises(ConfigurationError, match=r"measured with other prompts; .*--fresh"):
        require_same_settings(again, "people=1 prompts=2", methods, path=path)
    for other in ({("said", "1"): "y", ("said", "10"): "z"}, {("said", "1"): "y", ("unsaid", "10"): "x"}):
        with pytest.raises(ConfigurationError, match="measured with another method in '10'; "):
            require_same_settings(again, now, other, path=path)


def test_the_figure_shows_every_variant_and_measure_that_there_is():
    study = studies()["kv-split"]
    frame = frame_of(rows("on", [0.5, 0.6]) + rows("off", [0.4, 0.45]))
    drawn = study_figure(study, frame, ["on", "off"])
    assert drawn.count("<circle") == 2 and drawn.count('class="range"') == 2
    assert "balance of the two" in drawn and "leakage" not in drawn, "what was not measured has no panel"
    elements = ElementTree.fromstring(drawn)
    assert elements.get("viewBox") == "0 0 442 112"


def test_tuning_picks_the_best_balance_of_each_preset_and_tells_an_end_of_the_range(tmp_path, monkeypatch):
    monkeypatch.setattr(definitions, "TUNING_RATES", (0.01, 0.03, 0.1))
    monkeypatch.setattr(definitions, "MINIATURE_SPREAD", 0.5)
    monkeypatch.setattr(definitions, "TUNING_STEPS", (100, 200, 400))
    study = studies()["tune"]
    inside, end = "prospect rate 0.06 steps 200", "textual-inversion rate 0.2 steps 400"
    frame = frame_of(
        [
            row
            for label in study.labels[:-1]
            for row in rows(label, [0.9, 0.8] if label in (inside, end) else [0.3, 0.4])
        ]
    )
    page, _ = write_page(study, frame, NightlyConfig(), tmp_path)
    chosen = {
        line.split(" | ")[0].strip("| "): line for line in page.read_text().split("## Chosen")[1].splitlines()
    }
    assert "| 0.06 | 200 | 0.850" in chosen["prospect"] and "| none |" in chosen["prospect"]
    assert "| 0.2 | 400 | 0.850" in chosen["textual-inversion"]
    assert "learning rate, steps" in chosen["textual-inversion"]
    assert f"Not measured yet, framing said: {study.labels[-1]}." in page.read_text()
    assert "Not measured yet, framing unsaid: all variants." in page.read_text()


def test_the_best_of_a_sweep_is_inside_only_if_both_its_neighbors_were_measured(tmp_path):
    study = studies()["lambda"]
    whole = rows("0.001", [0.5, 0.6]) + rows("0.003", [0.8, 0.9]) + rows("0.01", [0.4, 0.5])
    for measured, where in ((whole, "inside the sweep"), (whole[2:], "an end of the sweep")):
        page, _ = write_page(study, frame_of(measured), NightlyConfig(), tmp_path)
        assert f"Best mean balance: 0.003, {where}." in page.read_text()


def test_reconstructed_settings_are_told_of_the_preset_that_has_them(tmp_path):
    frame = frame_of(rows("semantic-fidelity", [0.5, 0.6]) + rows("prospect", [0.4, 0.5]))
    page, _ = write_page(studies()["presets"], frame, NightlyConfig(), tmp_path)
    told = page.read_text().split("## Settings that are reconstructions")[1]
    assert (
        "values of `semantic-fidelity-as-published` are ours" in told and "`parametrization` = free" in told
    )


def test_every_variant_can_be_asked_for_on_the_command_line():
    for study in studies().values():
        for variant in study.variants:
            assert study.select_variants(variant.label.split(",")) == (variant,)


def test_every_claim_names_variants_and_measures_that_exist():
    for study in studies().values():
        measures = set(frame_of([]).columns)
        for claim in study.claims:
            assert {claim.better, *claim.worse} <= set(study.labels) and claim.measure in measures


def test_a_setting_at_which_people_diverge_is_not_chosen_for_those_who_did_not(tmp_path):
    study = studies()["tune"]
    steady, wild = "celeb-basis rate 0.02 steps 100", "celeb-basis rate 0.06 steps 200"
    stopped = [unlearnable_row(wild, f"p{n}", {"run_id": "r"}, condition="said") for n in (1, 2)]
    stopped.append(
        unlearnable_row(wild, "p3", {"run_id": "r", "samples": 1000, "restarted": 0}, condition="said")
    )
    restarted = rows(wild, [0.9], restarted=1, samples=1000)
    frame = frame_of(rows(steady, [0.6] * 4, samples=1000) + restarted + stopped)
    page, _ = write_page(study, frame, NightlyConfig(), tmp_path)
    text = page.read_text()
    assert "| celeb-basis | 0.02 | 100 | 0.600" in text
    assert f"diverged: {wild} (1 learned by a second attempt at a lower rate, 2 not, counted as 0)." in text
    assert f"People whose pictures are of one color: {wild} (1, counted as 0)." in text
    assert paired_difference(frame, "balance", wild, steady).people == 4
