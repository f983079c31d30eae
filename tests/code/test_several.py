"""Several people in one prompt: each in their own places and stages, plain words as in the single-person path."""

import numpy as np
import pytest
import torch

from faceid_core.config.control import IdentityUse
from faceid_core.diffusion.base import load_base_model
from faceid_core.errors import BaseMismatch, ConfigurationError
from faceid_core.evaluate.generation import DrawRequest, draw
from faceid_core.personalize.prompts import split_several
from faceid_core.personalize.subjects import (
    common_boundaries,
    identity_contexts,
    plain_contexts,
    several_contexts,
)
from faceid_core.personalize.tokens import IdentityTokens
from tests.helpers.tiny_pipeline import write_tiny_pipeline

BOTH = "photo of V1* on V2* beach"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_base_model(write_tiny_pipeline(tmp_path_factory.mktemp("tiny")), digest="d" * 64)


def tokens(number, *, stages=5, vectors=1, digest="d" * 64, timesteps=1000):
    values = torch.randn(stages, 2, vectors, 32, generator=torch.Generator().manual_seed(number))
    cuts = tuple(timesteps * stage // stages for stage in range(1, stages))
    return IdentityTokens(
        {"text_encoder": values}, digest, "person", "{}", cuts, timesteps, "v_prediction", f"{number:064x}"
    )


def picture(base, subject, prompt, use=IdentityUse(), *, batch=1):
    options = {"sampler": "DDIMScheduler", "steps": 8, "guidance_scale": 4.0, "batch": batch}
    return next(draw(base, [DrawRequest(subject, prompt, 3, use)], **options))


def near(first, second):
    return np.abs(first.image.astype(int) - second.image.astype(int)).max() <= 1


def test_a_person_beside_a_plain_word_is_the_single_person_path(base):
    person = tokens(1)
    single, _ = identity_contexts(base, "photo of V* on person beach", person)
    several, positions = several_contexts(base, BOTH, (person, "person"))
    assert torch.allclose(several.states, single.states, atol=1e-5)
    assert positions.tolist() == [3, 5]
    # "woman" takes two positions; the person after it moves on by one.
    single, _ = identity_contexts(base, "photo of woman on V* beach", person)
    several, positions = several_contexts(base, "photo of V2* on V1* beach", (person, "woman"))
    assert torch.allclose(several.states, single.states, atol=1e-5)
    assert positions.tolist() == [6, 3, 4]
    assert near(picture(base, (person, "person"), BOTH), picture(base, person, "photo of V* on person beach"))


def test_plain_words_alone_are_the_plain_prompt(base):
    plain, _ = plain_contexts(base, "photo of V* on man beach", "woman")
    several, _ = several_contexts(base, BOTH, ("woman", "man"))
    assert torch.allclose(several.states, plain.states, atol=1e-5)


def test_each_persons_vectors_stand_in_their_own_places(base):
    """What enters the text encoder, seen by a hook behind the substitution."""
    first, second = tokens(1, vectors=2), tokens(2)
    seen = []
    model = base.towers["text_encoder"].model
    embeddings = next(module for name, module in model.named_modules() if name.endswith("embeddings"))
    position = embeddings.position_embedding
    handle = embeddings.register_forward_hook(lambda _m, _a, out: seen.append(out))
    try:
        _, positions = several_contexts(base, "photo of V2* on V1* beach", (first, second))
    finally:
        handle.remove()
    entered = seen[0].unflatten(0, (5, 2)) - position.weight[:16]  # [stages, 2, length, width]
    assert positions.tolist() == [5, 6, 3]
    assert torch.allclose(entered[:, :, [5, 6]], first.tensors["text_encoder"], atol=1e-5)
    assert torch.allclose(entered[:, :, [3]], second.tensors["text_encoder"], atol=1e-5)


def test_different_boundaries_meet_in_their_union(base):
    first, second = tokens(1, stages=2), tokens(2, stages=4)
    assert common_boundaries((first, second, "person")) == (250, 500, 750)
    contexts, _ = several_contexts(base, BOTH, (first, second))
    for common, (own_first, own_second) in enumerate([(0, 0), (0, 1), (1, 2), (1, 3)]):
        only = tuple(
            IdentityTokens(
                **{
                    **vars(each),
                    "tensors": {"text_encoder": each.tensors["text_encoder"][[own]]},
                    "boundaries": (),
                }
            )
            for each, own in ((first, own_first), (second, own_second))
        )
        assert torch.allclose(
            contexts.states[common], several_contexts(base, BOTH, only)[0].states[0], atol=1e-5
        )
    assert picture(base, (first, second), BOTH).image.shape == (32, 32, 3)


@pytest.mark.parametrize("use", [IdentityUse((1, 4)), IdentityUse(kv="v"), IdentityUse((2,), "k", 0.3)])
def test_the_use_holds_for_people_together_as_alone(base, use):
    person = tokens(1)
    alone, _ = identity_contexts(base, "photo of V* on person beach", person, use)
    together, _ = several_contexts(base, BOTH, (person, "person"), use)
    # Where the person is left out, the alone path blends contexts and this one vectors: the same class word.
    assert torch.allclose(together.states, alone.states, atol=1e-5)


def test_people_change_the_picture_and_their_order_matters(base):
    first, second = tokens(1), tokens(2)
    pictures = [
        picture(base, people, BOTH).image
        for people in ((first, second), (second, first), (first, "person"), (first, first))
    ]
    assert len({image.tobytes() for image in pictures}) == 4


def test_attention_covers_everybody(base):
    first, second = tokens(1), tokens(2)
    both = picture(base, (first, second), BOTH).attention.astype(float)
    staged_alone = picture(base, first, "photo of V* on person beach").attention.astype(float)
    assert both.shape == (8, 8) and both.mean() > staged_alone.mean()


def test_company_in_the_batch_changes_nothing(base):
    people = (tokens(1), tokens(2, stages=3))
    options = {"sampler": "DDIMScheduler", "steps": 6, "guidance_scale": 4.0, "batch": 4}
    crowd = [
        DrawRequest("person", "photo of V*", 1),
        DrawRequest(people, BOTH, 3),
        DrawRequest(tokens(5), "V*", 1),
    ]
    together = list(draw(base, crowd, **options))[1]
    alone = next(draw(base, crowd[1:2], **options))
    assert np.array_equal(together.image, alone.image)


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("a photo of V1*", "has V1*; with 2 people write each of V1*, V2* exactly once"),
        ("V1* and V1* and V2*", "has V1*, V1*, V2*;"),
        ("V1* and V2* and V3*", "has V1*, V2*, V3*;"),
        ("V1* and V2* and V*", "has V1*, V2*, V*;"),
        ("a photo", "has no placeholder;"),
        ("V1* and V2*s", "'V2*' touches another word"),
    ],
)
def test_prompts_that_do_not_fit_the_people_are_refused(prompt, says):
    with pytest.raises(ConfigurationError) as raised:
        split_several(prompt, 2)
    assert says in str(raised.value)
    assert split_several("V2* and V1*.", 2) == (("", " and ", "."), (1, 0))


def test_people_of_different_base_models_are_refused(base):
    options = {"sampler": "DDIMScheduler", "steps": 6}
    with pytest.raises(BaseMismatch, match="learned on different base models"):
        draw(base, [DrawRequest((tokens(1), tokens(2, digest="e" * 64)), BOTH, 1)], **options)
    with pytest.raises(BaseMismatch, match="learned on different base models"):
        draw(base, [DrawRequest((tokens(1), tokens(2, timesteps=500)), BOTH, 1)], **options)
    with pytest.raises(ConfigurationError, match="no person or word is given"):
        draw(base, [DrawRequest((), "a photo", 1)], **options)
