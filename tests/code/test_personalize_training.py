"""Training in slots: a person's tokens do not depend on the other people, and nothing of the base model changes."""

import hashlib
from itertools import pairwise

import numpy as np
import pytest
import torch

from faceid_core.config.method import Method
from faceid_core.diffusion.base import load_base_model
from faceid_core.errors import ConfigurationError, MissingWeights
from faceid_core.personalize.slots import distinct_stages, draw_samples, learning_rate, loss_weights
from faceid_core.personalize.trainer import PersonalizeResult, SlotFailure, _Trainer, personalize
from tests.helpers.tiny_people import tiny_photo
from tests.helpers.tiny_pipeline import write_tiny_pipeline

METHOD = Method(steps=4, samples_per_step=6)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_base_model(write_tiny_pipeline(tmp_path_factory.mktemp("tiny")), digest="d" * 64)


def learn(base, numbers, method=METHOD, *, slots=3, **options):
    photos = [tiny_photo(number) for number in numbers]
    return {result.name: result for result in personalize(base, photos, method, slots=slots, **options)}


def vectors(result):
    return result.tokens.tensors["text_encoder"]


def test_a_person_learns_the_same_alone_and_in_any_company(base):
    alone = learn(base, [1])["person-1"]
    for company in ([1, 2, 3], [3, 2, 1], [5, 4, 3, 2, 1]):
        together = learn(base, company)["person-1"]
        assert torch.equal(vectors(alone), vectors(together))
        assert np.array_equal(alone.attention_after, together.attention_after)
        assert [row["loss_diffusion"] for row in alone.curve] == [
            row["loss_diffusion"] for row in together.curve
        ]
    assert not torch.equal(vectors(alone), vectors(learn(base, [2])["person-2"]))
    assert not torch.equal(vectors(alone), vectors(learn(base, [1], seed=1)["person-1"]))


def test_the_base_model_is_bit_identical_after_training_and_has_its_own_processors(base):
    def digest():
        state = hashlib.sha256()
        for module in (base.unet, base.vae, base.towers["text_encoder"].model):
            for weight in module.state_dict().values():
                state.update(weight.numpy().tobytes())
        return state.hexdigest()

    before, processors = digest(), dict(base.unet.attn_processors)
    learn(base, [1, 2])
    assert digest() == before
    assert base.unet.attn_processors == processors
    for module in (base.unet, base.vae, base.towers["text_encoder"].model):
        assert not any(weight.requires_grad or weight.grad is not None for weight in module.parameters())
    assert not base.towers["text_encoder"].token_embedding._forward_hooks


def test_a_result_tells_what_was_learned(base):
    seen = []
    result = learn(base, [1], progress=lambda *call: seen.append(call))["person-1"]
    assert seen == [("person-1", step, 4) for step in (1, 2, 3, 4)]
    assert vectors(result).shape == (5, 2, 1, 32) and vectors(result).dtype == torch.float32
    assert result.tokens.base_digest == "d" * 64 and result.tokens.prediction_type == "v_prediction"
    assert [row["step"] for row in result.curve] == [1, 2, 3, 4]
    # The vectors start at the class word, where both prompts are one.
    assert result.curve[0]["loss_attention"] == 0 and result.curve[-1]["loss_attention"] > 0
    assert result.curve[2]["attention_ratio"] == pytest.approx(
        0.003 * result.curve[2]["loss_attention"] / result.curve[2]["loss_diffusion"]
    )
    assert result.attention_before.shape == result.attention_after.shape == (8, 8)
    assert not np.array_equal(result.attention_before, result.attention_after)
    assert 0 < result.outside_before < 1 and 0 < result.outside_after < 1


def test_training_lowers_the_loss_on_the_same_samples(base):
    trainer = _Trainer(base, Method(steps=40, samples_per_step=5, learning_rate=0.04), 0)
    slot = trainer.admit(tiny_photo(1))

    def loss():
        total = 0.0
        for slot.step in range(1000, 1008):  # samples that training does not see
            with torch.no_grad():
                total += float(trainer.objective.losses([slot], trainer.objective.leaves([slot]))[0].sum())
        return total

    before, slot.step = loss(), 0
    for _ in range(40):
        assert trainer.step([slot]) == {}
    assert loss() < 0.995 * before


def test_a_person_whose_loss_is_not_finite_stops_and_the_others_do_not_notice(base):
    poisoned = tiny_photo(2)
    poisoned.mask[:] = np.nan
    method = METHOD.model_copy(update={"masked_loss": True})
    results = list(personalize(base, [poisoned, tiny_photo(1)], method, slots=3))
    failure = next(result for result in results if isinstance(result, SlotFailure))
    assert (failure.name, failure.step) == ("person-2", 0) and "nan" in failure.reason
    whole = next(result for result in results if isinstance(result, PersonalizeResult))
    assert torch.equal(vectors(whole), vectors(learn(base, [1], method)["person-1"]))


def test_shared_keys_and_values_and_one_stage_learn_one_vector(base):
    method = METHOD.model_copy(
        update={"stages": 1, "kv_split": False, "attention_target": "none", "vectors": 2}
    )
    learned = vectors(learn(base, [1], method)["person-1"])
    assert learned.shape == (1, 2, 2, 32)
    assert torch.equal(learned[:, 0], learned[:, 1])


@pytest.mark.parametrize("sampling", ["stratified", "uniform"])
def test_each_stage_gets_its_share_of_samples(base, sampling):
    method = METHOD.model_copy(update={"samples_per_step": 4, "timestep_sampling": sampling})
    trainer = _Trainer(base, method, 0)
    slot = trainer.admit(tiny_photo(1))
    counts = torch.zeros(5, dtype=torch.int64)
    for step in range(50):
        slot.step = step
        samples = draw_samples(slot, base, method, trainer.objective.boundaries, 0)
        counts += torch.bincount(samples.stages, minlength=5)
        assert torch.equal(samples.stages, 5 * samples.timesteps // 1000)
        if sampling == "stratified":
            assert len(samples.stages.unique()) == 4
    assert counts.sum() == 200
    assert counts.tolist() == [40] * 5 if sampling == "stratified" else counts.unique().numel() > 1


def test_distinct_stages_are_padded_to_a_fixed_number():
    picked, places = distinct_stages(torch.tensor([4, 1, 4, 1]), 4)
    assert picked.tolist() == [1, 4, 4, 4]
    assert picked[places].tolist() == [4, 1, 4, 1]


def test_learning_rate_warms_up_and_falls():
    method = Method(steps=10, warmup_steps=2, schedule="cosine", learning_rate=0.1)
    rates = [learning_rate(method, step) for step in range(10)]
    assert rates[:3] == pytest.approx([0.05, 0.1, 0.1])
    assert all(a > b for a, b in pairwise(rates[2:])) and rates[-1] > 0


def test_cells_beyond_the_photo_count_nothing():
    photo = tiny_photo(1)
    photo.valid[:, :8] = False
    plain, mirrored = loss_weights(photo, 8, masked=False)
    assert plain[:, :2].sum() == 0 and plain[:, 2:].min() == 1
    assert torch.equal(mirrored, plain.flip(-1))
    assert loss_weights(photo, 8, masked=True)[0].sum() == 16


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(MissingWeights, match=r"model_index.json in folder .*nowhere"):
        load_base_model(tmp_path / "nowhere")
    folder = write_tiny_pipeline(tmp_path / "tiny")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(
        folder / "unet" / "diffusion_pytorch_model.bin"
    )
    with pytest.raises(
        MissingWeights, match=r"diffusion_pytorch_model.safetensors.*pickled weights are not read"
    ):
        load_base_model(folder)


def test_a_template_longer_than_the_context_is_refused(base):
    with pytest.raises(ConfigurationError, match="the model reads 14"):
        learn(base, [1], METHOD.model_copy(update={"template": "a photo of the face " * 4 + "{}"}))
