"""Stable Diffusion 1.5, 2.1 and XL at full layout: drawn and exported as diffusers draws; people are learned."""

import json
import math
import shutil
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file

from faceid_core.config.method import Method
from faceid_core.config.presets import PRESETS
from faceid_core.config.sections import GenerateConfig
from faceid_core.diffusion.base import load_base_model
from faceid_core.errors import ConfigurationError, MissingWeights
from faceid_core.evaluate.exported import DrawOptions
from faceid_core.evaluate.generation import DrawRequest, draw
from faceid_core.evaluate.sampling import initial_noise
from faceid_core.evaluate.script import diffusers_script
from faceid_core.personalize.attention import StagedUNet, picture_sizes
from faceid_core.personalize.conditioning import encode_plain
from faceid_core.personalize.export import single_context, to_textual_inversion
from faceid_core.personalize.initial_embeddings import initial_embeddings
from faceid_core.personalize.slots import TrainingPhoto
from faceid_core.personalize.subjects import identity_contexts
from faceid_core.personalize.tokens import IdentityTokens
from faceid_core.personalize.trainer import personalize
from faceid_core.personalize.vocabulary import vocabulary_of
from faceid_core.weights.describe import describe
from tests.helpers.architectures import KINDS, write_architecture
from tests.helpers.tiny_people import tiny_photo

PROMPT = "a photo of V* on the beach"
DRAWING = DrawOptions("DDIMScheduler", 3, 4.0, 1)


@pytest.fixture(scope="module", params=[*KINDS, "sd21 epsilon"])
def folder(request, tmp_path_factory):
    kind, *prediction = request.param.split()
    return write_architecture(
        tmp_path_factory.mktemp(kind), kind, prediction_type=prediction[0] if prediction else None
    )


@pytest.fixture(scope="module")
def base(folder):
    return load_base_model(folder, digest="d" * 64)


@pytest.fixture(scope="module")
def sdxl_folder(tmp_path_factory):
    return write_architecture(tmp_path_factory.mktemp("sdxl"), "sdxl")


@pytest.fixture(scope="module")
def sdxl(sdxl_folder):
    return load_base_model(sdxl_folder, digest="d" * 64)


def tokens(base, *, stages=5, vectors=2):
    """Made-up tokens with strong, differing vectors for every stage, side and text encoder."""
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: torch.randn(stages, 2, vectors, tower.width, generator=generator)
        for name, tower in base.towers.items()
    }
    cuts = tuple(1000 * stage // stages for stage in range(1, stages))
    kind = base.description.prediction_type
    return IdentityTokens(tensors, "d" * 64, "person", "{}", cuts, 1000, kind, "1" * 64, {})


def picture(base, subject, prompt=PROMPT, seed=2, drawing=DRAWING):
    request = [DrawRequest(subject, prompt, seed)]
    return next(draw(base, request, **drawing.arguments(), record_attention=False)).image


@pytest.mark.parametrize("size", [(0, 0), (0, 96), (40, 56)])
def test_a_plain_text_is_what_diffusers_draws_at_any_size(base, folder, size):
    own = base.description.resolution
    options = {name: value for name, value in zip(("height", "width"), size, strict=True) if value}
    drawing = DrawOptions.from_config(
        GenerateConfig(sampler="DDIMScheduler", steps=3, guidance_scale=4.0, batch=1, **options), own
    )
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    theirs = pipe(
        PROMPT.replace("V*", "woman"),
        latents=initial_noise(2, base.description.latent_shape_of(drawing.size))[None],
        num_inference_steps=3,
        guidance_scale=4.0,
        output_type="np",
        **options,
    ).images[0]
    assert theirs.shape == (size[0] or own, size[1] or own, 3)
    assert np.abs(picture(base, "woman", drawing=drawing) - theirs * 255).max() < 1.0
    assert np.abs(picture(base, "man", drawing=drawing) - theirs * 255).max() > 2.0


@pytest.mark.parametrize(
    "sampler", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"]
)
def test_every_sampler_takes_the_models_own_schedule(sdxl, sdxl_folder, sampler):
    pipe = DiffusionPipeline.from_pretrained(sdxl_folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = getattr(diffusers, sampler).from_config(pipe.scheduler.config)
    noise = initial_noise(2, sdxl.description.latent_shape)[None]
    options = {"latents": noise, "num_inference_steps": 4, "guidance_scale": 4.0, "output_type": "np"}
    theirs = pipe(PROMPT.replace("V*", "woman"), **options).images[0]
    request = [DrawRequest("woman", PROMPT, 2)]
    ours = next(
        draw(sdxl, request, sampler=sampler, steps=4, guidance_scale=4.0, batch=1, record_attention=False)
    ).image
    assert np.abs(ours - theirs * 255).max() < 1.0


@pytest.mark.parametrize("size", [None, (64, 96)])
def test_the_printed_script_draws_an_exported_person_as_we_do(base, folder, tmp_path, size):
    from PIL import Image

    each = {name: tensor[0, 0] for name, tensor in tokens(base).tensors.items()}
    person = single_context(tokens(base), each)
    file = tmp_path / "learned_embeds.safetensors"
    file.write_bytes(to_textual_inversion(person))
    drawing = replace(DRAWING, size=size)
    script = diffusers_script(
        base.description, folder, file, PROMPT, drawing, token="<v>", seed=2, picture=str(tmp_path / "p.png")
    )
    assert "faceid" not in script.replace(str(folder), "").replace(str(tmp_path), "")
    assert len(script.splitlines()) <= 17
    exec(compile(script, "script", "exec"), {})
    theirs = np.asarray(Image.open(tmp_path / "p.png")).astype(int)
    assert np.abs(picture(base, person, drawing=drawing) - theirs).max() <= 1
    assert np.abs(picture(base, "person", drawing=drawing) - theirs).max() > 2


def test_the_script_reads_a_folder_that_has_half_precision_alone(sdxl, sdxl_folder, tmp_path):
    folder = tmp_path / "half"
    shutil.copytree(sdxl_folder, folder)
    for file in list(folder.rglob("*.safetensors")):
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    plain, half = (
        diffusers_script(sdxl.description, where, "p.safetensors", PROMPT, DRAWING, token="<v>")
        for where in (sdxl_folder, folder)
    )
    assert "variant" not in plain
    (line,) = [line for line in half.splitlines() if "from_pretrained" in line]
    made: dict = {"DiffusionPipeline": DiffusionPipeline, "torch": torch, "precision": torch.float32, "device": "cpu"}
    exec(line, made)
    assert made["pipe"].unet.config.in_channels == sdxl.unet.config.in_channels


def test_an_sdxl_file_says_how_the_pooled_embedding_stays_at_the_end_of_the_text(sdxl, sdxl_folder, tmp_path):
    """Loaded without the line that the metadata gives, transformers pools at the person's token."""
    person = single_context(tokens(sdxl), {name: t[0, 0] for name, t in tokens(sdxl).tensors.items()})
    file = tmp_path / "learned_embeds.safetensors"
    file.write_bytes(to_textual_inversion(person))
    with safe_open(file, "pt") as opened:
        line = json.loads(opened.metadata()["faceid"])["after_loading"].partition("run: ")[2]
    pipe, vectors = DiffusionPipeline.from_pretrained(sdxl_folder), load_file(file)
    for key, number in (("clip_l", ""), ("clip_g", "_2")):
        parts = {part: getattr(pipe, part + number) for part in ("text_encoder", "tokenizer")}
        pipe.load_textual_inversion(vectors[key], "<v>", **parts)
    right = identity_contexts(sdxl, PROMPT, person)[0].pooled[0, 0]

    def pooled():
        return pipe.encode_prompt(PROMPT.replace("V*", "<v>"))[2][0].detach()

    assert not torch.allclose(pooled(), right, atol=1e-3)
    exec(line, {"pipe": pipe})
    assert torch.allclose(pooled(), right, atol=1e-4)


def photo(original_pixels=0):
    small = tiny_photo(3)
    return TrainingPhoto(**{**vars(small), "original_pixels": original_pixels})


def test_a_person_is_learned_and_the_tokens_hold_every_text_encoder(base):
    method = Method(
        steps=2, samples_per_step=5, initial_embedding="mean_name", parametrization="name_basis", vectors=2
    )
    (result,) = personalize(base, [photo()], method, slots=1)
    assert {name: tuple(tensor.shape) for name, tensor in result.tokens.tensors.items()} == {
        name: (5, 2, 2, tower.width) for name, tower in base.towers.items()
    }
    again = IdentityTokens.from_bytes(result.tokens.to_bytes())
    assert np.array_equal(picture(base, again), picture(base, result.tokens))
    for name, tensor in result.tokens.tensors.items():
        assert float((tensor[0, 0] - tensor[4, 1]).norm()) > 0, f"{name} did not learn stages, K and V apart"


def test_each_text_encoder_of_sdxl_has_the_unit_of_rates_and_the_length_of_its_own_vocabulary(sdxl):
    words = {name: vocabulary_of(tower) for name, tower in sdxl.towers.items()}
    assert words["text_encoder"].spread != words["text_encoder_2"].spread
    free = Method(steps=1, samples_per_step=5, stages=1, weight_decay=0.0, learning_rate=0.1)
    (result,) = personalize(sdxl, [photo()], free, slots=1)
    for name, tower in sdxl.towers.items():
        moved = result.tokens.tensors[name] - initial_embeddings(sdxl, tower, "person", free)
        assert moved.abs().max().item() == pytest.approx(0.1 * words[name].spread, rel=0.01)
    directional = PRESETS["directional-textual-inversion"].model_copy(update={"steps": 2})
    (result,) = personalize(sdxl, [photo()], directional, slots=1)
    for name, tower in sdxl.towers.items():
        found = result.tokens.tensors[name][0, 0]
        assert found.norm().item() == pytest.approx(words[name].mean_length, rel=1e-5)
        turned = torch.cosine_similarity(found, initial_embeddings(sdxl, tower, "person", directional)).item()
        assert math.cos(2 * math.atan(0.04)) - 1e-5 <= turned < math.cos(0.01)


def test_sdxl_reads_the_pooled_embedding_and_the_sizes(sdxl):
    staged = StagedUNet.of(sdxl)
    latents, steps, rows = (
        torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.tensor([500]),
        torch.tensor([0]),
    )
    context = encode_plain(sdxl, "a photo")
    other = encode_plain(sdxl, "a red hat on the beach").pooled

    def predicted(pooled, original=None):
        sizes = torch.tensor([picture_sizes((64, 64), original)])
        projection = staged.project(context.states, context.states, pooled)
        return staged.predict(latents, steps, projection, rows, sizes=sizes)

    with torch.no_grad():
        usual = predicted(context.pooled)
        plain = sdxl.unet(
            latents,
            steps,
            encoder_hidden_states=context.states,
            added_cond_kwargs={
                "text_embeds": context.pooled,
                "time_ids": torch.tensor([[64, 64, 0, 0, 64, 64]]),
            },
        ).sample
        assert torch.allclose(usual, plain, atol=1e-5)
        assert (predicted(other) - usual).abs().max() > 1e-4
        assert (predicted(context.pooled, 500) - usual).abs().max() > 1e-4


def test_sdxl_is_told_how_large_the_face_was_in_the_photo(sdxl):
    method = Method(steps=1, samples_per_step=5)
    learned = [
        next(personalize(sdxl, [photo(pixels)], method, slots=1)).curve[0]["loss_diffusion"]
        for pixels in (0, 64, 20)
    ]
    assert learned[0] == learned[1] != learned[2]


def test_the_pooled_embedding_is_taken_at_the_end_of_the_text_not_at_the_person(sdxl):
    from faceid_core.personalize.conditioning import class_word_embeddings, encode, tokenize

    tower = sdxl.towers["text_encoder_2"]
    assert len(tower.tokenizer("woman", add_special_tokens=False).input_ids) == 1
    held = encode(tower, tokenize(tower, PROMPT, 1), class_word_embeddings(tower, "woman", 1)[None])
    plain = encode_plain(sdxl, PROMPT.replace("V*", "woman"))
    assert torch.allclose(held.pooled, plain.pooled, atol=1e-6)


def test_the_vae_stays_in_float32_where_half_precision_would_overflow(sdxl_folder, tmp_path):
    import shutil

    folder = tmp_path / "loud"
    shutil.copytree(sdxl_folder, folder)
    loud = load_base_model(folder)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    # A decoder whose first features are beyond float16's largest number, which its group norms bring back.
    loud.vae.decoder.conv_in.weight.data.mul_(1e6)
    loud.vae.save_pretrained(folder / "vae")
    half = load_base_model(folder, precision="float16")
    assert half.unet.dtype == torch.float16 and half.vae.dtype == torch.float32
    assert np.array_equal(half.decode_latents(latents), loud.decode_latents(latents))
    assert half.decode_latents(latents).std() > 2


def changed(folder, tmp_path, name, **fields):
    """A copy of the folder's configurations with some fields changed."""
    for file in folder.rglob("*.json"):
        target = tmp_path / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    path = tmp_path / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "fields", "told"),
    [
        ("model_index.json", {"text_encoder": [None, None]}, "the text encoders text_encoder_2; use Stable Diffusion"),
        ("unet/config.json", {"projection_class_embeddings_input_dim": 99}, "SDXL refiners cannot be used"),
        ("unet/config.json", {"time_cond_proj_dim": 256}, r"needs more than a prompt \(time_cond_proj_dim"),
        ("unet/config.json", {"addition_embed_type": "image"}, "addition_embed_type image"),
        ("unet/config.json", {"in_channels": 9}, "inpainting and depth models"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow_prediction"}, "predicts 'flow_prediction'"),
    ],
)  # fmt: skip
def test_models_that_need_something_else_are_refused_by_name(sdxl_folder, tmp_path, name, fields, told):
    with pytest.raises(ConfigurationError, match=told):
        load_base_model(changed(sdxl_folder, tmp_path, name, **fields))


def test_what_a_model_says_of_itself_is_taken(sdxl_folder, tmp_path):
    folder = changed(sdxl_folder, tmp_path, "model_index.json", force_zeros_for_empty_prompt=False)
    about = describe(folder, name="x", digest="", precision="float32")
    assert about.penultimate and not about.zero_unconditional and about.pooled_width == 40
    assert about.widths == {"text_encoder": 24, "text_encoder_2": 40}
    (folder / "text_encoder_2" / "config.json").unlink()
    with pytest.raises(MissingWeights, match=r"no file text_encoder_2/config\.json"):
        load_base_model(folder)
