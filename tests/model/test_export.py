"""Textual Inversion files: what diffusers draws from them is what we draw, and distilling keeps what it reports."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors import safe_open

from faceid_core.diffusion.base import load_base_model
from faceid_core.errors import BaseMismatch, ConfigurationError
from faceid_core.evaluate.exported import DrawOptions, distill_tokens
from faceid_core.evaluate.generation import DrawRequest, draw
from faceid_core.evaluate.grid import parse_grid
from faceid_core.evaluate.sampling import initial_noise
from faceid_core.personalize.distill import View, distill
from faceid_core.personalize.export import is_exact, single_context, to_textual_inversion
from faceid_core.personalize.tokens import IdentityTokens
from tests.helpers.tiny_pipeline import write_tiny_pipeline

PROMPT = "a photo of V* on beach"
GRID = parse_grid(
    "name: small\nprompts:\n"
    + "".join(
        f"  - {{id: p-{i}, text: {text}, category: scene}}\n"
        for i, text in enumerate(
            (
                "a photo of V*",
                "V* on the beach",
                "the face of V*",
                "V* wearing a red hat",
                "a photo of V* on beach",
            )
        )
    ),
    source="test",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def base(folder):
    return load_base_model(folder, digest="d" * 64)


def tokens(*, stages=5, vectors=1, spread=1.0):
    """Made-up tokens: a common vector plus what differs between stages, K and V, `spread` times as strong."""
    generator = torch.Generator().manual_seed(4)
    common = torch.randn(1, 1, vectors, 32, generator=generator)
    own = torch.randn(stages, 2, vectors, 32, generator=generator)
    cuts = tuple(1000 * stage // stages for stage in range(1, stages))
    return IdentityTokens(
        {"text_encoder": common + spread * own},
        "d" * 64,
        "person",
        "{}",
        cuts,
        1000,
        "v_prediction",
        "1" * 64,
    )


def drawn_by_diffusers(base, folder, file, prompt, seed):
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.load_textual_inversion(str(file))
    return pipeline(
        prompt,
        latents=initial_noise(seed, base.description.latent_shape)[None],
        num_inference_steps=6,
        guidance_scale=4.0,
        output_type="np",
    ).images[0]


@pytest.mark.parametrize(("vectors", "token"), [(1, "<v>"), (3, "<v>"), (2, "sks")])
def test_the_exported_file_draws_the_same_picture_in_diffusers(base, folder, tmp_path, vectors, token):
    person = tokens(stages=1, vectors=vectors, spread=0.0)
    file = tmp_path / "learned_embeds.safetensors"
    file.write_bytes(to_textual_inversion(person, token=token))
    theirs = drawn_by_diffusers(base, folder, file, PROMPT.replace("V*", token), 2)
    options = {"sampler": "DDIMScheduler", "steps": 6, "guidance_scale": 4.0, "batch": 1}
    ours = next(draw(base, [DrawRequest(person, PROMPT, 2)], **options)).image
    word = next(draw(base, [DrawRequest("person", PROMPT, 2)], **options)).image
    assert np.abs(ours - theirs * 255).max() < 1.0
    assert np.abs(word - theirs * 255).max() > 2.0


def test_the_file_holds_one_tensor_and_says_what_it_is(tmp_path):
    person = tokens(stages=1, vectors=2, spread=0.0)
    file = tmp_path / "person.safetensors"
    data = to_textual_inversion(person, notes={"lost_share": 0.25})
    assert data == to_textual_inversion(person, notes={"lost_share": 0.25})
    file.write_bytes(data)
    with safe_open(file, "pt") as opened:
        assert list(opened.keys()) == ["<v>"]
        assert torch.equal(opened.get_tensor("<v>"), person.tensors["text_encoder"][0, 0])
        fields = json.loads(opened.metadata()["faceid"])
    assert (fields["vectors"], fields["class_word"], fields["lost_share"]) == (2, "person", 0.25)


def test_two_text_encoders_take_the_names_that_other_tools_know(tmp_path):
    one = tokens(stages=1, spread=0.0)
    wide = torch.ones(1, 2, 1, 48)
    both = {"text_encoder": one.tensors["text_encoder"], "text_encoder_2": wide}
    file = tmp_path / "person.safetensors"
    file.write_bytes(to_textual_inversion(IdentityTokens(**{**vars(one), "tensors": both})))
    with safe_open(file, "pt") as opened:
        assert {name: opened.get_tensor(name).shape[1] for name in ("clip_l", "clip_g")} == {
            "clip_l": 32,
            "clip_g": 48,
        }


def test_what_a_file_cannot_hold_is_refused():
    assert is_exact(tokens(stages=1, spread=0.0)) and not is_exact(tokens(stages=1))
    for person in (tokens(), tokens(stages=1)):
        with pytest.raises(ConfigurationError, match=r"keys and values of their own.*distill them first"):
            to_textual_inversion(person)
    for token in ("my friend", "V*", ""):
        with pytest.raises(ConfigurationError, match="must be one word in lower case"):
            to_textual_inversion(tokens(stages=1, spread=0.0), token=token)


def views(base, prompts, seed):
    latents = torch.randn(
        len(prompts), *base.description.latent_shape, generator=torch.Generator().manual_seed(seed)
    )
    return [View(prompt, latent) for prompt, latent in zip(prompts, latents, strict=True)]


def test_distilling_loses_less_of_the_person_than_the_mean_of_its_vectors(base):
    person = tokens(spread=0.5)
    seen, held_out = views(base, ["a photo of V*", "V* on the beach"], 1), views(base, ["the face of V*"], 2)
    made = distill(base, person, seen, held_out, steps=60, learning_rate=0.05)
    assert is_exact(made.tokens) and is_exact(made.mean)
    assert made.tokens.vectors == 1 and made.tokens.stages == 1
    assert 0 < made.lost < 0.9 * made.lost_by_mean
    again = distill(base, person, seen, held_out, steps=60, learning_rate=0.05)
    assert again.tokens.to_bytes() == made.tokens.to_bytes()


def test_nothing_is_lost_where_nothing_has_to_be(base):
    """The teacher has one stage with K = V: the mean is the person, and the reported loss is zero."""
    person = tokens(stages=1, spread=0.0)
    same = views(base, ["a photo of V*"], 1)
    made = distill(base, person, same, same, steps=0)
    assert made.lost_by_mean == made.lost < 1e-9
    assert torch.equal(made.tokens.tensors["text_encoder"], person.tensors["text_encoder"])
    # And the class word itself loses everything.
    word = base.towers["text_encoder"].tokenizer("person", add_special_tokens=False).input_ids
    plain = single_context(person, {"text_encoder": base.towers["text_encoder"].token_embedding.weight[word]})
    from faceid_core.personalize.distill import _Teacher

    assert _Teacher(base, person).lost_share(same, plain, 0) == pytest.approx(1.0)


def test_a_grid_is_split_into_prompts_to_learn_from_and_to_measure_on(base):
    drawing = DrawOptions("DDIMScheduler", 3, 2.0, 4)
    made = distill_tokens(base, tokens(spread=0.5), GRID, drawing, steps=5, vectors=2)
    assert made.tokens.vectors == 2
    assert set(made.notes()) == {"distill_steps", "lost_share_by_mean", "lost_share"}
    small = parse_grid("name: s\nprompts:\n  - {id: a, text: a photo of V*, category: scene}", source="test")
    with pytest.raises(ConfigurationError, match="every 4th is held out to measure on"):
        distill_tokens(base, tokens(), small, drawing)


def test_another_base_model_is_refused_and_the_network_stays_frozen(base):
    with pytest.raises(BaseMismatch):
        distill(base, IdentityTokens(**{**vars(tokens()), "base_digest": "e" * 64}), [], [])
    before = {name: weight.clone() for name, weight in base.unet.state_dict().items()}
    same = views(base, ["a photo of V*"], 1)
    distill(base, tokens(), same, same, steps=3)
    assert all(torch.equal(weight, before[name]) for name, weight in base.unet.state_dict().items())
