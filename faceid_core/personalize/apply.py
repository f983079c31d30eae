"""A learned person in any diffusers pipeline of the same base: text to image, image to image, inpainting, ControlNet.

    with applied(pipe, tokens) as person:
        picture = pipe(**person.prompt("a photo of V* on the beach"), image=photo, strength=0.6).images[0]

While the context lasts, each call of the pipeline's U-Net (and ControlNets) whose prompt came from `prompt` reads the
person's keys and values of the timestep's stage, through the attention processor that training and drawing use. Samples
with other prompts, such as the negative one, are left as they are. Afterwards the pipeline is as it was.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from faceid_core.config.control import WHOLE, IdentityUse
from faceid_core.config.method import stage_of
from faceid_core.diffusion.base import TextTower
from faceid_core.errors import BaseMismatch, ConfigurationError
from faceid_core.weights.describe import ENCODERS, POOLING

from .attention import StagedUNet
from .conditioning import Contexts
from .subjects import Subject, common_boundaries, people_of, subject_contexts
from .tokens import IdentityTokens

_Place = tuple[int, int]  # a stage, and 0 for K or 1 for V


@contextmanager
def applied(
    pipe: Any, subject: Subject, *, use: IdentityUse = WHOLE, base_digest: str = ""
) -> Generator[AppliedIdentity]:
    """Let a diffusers pipeline draw a person while the context lasts.

    Args:
        pipe: a pipeline with a U-Net of Stable Diffusion 1.x, 2.x or XL and its text encoders.
        subject: a person's tokens, or a plain text; or several of them, which replace `V1*`, `V2*`, ...
        use: how much of the person is used.
        base_digest: digest of the pipeline's base model (`faceid_core.store.digest_folder`), compared with that of the
            tokens; empty compares the pipeline's text encoders and scheduler only.

    Raises:
        BaseMismatch: the tokens were learned on another base model.
        ConfigurationError: the pipeline has no U-Net that a person can be applied to.
    """
    people = people_of(subject)
    text = _PipelineText.of(pipe)
    for person in people:
        if isinstance(person, IdentityTokens):
            _require_same_base(pipe, text, person, base_digest)
            use.within(person.stages)
    identity = AppliedIdentity(text, subject, use)
    with ExitStack() as stack:
        for network in _networks(pipe):
            stack.enter_context(identity.hooked(network))
        yield identity


class AppliedIdentity:
    """A person whom a pipeline can draw; made by `applied`."""

    def __init__(self, text: _PipelineText, subject: Subject, use: IdentityUse):
        self._text, self._subject, self._use = text, subject, use
        self._boundaries = common_boundaries(people_of(subject))
        self._known: list[tuple[Contexts, _Place]] = []

    @torch.no_grad()
    def prompt(self, text: str) -> dict[str, torch.Tensor]:
        """The arguments by which a pipeline is given the prompt: `prompt_embeds`, and SDXL's `pooled_prompt_embeds`.

        Args:
            text: with `V*` once, or with the numbered placeholders of several people.

        Raises:
            ConfigurationError: the prompt cannot be used.
        """
        # contexts: [stages, 2 (K, V), length, context width]
        contexts, _ = subject_contexts(self._text, text, self._subject, self._use)
        place = self._recognized(text, contexts)
        self._known.append((contexts, place))
        shown = contexts[place[0]][place[1] : place[1] + 1]  # by these numbers the U-Net's calls are recognized
        arguments = {"prompt_embeds": shown.states}
        if shown.pooled is not None:
            arguments["pooled_prompt_embeds"] = shown.pooled
        return arguments

    def _recognized(self, text: str, contexts: Contexts) -> _Place:
        """The context by which a call is known to be of this prompt: V of the first stage, if that is the person's.

        Where the use leaves the person out of it, it is the class word's, and a prompt with that word would be taken for
        the person's.
        """
        words = tuple(each.class_word if isinstance(each, IdentityTokens) else each for each in people_of(self._subject))
        plain, _ = subject_contexts(self._text, text, words if isinstance(self._subject, tuple) else words[0])
        stages = contexts.states.shape[0]
        places = [(stage, kv) for kv in (1, 0) for stage in range(stages)]
        own = [place for place in places if not torch.equal(contexts.states[place], plain.states[0, 1])]
        return own[0] if own else places[0]

    @contextmanager
    def hooked(self, network: torch.nn.Module) -> Generator[None]:
        """While it lasts, calls of a U-Net or ControlNet read the person where their prompt is the person's."""
        staged, patches = StagedUNet(network), ExitStack()

        def before(_module: torch.nn.Module, args: tuple, named: dict[str, Any]) -> tuple[tuple, dict] | None:
            timestep = named["timestep"] if "timestep" in named else args[1]
            encoded = named["encoder_hidden_states"] if "encoder_hidden_states" in named else args[2]
            stage = stage_of(float(torch.as_tensor(timestep).flatten()[0]), self._boundaries)
            added = named.get("added_cond_kwargs") or {}
            keys, values, pooled = encoded, encoded, added.get("text_embeds")
            for known, place in self._known:
                hit = _rows_of(encoded, known.states[place])  # bool [b]
                keys = _replaced(keys, hit, known.states[stage, 0])
                values = _replaced(values, hit, known.states[stage, 1])
                if pooled is not None and known.pooled is not None:
                    pooled = _replaced(pooled, hit, known.pooled[stage, 1])
            if keys is encoded:
                return None
            rows = torch.arange(len(encoded), device=encoded.device)
            patches.enter_context(staged.patched(staged.project(keys, values), rows))
            if pooled is not None:
                named = {**named, "added_cond_kwargs": {**added, "text_embeds": pooled}}
            return args, named

        def after(*_ignored: Any) -> None:
            patches.close()

        handles = (
            network.register_forward_pre_hook(before, with_kwargs=True),
            network.register_forward_hook(after, always_call=True),
        )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@dataclass(frozen=True)
class _PipelineText:
    """A pipeline's text encoders, in the form that encoding needs."""

    towers: Mapping[str, TextTower]
    device: torch.device

    @classmethod
    def of(cls, pipe: Any) -> _PipelineText:
        unet = getattr(pipe, "unet", None)
        if unet is None or getattr(pipe, "text_encoder", None) is None:
            raise ConfigurationError(
                f"a {type(pipe).__name__} has no U-Net with text encoders of its own; use a pipeline of Stable Diffusion "
                "1.x, 2.x or an SDXL base model"
            )
        if getattr(unet, "encoder_hid_proj", None) is not None:
            raise ConfigurationError("the pipeline has an IP adapter loaded; unload it to apply a person")
        pooled = unet.config.get("addition_embed_type") == "text_time"
        towers = {}
        for encoder, tokenizer in ENCODERS.items():
            model = getattr(pipe, encoder, None)
            if model is not None:
                config = getattr(model.config, "text_config", model.config)
                towers[encoder] = TextTower(
                    name=encoder,
                    tokenizer=getattr(pipe, tokenizer),
                    model=model,
                    length=config.max_position_embeddings,
                    width=config.hidden_size,
                    penultimate=pooled,
                    pools=pooled and encoder in POOLING,
                )
        return cls(towers, pipe.text_encoder.device)


def _networks(pipe: Any) -> list[torch.nn.Module]:
    """The U-Net, and the ControlNets beside it."""
    beside = getattr(pipe, "controlnet", None)
    if beside is None:
        return [pipe.unet]
    return [pipe.unet, *getattr(beside, "nets", [beside])]


def _rows_of(encoded: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """Which of the contexts [b, length, width] are the one shown, [length, width]; bool [b]."""
    if encoded.shape[1:] != shown.shape:
        return torch.zeros(len(encoded), dtype=torch.bool, device=encoded.device)
    return (encoded == shown.to(encoded)).flatten(1).all(dim=1)


def _replaced(tensor: torch.Tensor, hit: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The tensor with a value in the rows that were hit; the same tensor if none was."""
    if not bool(hit.any()):
        return tensor
    changed = tensor.clone()
    changed[hit] = value.to(tensor)
    return changed


def _require_same_base(pipe: Any, text: _PipelineText, tokens: IdentityTokens, digest: str) -> None:
    """Raises BaseMismatch if the tokens cannot be of the pipeline's base model."""
    if digest:
        tokens.require_base(digest)
    scheduler = pipe.scheduler.config
    seen = {
        "text encoders": {name: tower.width for name, tower in text.towers.items()},
        "training timesteps": scheduler.get("num_train_timesteps", 1000),
        "prediction": scheduler.get("prediction_type", "epsilon"),
    }
    learned = {
        "text encoders": seen["text encoders"]
        if tokens.is_mixture
        else {name: tensor.shape[-1] for name, tensor in tokens.tensors.items()},
        "training timesteps": tokens.training_timesteps,
        "prediction": tokens.prediction_type,
    }
    for what, found in seen.items():
        if found != learned[what]:
            raise BaseMismatch(
                f"the tokens were learned on a base model with {what} {learned[what]}, the pipeline has {found}; "
                "load that base model, or personalize the person on this one"
            )
