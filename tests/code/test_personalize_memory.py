"""A step in parts: the same step but for rounding, with no more samples in the network at once than asked for."""

import numpy as np
import pytest

from faceid_core.config import parse_config
from faceid_core.config.method import Method
from faceid_core.diffusion.base import load_base_model
from faceid_core.personalize.trainer import personalize
from tests.helpers.tiny_people import tiny_photo
from tests.helpers.tiny_pipeline import write_tiny_pipeline


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_base_model(write_tiny_pipeline(tmp_path_factory.mktemp("tiny")), digest="d" * 64)


def learned(base, method, at_once):
    """Tokens and curve of two people in three slots, and how many samples each call of the U-Net had in training."""
    seen = []
    handle = base.unet.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    try:
        found = list(
            personalize(base, [tiny_photo(1), tiny_photo(2)], method, slots=3, samples_at_once=at_once)
        )
    finally:
        handle.remove()
    return {each.name: each for each in found}, seen


@pytest.mark.parametrize("target", ["reference", "reference_in_mask", "mask", "none"])
def test_a_step_in_parts_is_the_step(base, target):
    method = Method(steps=2, samples_per_step=5, attention_target=target, attention_weight=0.3)
    whole, _ = learned(base, method, 0)
    parts, calls = learned(base, method, 4)
    assert whole.keys() == parts.keys()
    for name, each in whole.items():
        ours, theirs = (found.tokens.tensors["text_encoder"].numpy() for found in (each, parts[name]))
        assert np.allclose(ours, theirs, atol=1e-4)
        for before, after in zip(each.curve, parts[name].curve, strict=True):
            assert after["loss_diffusion"] == pytest.approx(before["loss_diffusion"], rel=1e-4)
            assert after["loss_attention"] == pytest.approx(before["loss_attention"], rel=1e-4, abs=1e-7)
    assert max(calls) == 4
    # Fifteen samples are four parts; each is computed once, and once more for its gradient, in two steps.
    probes = len(learned(base, method.model_copy(update={"steps": 1}), 4)[1]) - 8
    assert len(calls) == probes + 16


def test_how_many_at_once_decides_no_result():
    configs = [parse_config({"personalize": {"samples_at_once": count}}) for count in (0, 4)]
    assert configs[0].digest() == configs[1].digest()
