"""Method, presets, stages, prompts and the tokens' file: what needs no network."""

import json
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError

from faceid_core.config import parse_config
from faceid_core.config.method import Method, stage_boundaries, stage_of, stage_range
from faceid_core.config.presets import PRESETS
from faceid_core.errors import BaseMismatch, ConfigurationError
from faceid_core.personalize.prompts import fill, split_prompt
from faceid_core.personalize.tokens import IdentityTokens, UnreadableTokens
from faceid_core.personalize.trainer import MOST_SLOTS, fitting_slots
from faceid_core.run.executor import MOST_AT_ONCE


def test_presets_are_what_their_names_say():
    for name in ("semantic-fidelity", "semantic-fidelity-as-published"):
        method = PRESETS[name]
        assert (method.stages, method.kv_split, method.attention_target) == (5, True, "reference")
        assert method.template == "a photo of the face of {}"
    assert PRESETS["semantic-fidelity-as-published"].attention_weight == 0.003
    assert PRESETS["prospect"].stages == 10 and not PRESETS["prospect"].kv_split
    assert PRESETS["textual-inversion"].attention_target == "none"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"stages": 0}, "stages"),
        ({"learning_rat": 1.0}, "learning_rat"),
        ({"template": "a photo"}, "template"),
        ({"template": "V* and {}"}, "template"),
        ({"boundaries": (400, 200, 600, 800)}, "boundaries"),
        ({"boundaries": (200,)}, "boundaries"),
        ({"warmup_steps": 200, "steps": 200}, "warmup_steps"),
    ],
)
def test_impossible_methods_are_refused_by_name(changes, named):
    with pytest.raises(ValidationError, match=named):
        Method(**changes)


def test_every_choice_says_where_it_comes_from():
    for name, described in Method.model_json_schema()["properties"].items():
        assert described["description"], name
        assert described["source"] in ("paper", "relative", "reconstruction"), name


def test_settings_import_no_model_library():
    code = (
        "import sys, faceid_core.config.presets, faceid_core.diffusion;"
        "sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("stages", [1, 3, 5, 7, 10])
def test_even_stages_are_the_floor_of_stages_times_t_over_timesteps(stages):
    cuts = stage_boundaries(stages, 1000)
    assert [stage_of(t, cuts) for t in range(1000)] == [stages * t // 1000 for t in range(1000)]
    low, high = stage_range(stages - 1, cuts, 1000)
    assert (stage_of(low, cuts), high) == (stages - 1, 1000)


def test_boundaries_beyond_the_timesteps_are_refused():
    assert stage_boundaries(3, 1000, (100, 700)) == (100, 700)
    with pytest.raises(ConfigurationError, match="2 rising numbers"):
        stage_boundaries(3, 500, (100, 700))


def test_the_placeholder_stands_once_and_alone():
    assert split_prompt("an old V*'s hat") == ("an old ", "'s hat")
    assert fill("a photo of V*, smiling", "Ada Stone") == "a photo of Ada Stone, smiling"
    for prompt in ("a photo", "V* and V*", "a V*person", "aV* b"):
        with pytest.raises(ConfigurationError, match="V"):
            split_prompt(prompt)


def _tokens(**changes):
    fields = {
        "tensors": {"text_encoder": torch.arange(5 * 2 * 1 * 4.0).view(5, 2, 1, 4)},
        "base_digest": "a" * 64,
        "class_word": "woman",
        "template": "a photo of the face of {}",
        "boundaries": (200, 400, 600, 800),
        "training_timesteps": 1000,
        "prediction_type": "v_prediction",
        "photo_digest": "b" * 64,
        "method": Method().model_dump(mode="json"),
    }
    return IdentityTokens(**{**fields, **changes})


def test_tokens_come_back_from_their_bytes():
    tokens = _tokens()
    data = tokens.to_bytes()
    again = IdentityTokens.from_bytes(data)
    assert torch.equal(again.tensors["text_encoder"], tokens.tensors["text_encoder"])
    assert Method.model_validate(again.method) == Method()
    assert (again.class_word, again.boundaries, again.stages) == ("woman", (200, 400, 600, 800), 5)
    assert again.to_bytes() == data


def test_the_same_tokens_give_the_same_bytes_in_every_process():
    code = (
        "import torch, hashlib; from faceid_core.personalize.tokens import IdentityTokens as T;"
        "t = {n: torch.ones(2, 2, 1, 3) for n in ('b', 'a')};"
        "d = T(t, 'x', 'man', '{}', (500,), 1000, 'epsilon', 'y', {'k': 1, 'a': 2}).to_bytes();"
        "print(hashlib.sha256(d).hexdigest())"
    )
    seen = {subprocess.check_output([sys.executable, "-c", code]) for _ in range(2)}
    assert len(seen) == 1


def test_other_files_are_refused_in_words():
    from safetensors.torch import save

    data = _tokens().to_bytes()
    newer = save(
        {"x": torch.ones(1)},
        {"faceid": json.dumps({"format": "faceid-identity-tokens", "format_version": 9})},
    )
    for bad, says in (
        (b"", "no identity tokens"),
        (b"\xff" * 40, "no identity tokens"),
        (save({"x": torch.ones(1)}), "no identity tokens"),
        (save({"x": torch.ones(1)}, {"faceid": "[" * 100_000}), "no identity tokens"),
        (newer, "version 9"),
        (data[:-8], "damaged"),
    ):
        with pytest.raises(UnreadableTokens, match=says):
            IdentityTokens.from_bytes(bad)
    with pytest.raises(UnreadableTokens, match="expected float32"):
        _tokens(tensors={"text_encoder": torch.zeros(4, 2, 1, 4)})


def test_tokens_refuse_another_base_model():
    _tokens().require_base("a" * 64)
    with pytest.raises(BaseMismatch, match="personalize the person on this one"):
        _tokens().require_base("c" * 64)


def test_as_many_slots_as_fit_into_the_memory():
    def takes(first: int, further: int):
        return lambda count: first + further * (count - 1)

    assert fitting_slots(takes(4, 1), 20) == 8, "4 + 14 of the 18 that may be used; the power of two below 15"
    assert fitting_slots(takes(4, 0), 1_000) == MOST_SLOTS == MOST_AT_ONCE
    assert fitting_slots(takes(40, 1), 20) == 1, "the trainer itself says when not even one fits"
    assert parse_config({"personalize": {"slots": 0}}).personalize.slots == 0
