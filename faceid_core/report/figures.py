"""The figures of the report: names, meanings, decimals, and a dash where nothing was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DASH = "–"


@dataclass(frozen=True)
class Figure:
    """One line of the score table: a column of `identity_summary`, its name and its meaning."""

    column: str
    name: str
    meaning: str
    percent: bool = False
    has_interval: bool = False

    def text(self, row: Mapping | None) -> str:
        """The value of a summary row, with its interval if it has one."""
        if row is None or (value := row.get(self.column)) is None:
            return DASH
        text = number(value, percent=self.percent)
        low, high = row.get(f"{self.column}_low"), row.get(f"{self.column}_high")
        if not self.has_interval or low is None or high is None:
            return text
        return f"{text} [{number(low, percent=self.percent)}, {number(high, percent=self.percent)}]"


FIGURES = (
    Figure(
        "identity_similarity",
        "identity",
        "cosine of face embeddings to the photo, pictures without a face left out",
        has_interval=True,
    ),
    Figure(
        "identity_similarity_counting_faceless",
        "identity, faceless as 0",
        "the same, pictures without a face counted as 0",
    ),
    Figure(
        "identity_gain",
        "gain over class word",
        "difference to the class word on the same prompts and seeds",
        has_interval=True,
    ),
    Figure(
        "identity_fraction",
        "normalized identity",
        "between the class word (0 %) and people whom the model knows (100 %)",
        percent=True,
    ),
    Figure(
        "concepts_obeyed",
        "concept accuracy",
        "pictures that show every concept that the prompt asks for",
        percent=True,
        has_interval=True,
    ),
    Figure(
        "single_concepts_obeyed", "single concepts", "each requested concept counted by itself", percent=True
    ),
    Figure("scene_obeyed", "scene prompts", "concept accuracy over the scene prompts", percent=True),
    Figure(
        "attribute_obeyed", "attribute prompts", "concept accuracy over the attribute prompts", percent=True
    ),
    Figure("action_obeyed", "action prompts", "concept accuracy over the action prompts", percent=True),
    Figure("clothing_obeyed", "clothing prompts", "concept accuracy over the clothing prompts", percent=True),
    Figure(
        "pair_obeyed",
        "two-concept prompts",
        "concept accuracy over the prompts that ask for two concepts",
        percent=True,
    ),
    Figure(
        "mixed_obeyed",
        "mixed prompts",
        "concept accuracy over the prompts that ask for several concepts",
        percent=True,
    ),
    Figure(
        "image_text",
        "image and text",
        "picture against the prompt with the class word in place of V*",
        has_interval=True,
    ),
    Figure("detection", "face found", "pictures in which a face is found", percent=True),
    Figure(
        "attention_outside",
        "attention outside",
        "share of the placeholder token's attention outside face and hair, while drawing",
        percent=True,
    ),
    Figure(
        "leakage",
        "leakage",
        "how often the photo's clothes, background, framing and position come back although the prompt does not ask "
        "for them; the class word's pictures show the rate by chance",
        percent=True,
        has_interval=True,
    ),
    Figure(
        "leakage_excess",
        "leakage over class word",
        "difference to the class word on the same prompts and seeds",
        percent=True,
        has_interval=True,
    ),
    Figure(
        "leakage_clothes",
        "the photo's clothes",
        "worn where the prompt asks for other clothes or none",
        percent=True,
    ),
    Figure("leakage_background", "the photo's background", "its colors beside the head", percent=True),
    Figure(
        "leakage_framing",
        "the photo's framing",
        "a face as large, where the prompt asks for no close-up",
        percent=True,
    ),
    Figure("leakage_position", "the face's position", "the face where it is in the photo", percent=True),
    Figure(
        "copying",
        "copying",
        "nearness of the face to the very photo beyond nearness to other pictures of the person",
        has_interval=True,
    ),
    Figure(
        "identity_accepted",
        "identity accepted",
        "the recognizer takes the face for the photo's",
        percent=True,
    ),
    Figure("identity_second", "identity, second recognizer", "cosine of another recognizer's embeddings"),
    Figure(
        "image_text_second", "image and text, second model", "picture against the prompt by another model"
    ),
    Figure("diversity", "diversity", "mean distance between pictures of one prompt; 0: all are the same"),
    Figure(
        "attributes_kept", "age and gender kept", "read as in the photo, unless the prompt asks", percent=True
    ),
    Figure("flagged", "flagged", "pictures that the safety checker flags", percent=True),
)
BY_COLUMN = {figure.column: figure for figure in FIGURES}


def number(value: float | None, *, percent: bool = False) -> str:
    """A figure with as many decimals as the report shows."""
    if value is None:
        return DASH
    text = f"{100 * value:.0f} %" if percent else f"{value:.3f}"
    return text.replace("-", "\N{MINUS SIGN}")


def signed(value: float | None) -> str:
    """A difference with its sign."""
    return DASH if value is None else f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def duration(seconds: float | None) -> str:
    """A duration in hours, minutes and seconds."""
    if seconds is None:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
