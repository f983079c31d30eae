"""New names can be taught to the generator's text encoder without losing the ones that it knows."""

from __future__ import annotations

import pytest
import torch

from faceid_core.miniature.people import LAST_NAMES, NAMED_SEEDS, name_of
from faceid_core.miniature_training import more_names, names
from faceid_core.miniature_training.more_names import fit_trait_effects, teach_more_names
from faceid_core.miniature_training.names import named_traits, token_ids
from faceid_core.miniature_training.pipeline_folder import load_pipeline

KNOWN = 128


class Steps:
    """A budget of steps in place of one of minutes."""

    elapsed_seconds = 0.0

    def __init__(self, minutes: float):
        self.asked = 0

    @property
    def progress(self) -> float:
        self.asked += 1  # twice for each step
        return min(1.0, self.asked / 2 / 120)


@pytest.fixture
def pipeline():
    return load_pipeline()


def test_known_names_hold_what_their_people_look_like(pipeline):
    traits = named_traits()
    others = traits.roll(1, dims=0)
    right, wrong = (
        fit_trait_effects(pipeline.text_encoder, pipeline.tokenizer, each, known=KNOWN, seed=1, captions=1024)[
            2
        ]
        for each in (traits, others)
    )
    assert right > 0.6 and wrong < right - 0.2


@pytest.mark.exhaustive
def test_new_names_are_learned_and_known_ones_stay(pipeline, monkeypatch):
    # 64 people are given names that mean another person, or none, until now.
    encoder, tokenizer = pipeline.text_encoder, pipeline.tokenizer

    def renamed(seed: int) -> str:
        first, last = name_of(seed).split()
        if seed - NAMED_SEEDS.start >= KNOWN:
            last = LAST_NAMES[(LAST_NAMES.index(last) + 1) % len(LAST_NAMES)]
        return f"{first} {last}"

    monkeypatch.setattr(more_names, "name_of", renamed)
    monkeypatch.setattr(more_names, "NAMED_SEEDS", NAMED_SEEDS[: KNOWN + 64])
    monkeypatch.setattr(names, "Budget", Steps)
    texts = [f"a photo of {name_of(seed)} on the beach" for seed in NAMED_SEEDS[:KNOWN]]
    with torch.no_grad():
        before = encoder(token_ids(tokenizer, texts)).last_hidden_state
    wrong = teach_more_names(encoder, tokenizer, known=KNOWN, minutes=1, batch=64, captions=1024)
    with torch.no_grad():
        after = encoder(token_ids(tokenizer, texts)).last_hidden_state
    apart = (before - before.roll(1, dims=0)).pow(2).mean()  # between two people
    assert wrong < 0.5
    assert (after - before).pow(2).mean() < 0.2 * apart


def test_without_anybody_new_there_is_a_clear_answer(pipeline):
    with pytest.raises(ValueError, match=r"lengthen people\.NAMED_SEEDS first"):
        teach_more_names(pipeline.text_encoder, pipeline.tokenizer, known=len(NAMED_SEEDS), minutes=1)
