"""Using part of a person: stages, keys or values, strength; the default leaves pictures and digests alone."""

import numpy as np
import pytest
import torch
from scipy.spatial import geometric_slerp

from faceid_core.config import NightlyConfig, parse_config
from faceid_core.config.control import IdentityUse, parse_stages
from faceid_core.diffusion.base import load_base_model
from faceid_core.errors import ConfigurationError
from faceid_core.evaluate.cells import DrawSettings, cell_digest
from faceid_core.evaluate.generation import DrawRequest, draw
from faceid_core.personalize.sphere import adjusted
from faceid_core.personalize.subjects import identity_contexts, plain_contexts, several_contexts
from faceid_core.personalize.tokens import IdentityTokens
from faceid_core.stages.plan import Plan
from faceid_core.stages.planning import plan_works
from faceid_core.stages.work import Subject
from tests.helpers.tiny_pipeline import write_tiny_pipeline

PROMPT = "a photo of V* on beach"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_base_model(write_tiny_pipeline(tmp_path_factory.mktemp("tiny")), digest="d" * 64)


@pytest.fixture(scope="module")
def person():
    vectors = torch.randn(4, 2, 1, 32, generator=torch.Generator().manual_seed(1))
    return IdentityTokens(
        {"text_encoder": vectors}, "d" * 64, "person", "{}", (250, 500, 750), 1000, "v_prediction", "1" * 64
    )


def picture(base, subject, use=None):
    request = DrawRequest(subject, PROMPT, 3, use) if use else DrawRequest(subject, PROMPT, 3)
    options = {"sampler": "DDIMScheduler", "steps": 8, "guidance_scale": 4.0, "batch": 1}
    return next(draw(base, [request], **options)).image


def with_the_class_word_at(person, base, stages, kv):
    """The same tokens with the class word's own embedding for K or V of some stages."""
    tower = base.towers["text_encoder"]
    (word,) = tower.tokenizer("person", add_special_tokens=False).input_ids
    changed = person.tensors["text_encoder"].clone()
    for stage in stages:
        changed[stage, kv] = tower.token_embedding.weight[word]
    return IdentityTokens(**{**vars(person), "tensors": {"text_encoder": changed}})


def test_the_default_use_is_bitwise_what_is_drawn_without_one(base, person):
    usual = picture(base, person)
    assert np.array_equal(usual, picture(base, person, IdentityUse()))
    # Naming every stage goes the other way through the code and must not move a bit either.
    assert np.array_equal(usual, picture(base, person, IdentityUse((1, 2, 3, 4))))


@pytest.mark.parametrize(
    ("use", "off_stages", "off_kv"),
    [
        (IdentityUse((1, 3)), (1, 3), [0, 1]),
        (IdentityUse(kv="k"), range(4), [1]),
        (IdentityUse(kv="v"), range(4), [0]),
    ],
)
def test_what_is_left_out_is_the_class_word(base, person, use, off_stages, off_kv):
    expected = picture(base, with_the_class_word_at(person, base, off_stages, off_kv))
    found = picture(base, person, use)
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    assert not np.array_equal(found, picture(base, person))


def test_strength_runs_evenly_from_the_class_words_contexts_to_the_persons(base, person):
    plain, _ = plain_contexts(base, PROMPT, "person")
    whole, positions = identity_contexts(base, PROMPT, person)
    none, _ = identity_contexts(base, PROMPT, person, IdentityUse(strength=0.0))
    some, same_positions = identity_contexts(base, PROMPT, person, IdentityUse((2,), "v", 0.25))
    assert torch.equal(positions, same_positions)
    plain, whole, none, some = (each.states for each in (plain, whole, none, some))
    assert torch.allclose(none, plain.expand_as(none), atol=1e-5)
    expected = none.clone()
    expected[1, 1] = 0.75 * none[1, 1] + 0.25 * whole[1, 1]
    assert torch.allclose(some, expected, atol=1e-5)
    word = picture(base, "person")
    off = picture(base, person, IdentityUse(strength=0.0))
    assert np.abs(word.astype(int) - off.astype(int)).max() <= 1


def test_adjusting_is_the_great_circle_and_a_share_of_the_length():
    generator = np.random.default_rng(0)
    vectors, towards = 5 * generator.normal(size=(4, 8)), generator.normal(size=8)
    found = adjusted(torch.from_numpy(vectors), torch.from_numpy(towards), 0.5, 0.2).numpy()
    for vector, each in zip(vectors, found, strict=True):
        own, other = np.linalg.norm(vector), np.linalg.norm(towards)
        on_circle = geometric_slerp(vector / own, towards / other, [0.2])[0]
        assert np.allclose(each, (own + other) / 2 * on_circle)
    same = adjusted(torch.from_numpy(2 * towards), torch.from_numpy(towards), 0.25, 0.7)
    assert np.allclose(same.numpy(), 1.75 * towards), "vectors along the class word's have nothing to turn"


def test_a_whole_adjustment_is_the_class_word_where_the_person_is_used(base, person):
    plain, _ = plain_contexts(base, PROMPT, "person")
    whole, _ = identity_contexts(base, PROMPT, person)
    found, _ = identity_contexts(base, PROMPT, person, IdentityUse(adjust_length=1.0, adjust_direction=1.0))
    assert torch.allclose(found.states, plain.states.expand_as(found.states), atol=1e-4)
    # The published adjustment lies between, and in company it is the same.
    use = IdentityUse((2,), "v", adjust_length=0.5, adjust_direction=0.2)
    some, _ = identity_contexts(base, PROMPT, person, use)
    (word,) = base.towers["text_encoder"].tokenizer("person", add_special_tokens=False).input_ids
    learned, word = person.tensors["text_encoder"], base.towers["text_encoder"].token_embedding.weight[word]
    changed = with_the_class_word_at(person, base, range(4), [0, 1]).tensors["text_encoder"]
    changed[1, 1] = adjusted(learned[1, 1], word, 0.5, 0.2)
    by_hand = IdentityTokens(**{**vars(person), "tensors": {"text_encoder": changed}})
    expected, _ = identity_contexts(base, PROMPT, by_hand)
    assert torch.allclose(some.states, expected.states, atol=1e-5)
    assert not torch.allclose(some.states[1, 1], whole.states[1, 1], atol=1e-2)
    together, _ = several_contexts(base, PROMPT.replace("V*", "V1*"), [person], use)
    assert torch.allclose(together.states, some.states, atol=1e-5)


def test_one_batch_mixes_uses_of_one_person(base, person):
    uses = [IdentityUse(), IdentityUse((1,)), IdentityUse(strength=0.5)]
    options = {"sampler": "DDIMScheduler", "steps": 8, "guidance_scale": 4.0, "batch": 3}
    together = [p.image for p in draw(base, [DrawRequest(person, PROMPT, 3, use) for use in uses], **options)]
    for use, image in zip(uses, together, strict=True):
        assert np.abs(image.astype(int) - picture(base, person, use).astype(int)).max() <= 1
    assert len({image.tobytes() for image in together}) == 3


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"stages": (0,)}, r"stages \[0\] must be different numbers from 1"),
        ({"stages": (2, 2)}, "must be different numbers"),
        ({"kv": "q"}, "kv 'q' is unknown; use one of kv, k, v"),
        ({"strength": 1.5}, "strength 1.5 is not between 0"),
        ({"strength": float("nan")}, "strength nan is not between 0"),
        ({"adjust_length": -0.1}, "adjust_length -0.1 is not between 0"),
        ({"adjust_direction": 2}, "adjust_direction 2 is not between 0"),
    ],
)
def test_values_that_cannot_be_used_are_named(values, says):
    with pytest.raises(ConfigurationError, match=says):
        IdentityUse(**values)


def test_a_stage_that_the_tokens_lack_is_refused_before_any_work(base, person):
    with pytest.raises(ConfigurationError, match="stage 5 is to be used, but the tokens have 4 stages"):
        draw(base, [DrawRequest(person, PROMPT, 1, IdentityUse((1, 5)))])
    with pytest.raises(ConfigurationError, match="stage 6 is to be used, but the tokens have 5 stages"):
        parse_config({"generate": {"use_stages": [6]}})
    assert parse_config({"generate": {"use_stages": [6]}, "personalize": {"preset": "prospect"}})


def test_stages_are_read_from_a_list_or_a_range():
    assert parse_stages("1,2, 4") == (1, 2, 4)
    assert parse_stages("3-5,1") == (3, 4, 5, 1)
    for wrong in ("a", "1-", "1;2", "-2"):
        with pytest.raises(ConfigurationError, match="are not numbers"):
            parse_stages(wrong)
    # As an empty list it would mean all stages.
    with pytest.raises(ConfigurationError, match="write 3-5"):
        parse_stages("5-3")


def test_digests_from_before_there_was_a_choice_stay():
    """Golden: another value would draw every picture of every store again."""
    settings = DrawSettings("b" * 64, "DDIMScheduler", 12, 4, "float32", 1)
    digest = cell_digest(settings, subject="person", prompt="a photo of V*", seed=3)
    assert digest == "307ad3907e93a880ea72677f04e91e25d16d97c2503eab3b9ca78ea8c7b2f0a2"


def test_the_use_is_part_of_a_persons_pictures_keys_and_of_nobody_elses():
    def key(kind="person", **generate):
        config = parse_config({"generate": generate})
        subject = Subject(kind, "x", "common", "person", text="person")
        return plan_works(Plan.from_config(config), "generate", subject)[0].call.key

    assert key() == key(use_stages=[5, 4, 3, 2, 1]) == key(use_strength=1)
    assert key() == key(adjust_length=0, adjust_direction=0)
    different = {key(), key(use_stages=[1]), key(use_kv="k"), key(use_strength=0.5), key(adjust_length=0.5)}
    different |= {key(adjust_direction=0.5), key(use_kv="k", adjust_direction=0.5)}
    assert len(different) == 7
    assert key("class_word") == key("class_word", use_strength=0.5)
    assert NightlyConfig().digest() != parse_config({"generate": {"use_kv": "k"}}).digest()
