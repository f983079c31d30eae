"""The method's mathematics against independent computations."""

import pytest
import torch
from torch.nn import functional as F

from faceid_core.config.method import Method
from faceid_core.diffusion.base import load_base_model
from faceid_core.personalize.attention import AttentionRecorder, StagedUNet
from faceid_core.personalize.attention_loss import ReferenceAttentionLoss, attention_loss, outside_share
from faceid_core.personalize.conditioning import (
    class_word_embeddings,
    encode,
    encode_plain,
    encode_vectors,
    tokenize,
)
from faceid_core.personalize.objective import diffusion_loss, noised, prediction_target
from faceid_core.personalize.trainer import _Trainer
from tests.helpers.tiny_people import tiny_photo
from tests.helpers.tiny_pipeline import write_tiny_pipeline


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_base_model(write_tiny_pipeline(tmp_path_factory.mktemp("tiny")), digest="d" * 64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def predict_and_capture(staged, *arguments, **options):
    """A prediction, and the hidden states [b, pixels, channels] that enter each cross-attention layer."""
    hidden, handles = {}, []
    for name, layer in staged.layers.items():
        hook = layer.to_q.register_forward_hook(
            lambda _m, args, _out, name=name: hidden.update({name: args[0]})
        )
        handles.append(hook)
    prediction = staged.predict(*arguments, **options)
    for handle in handles:
        handle.remove()
    return prediction, hidden


def einsum_map(layer, hidden, contexts):
    """A = softmax(Q K^T / sqrt(d)) written out, [b, heads, pixels, length]."""
    width = layer.to_q.out_features // layer.heads
    queries = (hidden @ layer.to_q.weight.T).unflatten(-1, (layer.heads, width))
    keys = (contexts @ layer.to_k.weight.T).unflatten(-1, (layer.heads, width))
    powers = (torch.einsum("bphd,blhd->bhpl", queries, keys) / width**0.5).exp()
    return powers / powers.sum(-1, keepdim=True)


def keys_of(projections):
    """Layer -> keys."""
    return {name: layer.keys for name, layer in projections.layers.items()}


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("columns", [None, [7]])
def test_attention_loss_equals_an_einsum_on_captured_activations(base, reduction, columns):
    staged = StagedUNet(base.unet)
    keys, values, reference = normal(3, 16, 32, seed=1), normal(3, 16, 32, seed=2), normal(2, 16, 32, seed=3)
    rows, reference_rows = torch.tensor([2, 0, 1, 2]), torch.tensor([0, 0, 1, 1])
    chosen = torch.tensor(columns) if columns else None
    comparison = ReferenceAttentionLoss(
        keys_of(staged.project(reference, reference)), reference_rows, chosen, reduction, 4
    )
    _, hidden = predict_and_capture(
        staged,
        normal(4, 5, 8, 8),
        torch.tensor([10, 300, 700, 990]),
        staged.project(keys, values),
        rows,
        recorders=(comparison,),
    )
    layers = []
    for name, layer in staged.layers.items():
        if hidden[name].shape[1] > 16:  # maps larger than 4 x 4 are left out
            continue
        trained = einsum_map(layer, hidden[name], keys[rows])
        squared = (trained - einsum_map(layer, hidden[name], reference[reference_rows])) ** 2
        squared = squared[..., columns] if columns else squared
        per_head = squared.sum((2, 3)) if reduction == "sum" else squared.mean((2, 3))
        layers.append(per_head.mean(1))
    assert len(layers) == 4
    assert torch.allclose(comparison.loss(), torch.stack(layers).mean(0), rtol=1e-4)


def test_recorded_maps_equal_an_einsum_on_captured_activations(base):
    staged = StagedUNet(base.unet)
    keys, values = normal(2, 16, 32, seed=1), normal(2, 16, 32, seed=2)
    columns = torch.zeros(2, 16)
    columns[:, 5:7] = 1
    recording = AttentionRecorder(columns, (8, 8))
    rows = torch.tensor([0, 0, 0, 1])
    _, hidden = predict_and_capture(
        staged,
        normal(4, 5, 8, 8),
        torch.tensor(500).expand(4),
        staged.project(keys, values),
        rows,
        recorders=(recording,),
    )
    maps = []
    for name, layer in staged.layers.items():
        attention = einsum_map(layer, hidden[name], keys[rows])[2:, :, :, 5:7].sum(-1).mean(1)  # [2, pixels]
        side = int(attention.shape[1] ** 0.5)
        square = attention.view(2, 1, side, side)
        maps.append(F.interpolate(square, size=(8, 8), mode="bilinear", align_corners=False)[:, 0])
    assert torch.allclose(recording.maps(), torch.stack(maps).mean(0), rtol=1e-4)


def test_separate_contexts_feed_keys_and_values(base):
    """With equal contexts the prediction is the U-Net's own; else to_k and to_v each see theirs."""
    staged = StagedUNet(base.unet)
    latents, timesteps = normal(2, 5, 8, 8), torch.tensor([100, 900])
    context = normal(2, 16, 32, seed=1)
    rows = torch.tensor([1, 0])
    plain = base.unet(latents, timesteps, encoder_hidden_states=context[rows]).sample
    assert torch.allclose(
        staged.predict(latents, timesteps, staged.project(context, context), rows), plain, atol=1e-5
    )
    other = normal(2, 16, 32, seed=9)
    by_keys = staged.predict(latents, timesteps, staged.project(other, context), rows)
    by_values = staged.predict(latents, timesteps, staged.project(context, other), rows)
    assert not torch.allclose(by_keys, plain, atol=1e-4) and not torch.allclose(by_values, plain, atol=1e-4)
    assert not torch.allclose(by_keys, by_values, atol=1e-4)


def test_the_attention_losss_gradient_reaches_the_key_vectors_only(base):
    trainer = _Trainer(base, Method(steps=2, samples_per_step=5), 0)
    slot = trainer.admit(tiny_photo(1))
    trainer.step([slot])  # at the start both prompts are one and the gradient is zero
    leaves = trainer.objective.leaves([slot])
    loss_diffusion, loss_attention = trainer.objective.losses([slot], leaves)
    (by_attention,) = torch.autograd.grad(loss_attention.sum(), [leaves["text_encoder"]], retain_graph=True)
    (by_diffusion,) = torch.autograd.grad(loss_diffusion.sum(), [leaves["text_encoder"]])
    keys, values = by_attention[0].unbind(1)  # [stages, vectors, width] each
    assert torch.count_nonzero(values) == 0
    assert (keys.flatten(1).norm(dim=1) > 0).all()
    assert (by_diffusion[0].flatten(2).norm(dim=-1) > 0).all()


def test_half_precision_keeps_the_gradient_of_a_large_latents_mean(tmp_path):
    """In float16 the gradient of a mean over many latents falls below its smallest numbers; scaled, it does not."""
    weak = 1.0 / 2**14  # as over the 16,384 latents of a real model and ten samples, instead of 320 and five
    method = Method(steps=1, samples_per_step=5, attention_target="none", weight_decay=0.0, gradient_clip=0.0)
    moved = {}
    for precision in ("float32", "float16"):
        base = load_base_model(
            write_tiny_pipeline(tmp_path / precision), precision=precision, digest="d" * 64
        )
        trainer = _Trainer(base, method, 0)
        slot = trainer.admit(tiny_photo(1))
        seen = []
        trainer._update = lambda slot, gradients, seen=seen: seen.append(gradients["text_encoder"].clone())
        losses = trainer.objective.losses
        trainer.objective.losses = lambda *given, losses=losses: tuple(weak * each for each in losses(*given))
        trainer.step([slot])
        moved[precision] = seen[0]
    exact, half = moved["float32"], moved["float16"]
    assert (exact - half).norm() < 0.05 * exact.norm()


def test_no_gradient_crosses_from_one_person_to_another(base):
    trainer = _Trainer(base, Method(steps=2, samples_per_step=5), 0)
    slots = [trainer.admit(tiny_photo(1)), trainer.admit(tiny_photo(2)), None]
    leaves = trainer.objective.leaves(slots)
    loss_diffusion, loss_attention = trainer.objective.losses(slots, leaves)
    (gradient,) = torch.autograd.grad((loss_diffusion + loss_attention)[0], [leaves["text_encoder"]])
    assert gradient[0].abs().sum() > 0
    assert torch.count_nonzero(gradient[1:]) == 0


def test_the_gradient_agrees_with_finite_differences(base):
    trainer = _Trainer(base, Method(steps=2, samples_per_step=5, attention_weight=0.5), 0)
    slot = trainer.admit(tiny_photo(1))
    trainer.step([slot])
    leaves = trainer.objective.leaves([slot])
    loss_diffusion, _ = trainer.objective.losses([slot], leaves)
    (gradient,) = torch.autograd.grad(loss_diffusion.sum(), [leaves["text_encoder"]])
    direction = gradient / gradient.norm()
    step = 0.02

    def at(offset):
        moved = {"text_encoder": (leaves["text_encoder"] + offset * direction).detach()}
        with torch.no_grad():
            return float(trainer.objective.losses([slot], moved)[0].double().sum())

    assert (at(step) - at(-step)) / (2 * step) == pytest.approx(float(gradient.norm()), rel=0.05)


def test_attention_loss_gradient_agrees_with_finite_differences():
    query, reference = normal(2, 3, 16, 4).double(), normal(2, 3, 6, 4, seed=2).double()
    key = normal(2, 3, 6, 4, seed=1).double()
    with torch.no_grad():
        assert torch.equal(attention_loss(query, key, key), torch.zeros(2))
    key.requires_grad_()
    loss = attention_loss(query, key, reference).sum()
    (gradient,) = torch.autograd.grad(loss, [key])
    direction = normal(2, 3, 6, 4, seed=3).double()
    step = 1e-2
    with torch.no_grad():
        ahead, behind = (attention_loss(query, key + s * direction, reference).sum() for s in (step, -step))
    assert float((ahead - behind) / (2 * step)) == pytest.approx(
        float((gradient * direction).sum()), rel=1e-3
    )


def test_the_reference_prompt_is_the_class_words_prompt(base):
    tower = base.towers["text_encoder"]
    prompt = {"text_encoder": tokenize(tower, "a photo of the face of V*", 1)}
    start = {"text_encoder": class_word_embeddings(tower, "person", 1)[None]}
    reference = encode_vectors(base, prompt, start)
    assert torch.equal(reference.states, encode_plain(base, "a photo of the face of person").states)


def test_uneven_class_words_take_the_persons_positions(base):
    """'woman' is two tokens of the tiny tokenizer, 'person' is one."""
    tower = base.towers["text_encoder"]
    pieces = tower.token_embedding.weight[tower.tokenizer("woman", add_special_tokens=False).input_ids]
    assert len(pieces) == 2
    assert torch.equal(class_word_embeddings(tower, "woman", 2), pieces)
    assert torch.allclose(class_word_embeddings(tower, "woman", 1), pieces.mean(0, keepdim=True))
    assert torch.equal(class_word_embeddings(tower, "woman", 3), torch.cat([pieces, pieces[1:]]))


def test_several_vectors_take_several_positions(base):
    tower = base.towers["text_encoder"]
    tokenized = tokenize(tower, "a photo of V* on beach", 3)
    assert tokenized.positions.tolist() == [4, 5, 6]
    vectors = normal(2, 3, 32).requires_grad_()
    encode(tower, tokenized, vectors).states[0, 5, :9].sum().backward()
    # Causal: position 5 sees the first two vectors of its own row only.
    assert (vectors.grad.norm(dim=-1) > 0).tolist() == [[True, True, False], [False, False, False]]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_targets_agree_with_diffusers(kind):
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(prediction_type=kind)
    x0, noise, timesteps = normal(3, 2, 4, 4), normal(3, 2, 4, 4, seed=1), torch.tensor([0, 400, 999])
    alpha_bar = scheduler.alphas_cumprod[timesteps]
    assert torch.allclose(noised(x0, noise, alpha_bar), scheduler.add_noise(x0, noise, timesteps), atol=1e-6)
    wanted = {"epsilon": noise, "sample": x0, "v_prediction": scheduler.get_velocity(x0, noise, timesteps)}
    assert torch.allclose(prediction_target(x0, noise, alpha_bar, kind), wanted[kind], atol=1e-6)


def test_the_masked_loss_divides_by_the_masks_area():
    prediction, target = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    target[:, :, 0, 0] = 2.0
    mask = torch.zeros(1, 4, 4)
    mask[:, :2, :2] = 1
    assert diffusion_loss(prediction, target, torch.ones(1, 4, 4)).item() == pytest.approx(4 / 16)
    assert diffusion_loss(prediction, target, mask).item() == pytest.approx(4 / 4)


def test_the_outside_share_is_the_attention_beyond_the_mask():
    attention = torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    assert outside_share(attention, torch.tensor([[1.0, 0.0], [1.0, 1.0]])) == pytest.approx(0.25)
    assert outside_share(torch.zeros(2, 2), torch.ones(2, 2)) == 0.0
