"""Drawing: a picture depends on tokens, prompt, seed and sampler only, and agrees with diffusers."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from faceid_core.diffusion.base import load_base_model
from faceid_core.errors import BaseMismatch, ConfigurationError
from faceid_core.evaluate.generation import DrawRequest, draw
from faceid_core.evaluate.sampling import initial_noise
from faceid_core.personalize.tokens import IdentityTokens
from tests.helpers.tiny_pipeline import write_tiny_pipeline

PROMPT = "a photo of V* on beach"


@pytest.fixture(scope="module", params=["v_prediction", "epsilon"])
def folder(request, tmp_path_factory):
    return write_tiny_pipeline(tmp_path_factory.mktemp("tiny"), prediction_type=request.param)


@pytest.fixture(scope="module")
def base(folder):
    return load_base_model(folder, digest="d" * 64)


def tokens(number, *, stages=5, digest="d" * 64):
    """Made-up tokens with strong, differing vectors for every stage and side."""
    vectors = torch.randn(stages, 2, 1, 32, generator=torch.Generator().manual_seed(number))
    cuts = tuple(1000 * stage // stages for stage in range(1, stages))
    return IdentityTokens(
        {"text_encoder": vectors}, digest, "person", "{}", cuts, 1000, "v_prediction", f"{number:064x}", {}
    )


def pictures(base, requests, **options):
    settings = {"sampler": "DDIMScheduler", "steps": 6, "guidance_scale": 4.0, "batch": 4, **options}
    return list(draw(base, requests, **settings))


@pytest.mark.parametrize(
    "sampler", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler"]
)
def test_a_picture_does_not_depend_on_its_companions(base, sampler):
    person = tokens(1)
    alone = pictures(base, [DrawRequest(person, PROMPT, 3)], sampler=sampler)[0]
    crowd = [
        DrawRequest("person", PROMPT, 5),
        DrawRequest(tokens(2, stages=3), PROMPT, 3),
        DrawRequest(person, PROMPT, 3),
        DrawRequest(person, "V* wearing red hat", 9),
        DrawRequest(person, PROMPT, 4),
    ]
    together = pictures(base, crowd, sampler=sampler)
    assert len(together) == 5
    assert np.array_equal(alone.image, together[2].image)
    assert np.array_equal(alone.attention, together[2].attention)
    for other in (0, 1, 3, 4):
        assert not np.array_equal(alone.image, together[other].image)


def test_a_plain_text_is_what_diffusers_draws(base, folder):
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    theirs = pipeline(
        "a photo of woman on beach",
        latents=initial_noise(7, base.description.latent_shape)[None],
        num_inference_steps=6,
        guidance_scale=4.0,
        output_type="np",
    ).images[0]
    ours = pictures(base, [DrawRequest("woman", PROMPT, 7)], batch=1)[0].image
    assert np.abs(ours - theirs * 255).max() < 1.0


def test_one_stage_with_equal_sides_is_what_diffusers_draws_from_the_same_embeddings(base, folder):
    person = tokens(4, stages=1)
    person.tensors["text_encoder"][:, 1] = person.tensors["text_encoder"][:, 0]
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    # The word "person" gets the vector as its embedding, as a loaded textual inversion would.
    word = pipeline.tokenizer("person", add_special_tokens=False).input_ids
    pipeline.text_encoder.get_input_embeddings().weight.data[word] = person.tensors["text_encoder"][0, 0]
    embeddings = pipeline.encode_prompt(PROMPT.replace("V*", "person"), "cpu", 1, True)
    theirs = pipeline(
        prompt_embeds=embeddings[0],
        negative_prompt_embeds=embeddings[1],
        latents=initial_noise(2, base.description.latent_shape)[None],
        num_inference_steps=6,
        guidance_scale=4.0,
        output_type="np",
    ).images[0]
    ours = pictures(base, [DrawRequest(person, PROMPT, 2)], batch=1)[0].image
    assert np.abs(ours - theirs * 255).max() < 1.0


def test_attention_lies_over_a_wide_picture_as_over_a_square_one(base):
    # Latents of 7 x 13 cells: each lower level of the U-Net halves both sides and rounds up.
    drawn = pictures(base, [DrawRequest(tokens(1), PROMPT, 1)], size=(28, 52), steps=2)[0]
    assert drawn.image.shape == (28, 52, 3)
    assert drawn.attention.shape == (7, 13)
    assert 0 < drawn.attention.min() <= drawn.attention.max() < 1


def test_a_size_that_the_autoencoder_has_no_latent_for_is_refused(base):
    with pytest.raises(ConfigurationError, match="multiples of 4 pixels"):
        pictures(base, [DrawRequest("person", PROMPT, 1)], size=(30, 52))


def test_each_stage_is_used_in_its_own_timesteps(base):
    person = tokens(1)
    usual = pictures(base, [DrawRequest(person, PROMPT, 1)], steps=4)[0].image
    # DDIM's timesteps for 4 steps are 751, 501, 251 and 1: stage 3 (600 to 799) is used, stage 4 is not.
    for stage, is_used in ((4, False), (3, True)):
        changed = {"text_encoder": person.tensors["text_encoder"].clone()}
        changed["text_encoder"][stage] *= -1
        other = IdentityTokens(**{**vars(person), "tensors": changed})
        drawn = pictures(base, [DrawRequest(other, PROMPT, 1)], steps=4)[0].image
        assert np.array_equal(usual, drawn) is not is_used


def test_keys_and_values_are_told_apart(base):
    person = tokens(1)
    swapped = IdentityTokens(
        **{**vars(person), "tensors": {"text_encoder": person.tensors["text_encoder"].flip(1)}}
    )
    first, second = pictures(base, [DrawRequest(person, PROMPT, 1), DrawRequest(swapped, PROMPT, 1)])
    assert not np.array_equal(first.image, second.image)


def test_attention_is_recorded_only_when_asked_and_never_changes_the_picture(base):
    request = [DrawRequest(tokens(1), PROMPT, 1)]
    with_map = pictures(base, request)[0]
    without = pictures(base, request, record_attention=False)[0]
    assert without.attention is None
    assert np.array_equal(with_map.image, without.image)
    assert with_map.attention.shape == (8, 8) and with_map.attention.dtype == np.float16
    assert with_map.attention.min() > 0 and with_map.attention.max() < 1


def test_guidance_of_one_draws_without_the_unconditional_half(base):
    request = [DrawRequest("person", PROMPT, 1)]
    assert not np.array_equal(
        pictures(base, request, guidance_scale=1.0)[0].image, pictures(base, request, guidance_scale=4.0)[0].image
    )


def test_what_cannot_be_drawn_is_refused_before_any_work(base):
    with pytest.raises(BaseMismatch, match="learned on base model eeee"):
        draw(base, [DrawRequest(tokens(1, digest="e" * 64), PROMPT, 1)])
    with pytest.raises(ConfigurationError, match="no sampler 'AutoencoderKL'"):
        draw(base, [], sampler="AutoencoderKL")
    with pytest.raises(ConfigurationError, match="exactly once"):
        pictures(base, [DrawRequest("person", "a photo", 1)])
    with pytest.raises(ConfigurationError, match="the model reads 14"):
        pictures(base, [DrawRequest("person", "V*" + " beach" * 15, 1)])
