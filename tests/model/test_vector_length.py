"""Lengths and directions of vectors: the sphere's step against other computations, rates in units of the vocabulary."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from faceid_core.config.method import Method
from faceid_core.config.presets import MINIATURE_SPREAD, PRESETS
from faceid_core.diffusion.base import load_base_model
from faceid_core.personalize.initial_embeddings import initial_embeddings
from faceid_core.personalize.sphere import prior_gradient, retracted_step
from faceid_core.personalize.trainer import PersonalizeResult, _Trainer, personalize
from faceid_core.personalize.vocabulary import vocabulary_of
from tests.helpers.tiny_people import tiny_photo
from tests.helpers.tiny_pipeline import write_tiny_pipeline

DIRECTIONAL = PRESETS["directional-textual-inversion"].model_copy(update={"steps": 4})
# Five stages of keys and values, of which a step's three samples reach three.
STAGED = DIRECTIONAL.model_copy(update={"stages": 5, "kv_split": True, "samples_per_step": 3})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_base_model(write_tiny_pipeline(tmp_path_factory.mktemp("tiny")), digest="d" * 64)


@pytest.fixture(scope="module")
def tower(base):
    return base.towers["text_encoder"]


def learned(base, number, method, company=(), slots=3, **options):
    photos = [tiny_photo(each) for each in (number, *company)]
    results = {result.name: result for result in personalize(base, photos, method, slots=slots, **options)}
    return results[f"person-{number}"]


def vectors(result):
    assert isinstance(result, PersonalizeResult)
    return result.tokens.tensors["text_encoder"]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_step_on_the_sphere_is_a_turn_in_the_plane_of_vector_and_gradient():
    """In three dimensions the step is a rotation about v x g, away from g, by the angle whose tangent is the rate."""
    v = torch.nn.functional.normalize(normal(6, 3).double(), dim=-1)
    gradient = 10.0 ** torch.arange(-6.0, 0)[:, None] * normal(6, 3, seed=1).double()
    found = retracted_step(v, gradient, 0.3).numpy()
    axes = np.cross(gradient.numpy(), v.numpy())
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    expected = Rotation.from_rotvec(math.atan(0.3) * axes).apply(v.numpy())
    assert np.allclose(found, expected, atol=1e-12)


def test_a_vector_without_a_gradient_across_it_stays():
    v = torch.nn.functional.normalize(normal(2, 8), dim=-1)
    assert torch.equal(retracted_step(v, torch.zeros_like(v), 0.3), v)
    assert torch.allclose(retracted_step(v.double(), 2 * v.double(), 0.3), v.double(), atol=1e-6)


def test_steps_on_the_sphere_find_the_nearest_direction_to_a_target():
    """Minimizing -<t, v> over the sphere has a known answer, t / |t|."""
    v, target = torch.nn.functional.normalize(normal(16), dim=-1), normal(16, seed=3)
    for step in range(200):
        v = retracted_step(v, -target, 0.1 * 0.95**step)
    assert torch.allclose(v, target / target.norm(), atol=1e-3)


def test_the_priors_gradient_is_that_of_the_von_mises_fisher_density():
    vectors, towards = normal(3, 2, 8).double().requires_grad_(), normal(2, 8, seed=1).double()
    directions = vectors / vectors.norm(dim=-1, keepdim=True)
    negative_log = -(towards / towards.norm(dim=-1, keepdim=True) * directions).sum()
    (expected,) = torch.autograd.grad(negative_log, [vectors])
    assert torch.allclose(prior_gradient(vectors.detach(), towards), expected, atol=1e-12)


def test_a_trained_step_is_the_step_by_hand(base, tower):
    """The preset's first step from the loss's own gradient, in double precision and another formula."""
    method = DIRECTIONAL.model_copy(update={"direction_prior": 0.5})
    trainer = _Trainer(base, method, 0)
    slot = trainer.admit(tiny_photo(1))
    initial = initial_embeddings(base, tower, "person", method)
    length = float(tower.token_embedding.weight.norm(dim=-1).double().mean())
    mu = (initial / initial.norm()).double()
    assert torch.allclose(slot.vectors()["text_encoder"].double(), length * mu, atol=1e-6)

    leaves = trainer.objective.leaves([slot])
    loss, _ = trainer.objective.losses([slot], leaves)
    # By the chain rule the direction's gradient is the vector's times its length.
    (gradient,) = torch.autograd.grad(loss.sum(), [leaves["text_encoder"]])
    for turn in (1, 2):  # the second step begins away from mu, where the prior has a part across the vector
        v = slot.vectors()["text_encoder"].detach().double().flatten() / length
        g = length * gradient.double().flatten() - 0.5 * mu.flatten()
        across = g - (g @ v) * v
        angle = math.atan(0.04)
        expected = length * (math.cos(angle) * v - math.sin(angle) * across / across.norm())
        assert trainer.step([slot]) == {}
        found = slot.vectors()["text_encoder"].detach()
        assert torch.allclose(found.double().flatten(), expected, atol=2e-6), turn
        leaves = trainer.objective.leaves([slot])
        loss, _ = trainer.objective.losses([slot], leaves)
        (gradient,) = torch.autograd.grad(loss.sum(), [leaves["text_encoder"]])


@pytest.mark.parametrize("method", [DIRECTIONAL, STAGED], ids=["one vector", "stages"])
def test_directions_are_learned_the_same_alone_and_in_company_and_resumed(base, method):
    entries = []
    photos = [tiny_photo(1)]
    for result in personalize(base, photos, method, slots=3, checkpoint_seconds=1e-9):
        if isinstance(result, PersonalizeResult):
            alone = result
        else:
            entries.append(result)
    assert torch.equal(vectors(alone), vectors(learned(base, 1, method, company=(2, 3, 4))))
    resumed = learned(base, 1, method, checkpoint={"person-1": entries[1].data})
    assert entries[1].step == 2 and torch.equal(vectors(alone), vectors(resumed))


def test_a_vector_that_no_sample_reached_does_not_follow_the_prior(base):
    trainer = _Trainer(base, STAGED.model_copy(update={"direction_prior": 100.0}), 0)
    slot = trainer.admit(tiny_photo(1))
    moved = []
    for _ in range(2):
        before = slot.vectors()["text_encoder"].detach().clone()
        trainer.step([slot])
        after = slot.vectors()["text_encoder"].detach()
        moved.append((after - before).flatten(2).norm(dim=-1).gt(0).all(dim=1).sum().item())
    assert moved == [3, 3]


def test_a_stronger_prior_keeps_directions_nearer_to_the_initial_one(base, tower):
    initial = initial_embeddings(base, tower, "person", DIRECTIONAL)

    def nearness(weight):
        method = DIRECTIONAL.model_copy(update={"direction_prior": weight, "steps": 12})
        return torch.cosine_similarity(vectors(learned(base, 1, method)), initial, dim=-1).min().item()

    assert nearness(0.0) < nearness(1.0) <= 1 + 1e-6


@pytest.mark.parametrize("parametrization", ["free", "block"])
def test_every_parametrization_keeps_a_fixed_or_bounded_length(base, tower, parametrization):
    embeddings = tower.token_embedding.weight.double()
    lengths = embeddings.norm(dim=1)
    method = Method(parametrization=parametrization, steps=6, samples_per_step=5, learning_rate=4.0)
    if parametrization == "block":
        method = method.model_copy(update={"learning_rate": 0.02})
    free = vectors(learned(base, 1, method)).norm(dim=-1)
    assert free.max() > 1.01 * lengths.max(), "the bound has something to do"
    bounded = vectors(learned(base, 1, method.model_copy(update={"vector_length": "bounded"}))).norm(dim=-1)
    assert bounded.max() == pytest.approx(float(lengths.max()), rel=1e-5) and bounded.min() < bounded.max()
    fixed = vectors(learned(base, 1, method.model_copy(update={"vector_length": "fixed"}))).norm(dim=-1)
    assert torch.allclose(fixed.double(), lengths.mean(), atol=1e-5)


def test_the_vocabularys_numbers(base, tower):
    embeddings = tower.token_embedding.weight.numpy().astype(np.float64)
    found, lengths = vocabulary_of(tower), np.linalg.norm(embeddings, axis=1)
    assert found.mean_length == pytest.approx(lengths.mean(), rel=1e-6)
    assert found.longest == pytest.approx(lengths.max(), rel=1e-6)
    exact = math.sqrt(((embeddings - embeddings.mean(axis=0)) ** 2).mean())
    assert found.spread == float(f"{exact:.4g}")


def test_a_rate_moves_vectors_by_the_same_share_of_every_vocabularys_spread(base, tower):
    """In a vocabulary three times as wide Adam's first step goes three times as far."""

    def first_step(model):
        method = Method(steps=1, samples_per_step=5, weight_decay=0.0, learning_rate=0.01)
        (made,) = personalize(model, [tiny_photo(1)], method, slots=1)
        start = initial_embeddings(model, model.towers["text_encoder"], "person", method)
        return (vectors(made) - start).abs().max().item()

    narrow = first_step(base)
    assert narrow == pytest.approx(0.01 * vocabulary_of(tower).spread, rel=1e-3)
    weight = tower.token_embedding.weight
    kept = weight.data.clone()
    try:
        weight.data.mul_(3)
        wide = first_step(base)
    finally:
        weight.data.copy_(kept)
    assert wide == pytest.approx(3 * narrow, rel=1e-3)


def test_the_presets_rates_are_what_they_were_on_the_miniature():
    """Published figures of the studies stay valid: float32 arithmetic sees the same numbers."""
    assert vocabulary_of(load_base_model().towers["text_encoder"]).spread == MINIATURE_SPREAD
    was = {"textual-inversion": 0.4, "semantic-fidelity-as-published": 1.0, "prospect": 1.0}
    for name, rate in was.items():
        assert np.float32(PRESETS[name].learning_rate * MINIATURE_SPREAD) == np.float32(rate)
