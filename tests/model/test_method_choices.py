"""Every choice of the method does what its name says, on a network with random weights."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from faceid_core.config.method import Method
from faceid_core.config.presets import PRESETS
from faceid_core.diffusion.base import load_base_model
from faceid_core.errors import ConfigurationError
from faceid_core.miniature.people import NAMED_SEEDS
from faceid_core.personalize.attention import StagedUNet
from faceid_core.personalize.attention_loss import (
    MaskAttentionLoss,
    ReferenceAttentionLoss,
    attention_loss,
    mask_attention_loss,
)
from faceid_core.personalize.conditioning import tokenize_plain
from faceid_core.personalize.initial_embeddings import initial_embeddings, name_basis, name_embeddings
from faceid_core.personalize.known_names import known_names
from faceid_core.personalize.objective import Objective
from faceid_core.personalize.parametrization import make_parametrization
from faceid_core.personalize.prompts import training_prompt
from faceid_core.personalize.slots import Plateau, allowed_range, draw_samples, make_optimizer, trained_stages
from faceid_core.personalize.subjects import plain_contexts
from faceid_core.personalize.trainer import PersonalizeResult, _Trainer, personalize
from faceid_core.personalize.vocabulary import vocabulary_of
from faceid_core.studies.definitions import CONDITIONS
from tests.helpers.tiny_people import tiny_photo
from tests.helpers.tiny_pipeline import write_tiny_pipeline


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_base_model(write_tiny_pipeline(tmp_path_factory.mktemp("tiny")), digest="d" * 64)


@pytest.fixture(scope="module")
def miniature():
    return load_base_model()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", [name for name, m in PRESETS.items() if m.initial_embedding == "class_word"])
def test_presets_learn_and_stay_finite(base, name):
    method = PRESETS[name].model_copy(update={"steps": 2, "samples_per_step": 4})
    (result,) = personalize(base, [tiny_photo(1)], method, slots=1)
    assert isinstance(result, PersonalizeResult)
    (tensor,) = result.tokens.tensors.values()
    assert tensor.shape == (method.stages, 2, method.vectors, 32) and tensor.isfinite().all()
    assert torch.equal(tensor[:, 0], tensor[:, 1]) != method.kv_split
    assert (result.curve[-1]["loss_attention"] > 0) == method.compares_attention


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"timestep_range": (0.5, 0.5)}, "timestep_range"),
        ({"attention_target": "mask", "attention_space": "pre_softmax"}, "post_softmax"),
        ({"parametrization": "name_basis"}, "mean_name"),
        ({"parametrization": "block", "shared_vector": True}, "shared_vector"),
        ({"attention_layers": ()}, "attention_layers"),
        ({"stage_learning_rate_ratio": 0.0}, "stage_learning_rate_ratio"),
        ({"optimizer": "riemannian"}, "vector_length to fixed"),
        ({"optimizer": "riemannian", "vector_length": "fixed", "shared_vector": True}, "shared_vector to off"),
        ({**PRESETS["celeb-basis+prior"].model_dump(), "direction_prior": 1e-4}, "direction_prior holds vectors"),
    ],
)
def test_choices_that_exclude_each_other_are_refused(changes, named):
    with pytest.raises(ValidationError, match=named):
        Method(**changes)


def test_every_parametrization_begins_at_the_initial_embedding(base):
    tower = base.towers["text_encoder"]
    start = normal(2, 32)
    for changes in ({}, {"shared_vector": True}, {"parametrization": "block"}):
        method = Method(vectors=2, **changes)
        made = make_parametrization(base, tower, start, method, 0, vocabulary_of(tower)).vectors()
        assert made.shape == (5, 2, 2, 32)
        assert torch.equal(made, start.expand(5, 2, 2, 32))


def test_a_shared_part_moves_all_vectors_and_own_parts_only_theirs(base):
    tower = base.towers["text_encoder"]
    spread = vocabulary_of(tower).spread
    method = Method(shared_vector=True, stage_learning_rate_ratio=0.25, weight_decay=0.0, learning_rate=0.1 / spread)
    made = make_parametrization(base, tower, torch.zeros(1, 32), method, 0, vocabulary_of(tower))
    optimizer = make_optimizer({"text_encoder": made}, method)
    made.vectors()[3, 1].sum().backward()
    for group in optimizer.param_groups:
        group["lr"] = method.learning_rate * group["rate_ratio"]
    optimizer.step()
    moved = made.vectors().detach().mean(dim=(2, 3))  # Adam's first step is as long as its rate in spreads
    expected = torch.full((5, 2), -0.1)
    expected[3, 1] = -0.1 - 0.025
    assert torch.allclose(moved, expected, atol=1e-5)


def test_the_block_is_seeded_and_reaches_keys_and_values_of_every_stage(base):
    tower, start = base.towers["text_encoder"], normal(1, 32)
    method = Method(parametrization="block", learning_rate=0.01)
    first, again, other = (
        make_parametrization(base, tower, start, method, seed, vocabulary_of(tower)) for seed in (0, 0, 1)
    )
    pairs = [
        torch.equal(a, b)
        for a, b in zip(first.block.state_dict().values(), again.block.state_dict().values(), strict=True)
    ]
    assert all(pairs)
    weights = zip(first.block.parameters(), other.block.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in weights)
    (result,) = personalize(base, [tiny_photo(1)], method.model_copy(update={"steps": 3}), slots=1)
    (learned,) = result.tokens.tensors.values()
    starts = initial_embeddings(base, tower, "person", method)
    assert ((learned - starts).flatten(2).norm(dim=-1) > 0).all()


def test_names_give_the_initial_embedding_and_a_basis_that_spans_them(miniature):
    tower = miniature.towers["text_encoder"]
    method = Method(vectors=2, initial_embedding="mean_name", parametrization="name_basis", basis_size=128)
    names = known_names("auto", "miniature")
    assert len(set(names)) == len(names) == len(NAMED_SEEDS)
    first, last = names[10].split()
    ids = [tower.tokenizer(word, add_special_tokens=False).input_ids[0] for word in (first, last)]
    embeddings = name_embeddings(miniature, tower, method)
    assert torch.equal(embeddings[10], tower.token_embedding.weight[ids])
    mean = initial_embeddings(miniature, tower, "person", method)
    assert torch.allclose(mean, embeddings.mean(0))
    basis = name_basis(miniature, tower, method)  # [2, components, 128]
    assert basis.shape == (2, 63, 128), (
        "64 words at each position differ in 63 directions, and no more are learned"
    )
    for position in (0, 1):
        gram = basis[position] @ basis[position].T
        off = gram - torch.diag(torch.diagonal(gram))
        assert off.abs().max() < 1e-3 * gram.max()
        # A name is the mean and a sum of components: the basis spans them all.
        centered = (embeddings[:, position] - mean[position]).T
        solved = torch.linalg.lstsq(basis[position].T, centered).solution
        assert torch.allclose(basis[position].T @ solved, centered, atol=1e-3)
        # numpy's own covariance has the same variances.
        variances = np.linalg.eigvalsh(np.cov(centered.numpy()))[::-1][:10]
        assert np.allclose(torch.diagonal(gram)[:10].numpy(), variances, rtol=1e-3)


def test_the_encoder_output_embedding_is_the_mean_names_context(miniature):
    from faceid_core.personalize.conditioning import encode, tokenize

    tower = miniature.towers["text_encoder"]
    method = Method(vectors=2, initial_embedding="encoder_output")
    mean = initial_embeddings(
        miniature, tower, "person", method.model_copy(update={"initial_embedding": "mean_name"})
    )
    prompt = tokenize(tower, "a photo of the face of V*", 2)
    context = encode(tower, prompt, mean[None])
    assert torch.equal(
        initial_embeddings(miniature, tower, "person", method), context.states[0, prompt.positions]
    )


def test_a_model_that_knows_no_names_says_what_to_choose_instead(base):
    with pytest.raises(ConfigurationError, match="initial_embedding class_word"):
        initial_embeddings(base, base.towers["text_encoder"], "person", Method(initial_embedding="mean_name"))


def test_the_initial_embedding_penalty_pulls_the_vectors_back(base):
    def distance(penalty):
        method = Method(
            steps=6, samples_per_step=4, initial_embedding_penalty=penalty, attention_target="none"
        )
        (result,) = personalize(base, [tiny_photo(1)], method, slots=1)
        (learned,) = result.tokens.tensors.values()
        return float(
            (learned - initial_embeddings(base, base.towers["text_encoder"], "person", method)).norm()
        )

    assert distance(10.0) < 0.7 * distance(0.0)


def test_the_mask_loss_is_break_a_scenes(base):
    """MSE(mask, A / max A), A the mean over heads and over the layers with the largest maps, written out."""
    staged = StagedUNet(base.unet)
    keys, mask = normal(2, 16, 32, seed=1), torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(3))
    person = torch.tensor([6])
    comparison = MaskAttentionLoss(mask, person, largest_side=8)
    hidden = {}
    handles = [
        layer.to_q.register_forward_hook(lambda _m, args, _o, name=name: hidden.update({name: args[0]}))
        for name, layer in staged.layers.items()
    ]
    staged.predict(normal(2, 5, 8, 8), torch.tensor([10, 900]), staged.project(keys, keys), torch.tensor([0, 1]),
                   recorders=(comparison,))  # fmt: skip
    for handle in handles:
        handle.remove()
    maps = []
    for name, layer in staged.layers.items():
        if hidden[name].shape[1] == 64:
            width = layer.to_q.out_features // layer.heads
            queries = layer.to_q(hidden[name]).unflatten(-1, (layer.heads, width))
            scores = torch.einsum(
                "bphd,blhd->bhpl", queries, layer.to_k(keys).unflatten(-1, (layer.heads, width))
            )
            maps.append((scores / width**0.5).softmax(-1)[..., 6].mean(1))
    mean = torch.stack(maps).mean(0)
    expected = ((mean / mean.amax(1, keepdim=True) - mask.flatten(1)) ** 2).mean(1)
    assert torch.allclose(comparison.loss(), expected, rtol=1e-4)
    assert mask_attention_loss(mask.flatten(1), mask.flatten(1) / mask.amax((1, 2))[:, None]).max() < 1e-10


def test_the_reference_inside_a_mask_is_zero_outside_for_the_person_only():
    query, key, reference = normal(1, 2, 4, 3), normal(1, 2, 5, 3, seed=1), normal(1, 2, 5, 3, seed=2)
    inside, person = torch.tensor([[1.0, 0.0, 1.0, 0.0]]), torch.tensor([2])

    def softmaxed(k):
        return torch.einsum("bhpd,bhld->bhpl", query, k).div(3**0.5).softmax(-1)

    wanted = softmaxed(reference)
    wanted[:, :, [1, 3], 2] = 0
    expected = (softmaxed(key) - wanted).square().sum((2, 3)).mean(1)
    found = attention_loss(query, key, reference, inside=inside, person=person)
    assert torch.allclose(found, expected, rtol=1e-5)


def test_pre_softmax_compares_scores():
    query, key, reference = normal(1, 2, 4, 3), normal(1, 2, 5, 3, seed=1), normal(1, 2, 5, 3, seed=2)
    expected = (torch.einsum("bhpd,bhld->bhpl", query, key - reference) / 3**0.5).square().sum((2, 3)).mean(1)
    found = attention_loss(query, key, reference, space="pre_softmax")
    assert torch.allclose(found, expected, rtol=1e-4)


def test_layers_are_chosen_by_part_of_the_unet(base):
    staged = StagedUNet(base.unet)
    context, reference = normal(1, 16, 32, seed=1), normal(1, 16, 32, seed=2)
    projected, rows = staged.project(reference, reference), torch.tensor([0])
    keys = {name: layer.keys for name, layer in projected.layers.items()}
    counted = {}
    for parts in (("down",), ("mid",), ("up",), ("down", "mid", "up")):
        comparison = ReferenceAttentionLoss(keys, rows, None, "sum", 8, parts=parts)
        staged.predict(normal(1, 5, 8, 8), torch.tensor([500]), staged.project(context, context), rows,
                       recorders=(comparison,))  # fmt: skip
        counted[parts] = len(comparison.terms)
    names = [name.split("_")[0] for name in staged.layers]
    assert [counted[(part,)] for part in ("down", "mid", "up")] == [
        names.count(p) for p in ("down", "mid", "up")
    ]
    assert counted[("down", "mid", "up")] == len(names)
    nothing = ReferenceAttentionLoss(keys, rows, None, "sum", 1)
    with pytest.raises(ValueError, match="attention_max_resolution"):
        nothing.loss()


@pytest.mark.parametrize("sampling", ["stratified", "uniform"])
def test_a_timestep_range_keeps_every_sample_inside(base, sampling):
    method = Method(
        steps=2,
        samples_per_step=8,
        timestep_range=(0.35, 0.9),
        timestep_sampling=sampling,
        weight_decay=0.0,
    )
    trainer = _Trainer(base, method, 0)
    slot = trainer.admit(tiny_photo(1))
    timesteps = []
    for step in range(20):
        slot.step = step
        timesteps += draw_samples(slot, base, method, trainer.objective.boundaries, 0).timesteps.tolist()
    assert min(timesteps) >= 350 and max(timesteps) < 900
    # The first stage, 0 to 199, has no part in the range; the second keeps 350 to 399.
    assert trained_stages(method, trainer.objective.boundaries, 1000) == [
        (350, 400), (400, 600), (600, 800), (800, 900),
    ]  # fmt: skip
    (result,) = personalize(base, [tiny_photo(1)], method, slots=1)
    (learned,) = result.tokens.tensors.values()
    untouched = learned[0] - initial_embeddings(base, base.towers["text_encoder"], "person", method)
    assert untouched.abs().max() == 0


@pytest.mark.parametrize("narrow", [(0.9996, 1.0), (0.0, 0.0004)])
def test_a_narrow_timestep_range_still_holds_a_timestep(narrow):
    method = Method(timestep_range=narrow)
    low, high = allowed_range(method, 1000)
    assert 0 <= low < high <= 1000
    assert trained_stages(method, (200, 400, 600, 800), 1000) == [(low, high)]


def test_a_plateau_is_a_loss_that_no_longer_falls():
    plateau = Plateau()
    losses = [1.0, 0.9, 0.899, 0.8995, 0.9, 0.7]
    told = [
        plateau.reached(loss, 10 * step, patience=20, tolerance=0.01)
        for step, loss in enumerate(losses, start=1)
    ]
    assert told == [False, False, False, True, True, False]


def test_patience_stops_a_person_early_and_nobody_else(base, monkeypatch):
    patient = Method(steps=60, samples_per_step=4, learning_rate=1e-6)
    hasty = patient.model_copy(update={"patience": 10, "patience_tolerance": 0.5})
    whole_look = Objective.photo_loss

    def photo_loss(self, slot):  # the second person's falls as long as anybody looks
        return whole_look(self, slot) if slot.photo.name == "person-1" else 0.1**slot.step

    monkeypatch.setattr(Objective, "photo_loss", photo_loss)
    (alone,) = personalize(base, [tiny_photo(1)], hasty, slots=2)
    results = {r.name: r for r in personalize(base, [tiny_photo(1), tiny_photo(2)], hasty, slots=2)}
    assert len(alone.curve) == 20  # the first look sets the mark, the second sees no fall
    assert same_tokens(alone, results["person-1"])
    (other,) = personalize(base, [tiny_photo(2)], patient, slots=2)
    assert len(results["person-2"].curve) == len(other.curve) == 60
    assert same_tokens(results["person-2"], other)


def same_tokens(one, other) -> bool:
    """Bit by bit."""
    pairs = zip(one.tokens.tensors.values(), other.tokens.tensors.values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_masks_follow_the_mirror_image(base):
    method = Method(steps=1, samples_per_step=64, attention_target="mask")
    trainer = _Trainer(base, method, 0)
    photo = tiny_photo(1)
    lopsided = np.zeros_like(photo.mask)
    lopsided[:, :16] = 1
    slot = trainer.admit(type(photo)(**{**photo.__dict__, "mask": lopsided}))
    samples = draw_samples(slot, base, method, trainer.objective.boundaries, 0)
    mirrored = (samples.x0 - slot.latents[1]).flatten(1).abs().amax(1) == 0
    assert 0 < mirrored.sum() < 64
    for mask, flipped in zip(samples.mask, mirrored, strict=True):
        left = mask[:, :4].mean()
        assert left == (0 if flipped else 1)
    assert F.mse_loss(slot.masks[0], slot.masks[1].flip(-1)) == 0


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.name)
def test_the_reference_prompt_is_the_training_prompt_of_the_condition_with_the_class_word(
    miniature, condition
):
    """As many tokens, and the person where the class word is: maps are compared position by position."""
    objective = Objective(miniature, Method(template=condition.template), seed=0)
    row = objective.reference("person", {})
    (name, tower), *_ = miniature.towers.items()
    trained, written = (
        objective.prompts[name],
        tokenize_plain(tower, training_prompt(condition.template), "person"),
    )
    assert torch.equal(trained.positions, written.positions) and len(trained.ids) == len(written.ids)
    differ = (trained.ids != written.ids).nonzero().flatten()
    assert set(differ.tolist()) <= set(trained.positions.tolist())
    states = plain_contexts(miniature, training_prompt(condition.template), "person")[0].states[:, 0]
    layers = objective.staged.project(states, states).layers
    for layer, keys in objective._reference_keys.items():
        torch.testing.assert_close(keys[row], layers[layer].keys[0])
