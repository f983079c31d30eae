"""The name prior and mixtures of known names, against independent computations on networks with random weights."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from faceid_core.config.control import IdentityUse
from faceid_core.config.presets import PRESETS
from faceid_core.diffusion.base import load_base_model
from faceid_core.errors import ConfigurationError
from faceid_core.evaluate import name_portraits
from faceid_core.evaluate.generation import draw
from faceid_core.evaluate.name_portraits import learn_name_prior
from faceid_core.personalize import name_prior
from faceid_core.personalize.checkpoint import Checkpoint
from faceid_core.personalize.conditioning import encode_plain, name_contexts
from faceid_core.personalize.distill import View, distill
from faceid_core.personalize.name_prior import (
    NamePrior,
    Teachers,
    UnreadablePrior,
    drawn_alike,
    fit_name_prior,
    name_components,
)
from faceid_core.personalize.subjects import subject_contexts
from faceid_core.personalize.tokens import IdentityTokens, UnreadableTokens
from faceid_core.personalize.trainer import personalize
from tests.helpers.tiny_people import tiny_photo
from tests.helpers.tiny_pipeline import write_tiny_pipeline

WORDS = ("face", "person", "man", "photo", "beach", "red", "hat")
NAMES = tuple(f"{first} {last}" for first, last in itertools.permutations(WORDS, 2))
TEMPLATE = "a photo of the face of {}"
METHOD = PRESETS["semantic-fidelity+prior"].model_copy(
    update={"steps": 3, "samples_per_step": 5, "prior_portraits": 1, "basis_size": 6}
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_base_model(write_tiny_pipeline(tmp_path_factory.mktemp("tiny")), digest="d" * 64)


@pytest.fixture(scope="module")
def prior(base):
    return learn_name_prior(base, NAMES, template=TEMPLATE, portraits=1, components=6, steps=2)


def mixture(base, *, weights, names=NAMES):
    """Tokens of two stages whose weights are given, float32 [2, 2, 1, names]."""
    return IdentityTokens(
        tensors={"known_names": weights},
        base_digest="d" * 64,
        class_word="person",
        template=TEMPLATE,
        boundaries=(500,),
        training_timesteps=1000,
        prediction_type="v_prediction",
        photo_digest="e" * 64,
        names=names,
    )


def only(index):
    weights = torch.zeros(2, 2, 1, len(NAMES))
    weights[..., index] = 1
    return weights


def test_a_mixture_of_one_name_is_that_name_in_every_prompt(base):
    for prompt in ("a photo of V*", "V* on the beach wearing a red hat"):
        contexts, positions = subject_contexts(base, prompt, mixture(base, weights=only(4)))
        named = encode_plain(base, prompt.replace("V*", NAMES[4])).states
        assert torch.allclose(contexts.states, named.expand(2, 2, -1, -1), atol=1e-5)
        assert len(positions) == 2


def test_a_mixture_is_the_affine_combination_of_the_names_contexts(base):
    weights = torch.randn(2, 2, 1, len(NAMES), generator=torch.Generator().manual_seed(0))
    weights += (1 - weights.sum(-1, keepdim=True)) / len(NAMES)
    contexts, _ = subject_contexts(base, "a photo of V*", mixture(base, weights=weights))
    each = torch.stack([encode_plain(base, f"a photo of {name}").states[0] for name in NAMES]).double()
    wanted = (weights[:, :, 0, :, None, None].double() * each).sum(dim=2)
    assert torch.allclose(contexts.states.double(), wanted, atol=1e-4)


def test_the_names_of_a_prompt_are_encoded_once_for_all_people(base):
    calls, prompt = [], "V* on the beach wearing a hat"
    (tower,) = base.towers.values()
    handle = tower.model.register_forward_hook(lambda *_: calls.append(1))
    first, second = (
        subject_contexts(base, prompt, mixture(base, weights=only(index)))[0].states for index in (0, 1)
    )
    handle.remove()
    assert len(calls) == 1 and not torch.allclose(first, second)


def test_half_the_strength_lies_half_way_to_the_class_word(base):
    person, prompt = mixture(base, weights=only(2)), "a photo of V* on the beach"
    whole, none, half = (
        subject_contexts(base, prompt, person, IdentityUse(strength=strength))[0].states
        for strength in (1.0, 0.0, 0.5)
    )
    assert torch.allclose(half, (whole + none) / 2, atol=1e-5)


def test_two_people_of_whom_one_is_a_mixture_of_one_name(base):
    # With a plain word beside it nothing is approximated: the names' difference is taken beside that very word.
    prompt = "a photo of V1* the face of V2*"
    both, positions = subject_contexts(base, prompt, (mixture(base, weights=only(7)), "man"))
    plain = encode_plain(base, f"a photo of {NAMES[7]} the face of man").states
    assert torch.allclose(both.states, plain.expand(2, 2, -1, -1), atol=1e-4)
    assert positions.tolist() == [4, 5, 9]


def test_tokens_of_a_mixture_keep_the_names_and_refuse_others(base):
    person = mixture(base, weights=only(1))
    again = IdentityTokens.from_bytes(person.to_bytes())
    assert again.names == NAMES and again.vectors == 2 and again.is_mixture
    assert torch.equal(again.tensors["known_names"], person.tensors["known_names"])
    with pytest.raises(UnreadableTokens, match="41"):
        replace(person, names=NAMES[1:])
    with pytest.raises(UnreadableTokens, match="other tensors"):
        replace(person, tensors={**person.tensors, "text_encoder": torch.zeros(2, 2, 2, 32)})


def test_a_linear_world_is_learned(base):
    """Latents are linear in the people's coefficients, plus noise: the regression finds the coefficients."""
    draws = torch.Generator().manual_seed(3)
    basis, coefficients = name_components(base, NAMES, TEMPLATE, 4)
    mixtures = torch.randn(30, 4, generator=draws, dtype=torch.float64).numpy()
    reach = torch.randn(4, 5 * 8 * 8, generator=draws, dtype=torch.float64).numpy()
    truth = np.concatenate([np.repeat(coefficients, 3, axis=0), mixtures])
    noise = torch.randn(len(truth), 320, generator=draws).numpy()
    latents = torch.from_numpy(truth @ reach + 0.05 * noise).float().unflatten(1, (5, 8, 8))
    people = np.concatenate([np.repeat(np.arange(len(NAMES)), 3), len(NAMES) + np.arange(30)])
    fitted = fit_name_prior(NAMES, basis, Teachers(latents, truth, people, np.ones(len(truth), bool)))
    assert (fitted.explained > 0.98).all() and fitted.left_out == 0
    expected = torch.stack([fitted.expected(each[None]) for each in latents])
    assert torch.allclose(expected.double(), torch.from_numpy(truth), atol=0.15)
    # A coefficient of 1 is one standard deviation, and names' coefficients give the names' contexts back.
    states = name_contexts(base, TEMPLATE.replace("{}", "V*"), NAMES).states.flatten(1).double()
    mixed = (1 / len(NAMES) + torch.from_numpy(coefficients @ basis)) @ states
    left, lengths, right = torch.linalg.svd(states - states.mean(0), full_matrices=False)
    wanted = states.mean(0) + left[:, :4] * lengths[:4] @ right[:4]
    assert torch.allclose(mixed, wanted, atol=1e-6)
    assert np.allclose(basis.sum(axis=1), 0, atol=1e-8)
    assert np.allclose(coefficients.var(axis=0, ddof=1), 1)


def test_copies_teach_and_are_not_counted():
    """Copies whose coefficients are wrong by 1 shift the answer by their share; the error is that of the plain rows."""
    draws = np.random.default_rng(5)
    truth = draws.normal(size=(80, 1))
    latents = np.concatenate([truth @ np.ones((1, 3)), truth @ np.ones((1, 3))])
    rows = torch.from_numpy(latents).float()[:, :, None, None]
    people, plain = np.tile(np.arange(80), 2), np.arange(160) < 80
    teachers = Teachers(rows, np.concatenate([truth, truth + 1]), people, plain)
    fitted = fit_name_prior(NAMES, np.zeros((1, len(NAMES))), teachers)
    assert fitted.deviation.item() == pytest.approx(0.5, abs=0.02)
    assert fitted.offset.item() == pytest.approx(0.5, abs=0.02)


def test_a_copy_of_a_person_is_in_the_persons_fold():
    """Where only people's copies tell anything of them, nothing can be predicted of people who are held out."""
    draws = np.random.default_rng(6)
    truth = draws.normal(size=(40, 1))
    latents = torch.from_numpy(np.tile(draws.normal(size=(40, 200)), (2, 1))).float()[:, :, None, None]
    people, plain = np.tile(np.arange(40), 2), np.arange(80) < 40
    fitted = fit_name_prior(NAMES, np.zeros((1, len(NAMES))), Teachers(latents, np.tile(truth, (2, 1)), people, plain))
    assert fitted.explained.item() < 0.1


@pytest.mark.parametrize("is_wide", [True, False])
def test_the_regression_keeps_the_directions_of_most_variance(is_wide, monkeypatch):
    monkeypatch.setattr(name_prior, "_MOST_DIRECTIONS", 2)
    draws = np.random.default_rng(7)
    rows = draws.normal(size=(20, 30) if is_wide else (60, 30)) * np.r_[9.0, 7.0, np.full(28, 0.1)]
    rows -= rows.mean(0)
    found = name_prior._directions(rows)
    wanted = np.linalg.svd(rows, full_matrices=False)[2][:2].T
    assert np.allclose(np.abs(found.T @ wanted), np.eye(2), atol=1e-6)


@pytest.mark.parametrize("size", [5, 60])  # fewer features than rows, and more
def test_ridge_against_least_squares_with_added_rows(size):
    draws = np.random.default_rng(0)
    rows, targets = draws.normal(size=(24, size)), draws.normal(size=(24, 3))
    people, plain = np.arange(24), np.ones(24, bool)
    slope, offset, predicted = name_prior._cross_validated_ridge(rows, targets, people, plain)
    centered = rows - rows.mean(0)

    def solved(learned, ridge):
        own = centered[learned] - centered[learned].mean(0)
        added = np.sqrt(ridge * (own**2).sum()) * np.eye(size)
        middle = targets[learned].mean(0)
        wanted = np.concatenate([targets[learned] - middle, np.zeros((size, 3))])
        found = np.linalg.lstsq(np.concatenate([own, added]), wanted, rcond=None)[0]
        return found, middle - centered[learned].mean(0) @ found

    def held_out(ridge):
        found = np.empty_like(targets)
        for fold in range(8):
            learned = people % 8 != fold
            s, o = solved(learned, ridge)
            found[~learned] = centered[~learned] @ s + o
        return found

    best = min(name_prior._RIDGES, key=lambda ridge: ((held_out(ridge) - targets) ** 2).mean())
    assert np.allclose(predicted, held_out(best), atol=1e-8)
    wanted, middle = solved(np.ones(24, bool), best)
    assert np.allclose(slope, wanted, atol=1e-8)
    assert np.allclose(offset, middle - rows.mean(0) @ wanted, atol=1e-8)


def test_mixtures_teach_with_the_coefficients_that_they_were_drawn_with(base, monkeypatch):
    monkeypatch.setattr(name_portraits, "_OF_A_NAME", 1)  # this network draws no name alike from seed to seed
    drawn, taught, told = [], [], []

    def recorded(base, requests, **options):
        drawn.extend(requests)
        return draw(base, requests, **options)

    def fitted(names, basis, teachers, **options):
        taught.append(teachers)
        return fit_name_prior(names, basis, teachers, **options)

    monkeypatch.setattr(name_portraits, "draw", recorded)
    monkeypatch.setattr(name_portraits, "fit_name_prior", fitted)
    names = NAMES[:12]
    made = learn_name_prior(
        base, names, template=TEMPLATE, portraits=3, components=4, steps=2, progress=lambda *now: told.append(now)
    )
    (teachers,) = taught
    assert told[-1] == (36, 36) and len(drawn) == 36
    copies = len(teachers.plain) // 36
    assert copies > 1 and teachers.plain.reshape(36, copies)[:, 0].all() and teachers.plain.sum() == 36
    people = teachers.people.reshape(36, copies)
    coefficients = teachers.coefficients.reshape(36, copies, -1)
    assert (people == people[:, :1]).all() and len(set(people[:, 0])) == 36
    assert (coefficients == coefficients[:, :1]).all()
    for number in (12, 35):
        weights = drawn[number].subject.tensors["known_names"][0, 0, 0]
        wanted = 1 / 12 + torch.from_numpy(coefficients[number, 0]).float() @ made.basis
        assert torch.allclose(weights, wanted, atol=1e-6)
    assert [drawn[number].subject for number in range(12)] == list(names)
    latents = teachers.latents.unflatten(0, (36, copies))
    assert 0 < (latents[:, 1] - latents[:, 0]).norm() < latents[:, 0].norm()


def test_names_that_are_not_drawn_alike_are_left_out():
    draws = torch.Generator().manual_seed(1)
    faces = 2 * torch.randn(40, 1, 3, 4, 4, generator=draws)
    latents = faces + 0.5 * torch.randn(40, 4, 3, 4, 4, generator=draws)
    latents[30:] = torch.randn(10, 4, 3, 4, 4, generator=draws)  # another face with every seed
    kept = drawn_alike(latents)
    assert kept[:30].all() and kept[30:].sum() <= 2


def test_a_model_that_knows_none_of_the_names_is_refused(base):
    with pytest.raises(ConfigurationError, match="alike from seed to seed"):
        learn_name_prior(base, NAMES[:16], template=TEMPLATE, portraits=3, components=4, steps=2)


def test_prior_as_bytes(prior):
    again = NamePrior.from_bytes(prior.to_bytes())
    assert again.names == prior.names == NAMES and again.to_bytes() == prior.to_bytes()
    for damaged in (b"", prior.to_bytes()[:100], b"\xff" * 64):
        with pytest.raises(UnreadablePrior):
            NamePrior.from_bytes(damaged)


def learned(base, prior, photos, **changes):
    method = METHOD.model_copy(update=changes)
    results = personalize(base, photos, method, slots=2, prior=prior)
    return {each.name: each for each in results}


def test_training_begins_at_the_expectation_and_a_heavy_prior_holds_it_there(base, prior):
    photo = tiny_photo(1)
    mirrored = np.ascontiguousarray(photo.image[:, ::-1])
    latents = torch.cat([base.encode_images([image]) for image in (photo.image, mirrored)])
    expected = 1 / len(NAMES) + prior.expected(latents) @ prior.basis
    free = learned(base, prior, [photo], prior_weight=0.0)["person-1"].tokens.tensors["known_names"]
    held = learned(base, prior, [photo], prior_weight=100.0)["person-1"].tokens.tensors["known_names"]
    assert free.shape == (5, 2, 1, len(NAMES))
    assert torch.allclose(free.sum(-1), torch.ones(5, 2, 1), atol=1e-5)
    assert not torch.equal(free[:, 0], free[:, 1])  # K and V have parts of their own
    assert 0 < (held - expected).norm() < (free - expected).norm()


def test_alone_and_in_company_a_mixture_is_learned_alike(base, prior):
    together = learned(base, prior, [tiny_photo(1), tiny_photo(2)])
    alone = learned(base, prior, [tiny_photo(1)])
    ours, theirs = (each["person-1"].tokens.tensors["known_names"] for each in (together, alone))
    assert torch.equal(ours, theirs)


def test_a_checkpoint_goes_on_to_the_same_mixture(base, prior):
    whole = learned(base, prior, [tiny_photo(1)])["person-1"].tokens.to_bytes()
    running = personalize(base, [tiny_photo(1)], METHOD, slots=1, prior=prior, checkpoint_seconds=1e-9)
    first = next(each for each in running if isinstance(each, Checkpoint))
    running.close()
    (again,) = personalize(
        base, [tiny_photo(1)], METHOD, slots=1, prior=prior, checkpoint={"person-1": first.data}
    )
    assert again.tokens.to_bytes() == whole


def test_a_mixture_is_distilled_to_vectors(base, prior):
    person = learned(base, prior, [tiny_photo(1)])["person-1"].tokens
    views = [
        name_view(base, seed, prompt)
        for seed, prompt in enumerate(("a photo of V*", "V* on the beach", "V* wearing a hat"))
    ]
    made = distill(base, person, views, views, steps=3, batch=2)
    (tensor,) = made.tokens.tensors.values()
    assert tensor.shape == (1, 2, 2, 32) and not made.tokens.names and np.isfinite(made.lost)


def name_view(base, seed, prompt):
    latent = torch.randn(base.description.latent_shape, generator=torch.Generator().manual_seed(seed))
    return View(prompt=prompt, latent=latent)
