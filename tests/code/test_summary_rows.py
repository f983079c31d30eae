"""The closing line of a run: only what was measured."""

from faceid_core.night.summary_rows import acceptance_line


def overall(way, gain, obeyed) -> dict:
    over = {"identity_fraction": {"mean": way}, "identity_gain": {"mean": gain}}
    relative = {"concepts_obeyed": obeyed}
    return {"people": 3, "people_with_gain": 2, "over_people": over, "relative_to_class_word": relative}


def test_all_three_figures():
    assert acceptance_line(overall(0.414, 0.2, 0.956)) == (
        "on average 41% of the way from class word to named people; 2 of 3 surely above the class word; "
        "concepts obeyed 96% as often as with the class word"
    )


def test_what_is_missing_is_left_out():
    assert acceptance_line(overall(None, 0.2, None)) == "2 of 3 surely above the class word"
    assert acceptance_line(overall(0.0, None, None)).startswith("on average 0% of the way")
    assert acceptance_line(overall(None, None, None)) == acceptance_line({}) == ""
