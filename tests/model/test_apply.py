"""A person in other people's pipelines: text to image as we draw, image to image, inpainting and ControlNet."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)
from PIL import Image

from faceid_core.config.control import IdentityUse
from faceid_core.diffusion.base import load_base_model
from faceid_core.errors import BaseMismatch, ConfigurationError
from faceid_core.evaluate.generation import DrawRequest, draw
from faceid_core.evaluate.sampling import initial_noise
from faceid_core.personalize.apply import applied
from faceid_core.personalize.tokens import IdentityTokens
from tests.helpers.architectures import write_architecture
from tests.helpers.tiny_pipeline import write_tiny_pipeline

PROMPT = "a photo of V* on beach"


@pytest.fixture(scope="module", params=["tiny", "sdxl"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "tiny":
        return write_tiny_pipeline(folder)
    return write_architecture(folder, "sdxl")


@pytest.fixture(scope="module")
def base(folder):
    return load_base_model(folder, digest="d" * 64)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return pipeline(write_tiny_pipeline(tmp_path_factory.mktemp("tiny")))


def pipeline(folder):
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tokens(widths, prediction_type, number=1, stages=4):
    generator = torch.Generator().manual_seed(number)
    tensors = {name: torch.randn(stages, 2, 1, width, generator=generator) for name, width in widths.items()}
    cuts = tuple(1000 * stage // stages for stage in range(1, stages))
    return IdentityTokens(tensors, "d" * 64, "person", "{}", cuts, 1000, prediction_type, "1" * 64, {})


def tiny_person(number=1):
    return tokens({"text_encoder": 32}, "v_prediction", number)


@pytest.mark.parametrize("use", [IdentityUse(), IdentityUse((1, 2), "v", 0.5), IdentityUse((), "k"), IdentityUse((2, 3))])
def test_a_pipeline_draws_all_stages_keys_and_values_as_we_do(base, folder, use):
    about, pipe = base.description, pipeline(folder)
    person = tokens(about.widths, about.prediction_type)
    options = {"num_inference_steps": 4, "guidance_scale": 4.0, "output_type": "np"}
    noise = {"latents": initial_noise(3, about.latent_shape)[None]}
    before = pipe("a photo of person on beach", **options, **noise).images[0]
    with applied(pipe, person, use=use, base_digest="d" * 64) as identity:
        theirs = pipe(**identity.prompt(PROMPT), **options, **noise).images[0]
        # Other prompts are left alone, also while the person is there.
        during = pipe("a photo of person on beach", **options, **noise).images[0]
    after = pipe("a photo of person on beach", **options, **noise).images[0]
    request = [DrawRequest(person, PROMPT, 3, use)]
    ours = next(draw(base, request, sampler="DDIMScheduler", steps=4, guidance_scale=4.0, batch=1)).image
    assert np.abs(ours - theirs * 255).max() < 1.0
    assert np.array_equal(before, during) and np.array_equal(before, after)
    assert np.abs(before - theirs).max() * 255 > 2


def test_several_people_and_prompts_share_a_call(tiny):
    first, second = tiny_person(1), tiny_person(2)
    options = {"num_inference_steps": 3, "output_type": "np"}
    noise = torch.stack([initial_noise(1, (5, 8, 8))] * 2)
    with applied(tiny, (first, second)) as identity:
        one, other = (
            identity.prompt("photo of V1* on V2* beach"),
            identity.prompt("photo of V2* on V1* beach"),
        )
        both = {name: torch.cat([one[name], other[name]]) for name in one}
        together = tiny(**both, latents=noise, **options).images
        alone = tiny(**other, latents=noise[:1], **options).images[0]
    assert np.abs(together[1] - alone).max() < 0.01
    assert np.abs(together[0] - together[1]).max() > 0.01


@pytest.fixture(scope="module")
def sd15(tmp_path_factory):
    """Inpainting with an ordinary U-Net takes four latent channels, which the tiny pipeline has not."""
    return pipeline(write_architecture(tmp_path_factory.mktemp("sd15"), "sd15"))


def sd15_person(number=1):
    return tokens({"text_encoder": 48}, "epsilon", number)


def made_of(pipe, kind):
    """Another pipeline of the same parts."""
    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    if kind == "controlnet":
        torch.manual_seed(0)
        net = ControlNetModel.from_unet(parts["unet"])
        for weight in net.parameters():  # they begin at zero, where the net says nothing
            if not weight.abs().sum():
                torch.nn.init.normal_(weight, std=0.1)
        made = StableDiffusionControlNetPipeline(
            **parts, controlnet=net.eval(), requires_safety_checker=False
        )
    else:
        kinds = {
            "image to image": StableDiffusionImg2ImgPipeline,
            "inpainting": StableDiffusionInpaintPipeline,
        }
        made = kinds[kind](**parts, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


KINDS = pytest.mark.parametrize("kind", ["image to image", "inpainting", "controlnet"])


def given_to(kind):
    """What a pipeline of this kind is called with beside the prompt."""
    given = {"image": Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))}
    if kind == "image to image":
        given["strength"] = 0.8
    elif kind == "inpainting":
        left = (np.indices((64, 64))[1] < 32).astype(np.uint8) * 255
        given |= {"mask_image": Image.fromarray(left), "strength": 0.99}
    return given | {"num_inference_steps": 4, "output_type": "np"}


@KINDS
def test_the_person_changes_what_other_pipelines_make(sd15, kind):
    pipe, given = made_of(sd15, kind), given_to(kind)

    def made(subject):
        with applied(pipe, subject) as identity:
            return pipe(
                **identity.prompt(PROMPT), **given, generator=torch.Generator().manual_seed(5)
            ).images[0]

    word = pipe(PROMPT.replace("V*", "person"), **given, generator=torch.Generator().manual_seed(5)).images[0]
    first, again, second = made(sd15_person(1)), made(sd15_person(1)), made(sd15_person(2))
    assert np.array_equal(first, again)
    assert np.abs(first - second).max() > 0.01
    assert np.abs(made("person") - word).max() < 0.01
    assert np.abs(first - word).max() > 0.01


@KINDS
def test_a_mixture_of_one_name_is_that_name_in_other_pipelines(sd15, kind):
    pipe, given, names = made_of(sd15, kind), given_to(kind), ("red hat", "man person", "face photo")
    weights = torch.tensor([0.0, 1.0, 0.0]).expand(2, 2, 1, 3).contiguous()
    person = replace(sd15_person(), tensors={"known_names": weights}, boundaries=(500,), names=names)
    with applied(pipe, person) as identity:
        mixed = pipe(**identity.prompt(PROMPT), **given, generator=torch.Generator().manual_seed(5)).images[0]
    named, word = (
        pipe(PROMPT.replace("V*", text), **given, generator=torch.Generator().manual_seed(5)).images[0]
        for text in (names[1], "person")
    )
    assert np.abs(mixed - named).max() < 1e-3
    assert np.abs(mixed - word).max() > 0.01


def test_a_controlnet_reads_the_person_too(sd15):
    """Its own cross-attention sees each stage's keys and values, not the numbers by which the prompt is known."""
    pipe, seen = made_of(sd15, "controlnet"), []
    with applied(pipe, sd15_person()) as identity:
        shown = identity.prompt(PROMPT)["prompt_embeds"]
        layer = next(m for m in pipe.controlnet.modules() if getattr(m, "is_cross_attention", False))
        handle = layer.to_k.register_forward_hook(lambda _m, args, _o: seen.append(args[0]))
        pipe.controlnet(
            torch.zeros(1, 4, 8, 8), 900, shown, controlnet_cond=torch.zeros(1, 3, 64, 64), return_dict=False
        )
        handle.remove()
    assert seen[0].shape == shown.shape and not torch.equal(seen[0], shown)


def test_what_does_not_fit_is_refused(tiny):
    with (
        pytest.raises(BaseMismatch, match="text encoders"),
        applied(tiny, tokens({"text_encoder": 48}, "v_prediction")),
    ):
        pass
    with (
        pytest.raises(BaseMismatch, match="prediction epsilon"),
        applied(tiny, tokens({"text_encoder": 32}, "epsilon")),
    ):
        pass
    with (
        pytest.raises(BaseMismatch, match="learned on base model dddd"),
        applied(tiny, tiny_person(), base_digest="e" * 64),
    ):
        pass
    with (
        pytest.raises(ConfigurationError, match="no U-Net with text encoders"),
        applied(object(), tiny_person()),
    ):
        pass
    with (
        applied(tiny, tiny_person()) as identity,
        pytest.raises(ConfigurationError, match="exactly once"),
    ):
        identity.prompt("a photo")
