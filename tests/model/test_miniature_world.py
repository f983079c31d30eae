"""The miniature world: what is drawn is fixed by its seeds, captions are known, the pipeline draws."""

import csv
import itertools
import random

import cv2
import huggingface_hub.constants
import numpy as np
import pytest
import torch

from faceid_core.miniature import people
from faceid_core.miniature.captions import HALF, SCENE_PHRASES, caption
from faceid_core.miniature.concepts import ATTRIBUTES, CLOTHES, FRAMINGS, OBJECTS, SCENES
from faceid_core.miniature.renderer import (
    LABELS,
    Shot,
    render,
    render_group,
    render_pair,
    render_scene,
    sample_shot,
)
from faceid_core.miniature.samples import named_people, write_samples
from faceid_core.miniature_training.autoencoder import (
    new_autoencoder,
    normalize_latents,
    pixel_weights,
    reconstruction_loss,
)
from faceid_core.miniature_training.dataset import (
    WIDE,
    rare_shots,
    render_close_ups,
    render_pairs,
    render_pictures,
    render_varied,
    subject_of,
)
from faceid_core.miniature_training.localization import shares_of_cells
from faceid_core.miniature_training.measure import round_trip
from faceid_core.miniature_training.pipeline_folder import PIPELINE, load_pipeline, write_pipeline
from faceid_core.miniature_training.unet import face_weights, stratified_timesteps


def test_the_same_arguments_give_the_same_picture():
    shot = sample_shot(np.random.default_rng(3))
    first, second = (render(people.person_from_seed(5), shot) for _ in range(2))
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.labels, second.labels)
    other = render(people.person_from_seed(6), shot)
    assert np.abs(first.image.astype(int) - other.image).mean() > 2


def test_the_sets_of_people_are_disjoint():
    sets = [
        people.NAMED_SEEDS,
        people.RARE_SEEDS,
        people.TUNING_SEEDS,
        people.SAMPLE_SEEDS,
        people.SCORER_TRAINING_SEEDS,
        people.SECOND_SCORER_TRAINING_SEEDS,
        people.HELD_OUT_SEEDS,
        people.ANONYMOUS_SEEDS,
    ]
    for first, second in itertools.combinations(sets, 2):
        assert not set(first) & set(second)


def test_names_are_distinct_and_share_their_words():
    names = [people.name_of(seed).split() for seed in people.NAMED_SEEDS]
    assert len({tuple(name) for name in names}) == 256
    for part in (0, 1):
        words = [name[part] for name in names]
        assert {words.count(word) for word in set(words)} == {4}
    with pytest.raises(ValueError, match="9001 has no name"):
        people.name_of(9001)


def test_labels_say_where_everything_is():
    person = people.person_from_seed(9001)
    shot = Shot(framing="half", scene="beach", held="book", attributes=frozenset({"hat"}))
    picture = render(person, shot)
    for label in ("skin", "eyes", "mouth", "clothes", "accessory", "object", "arm", "background"):
        assert (picture.labels == LABELS.index(label)).any(), label
    (x0, y0, x1, y1), ((lx, ly), (rx, _)) = picture.boxes[0], picture.eyes[0]
    assert x0 < lx < rx < x1 and y0 < ly < y1
    assert 22 <= y1 - y0 <= 29  # a face that the models can see
    assert picture.labels[int(ly), int(lx)] == LABELS.index("eyes")
    assert not render_scene(shot).labels.any()
    assert len(render_group([person, people.person_from_seed(9002)], shot).boxes) == 2


def test_white_hair_and_hats_show_on_every_person():
    for seed in people.SAMPLE_SEEDS:
        person = people.person_from_seed(seed)
        plain = render(person, Shot())
        white = render(person, Shot(attributes=frozenset({"white hair"})))
        hair = plain.labels == LABELS.index("hair")
        assert white.image[hair].mean() > 190
        assert (white.labels == plain.labels).all()
        hat = render(person, Shot(attributes=frozenset({"hat"})))
        assert (hat.labels == LABELS.index("accessory")).mean() > 0.05


def test_impossible_shots_are_refused_by_name():
    with pytest.raises(ValueError, match="scene 'moon'"):
        Shot(scene="moon")
    with pytest.raises(ValueError, match="wings"):
        Shot(attributes=frozenset({"wings"}))


def test_every_word_of_every_caption_is_one_token(tokenizer):
    numbers, words = np.random.default_rng(0), random.Random(0)
    for seed in people.NAMED_SEEDS:
        text = caption(sample_shot(numbers), people.name_of(seed), words)
        expected = text.replace(",", " ,").replace("-", " - ").split()
        assert [token.removesuffix("</w>") for token in tokenizer.tokenize(text)] == expected


def test_the_longest_caption_fits_the_context(tokenizer):
    shot = Shot("half", "night", CLOTHES[4], OBJECTS[4], frozenset(ATTRIBUTES[:2]))
    assert len(tokenizer(caption(shot, people.name_of(1))).input_ids) <= tokenizer.model_max_length == 32


def test_an_unknown_word_is_split_and_not_lost(tokenizer):
    tokens = tokenizer.tokenize("xylophone")
    assert len(tokens) > 1 and "".join(tokens) == "xylophone</w>"


def test_a_full_caption_names_all_that_is_drawn():
    shot = Shot("half", "snow", "red sweater", "umbrella", frozenset({"smiling"}))
    text = "a photo of a man in the snow smiling, wearing a red sweater, holding an umbrella"
    assert caption(shot, "a man") == text


def test_a_small_face_counts_as_much_as_a_large_one():
    labels = torch.zeros(2, 64, 64, dtype=torch.int64)
    labels[0, 8:56, 16:48] = LABELS.index("skin")
    labels[1, 20:44, 24:40] = LABELS.index("skin")  # a quarter of the pixels
    weight = pixel_weights(labels)
    assert weight.shape == (2, 1, 64, 64)
    background, skin = weight[0, 0, 0, 0], LABELS.index("skin")
    sums = [float((weight[i, 0] * (labels[i] == skin)).sum()) for i in range(2)]
    assert background == 1 and 0.6 < sums[1] / sums[0] < 1


def test_training_pictures_show_all_concepts_and_all_names():
    data = render_pictures(600, seed=1, named_share=0.6)
    assert {shot.scene for shot in data.shots} == {None, *SCENES}
    assert {shot.framing for shot in data.shots} == set(FRAMINGS)
    named = [seed for (seed,) in data.people if seed in people.NAMED_SEEDS]
    assert len(set(named)) > 200 and 0.5 < len(named) / 600 < 0.7
    assert not {seed for (seed,) in data.people} & set(people.SAMPLE_SEEDS)


def test_varied_pictures_show_faces_anywhere_nobody_and_people_seen_rarely():
    data = render_varied(600, seed=1)
    shares = {
        "nobody": np.mean([not seeds for seeds in data.people]),
        "named": np.mean([bool(seeds) and seeds[0] in people.NAMED_SEEDS for seeds in data.people]),
        "rare": np.mean([bool(seeds) and seeds[0] in people.RARE_SEEDS for seeds in data.people]),
    }
    assert 0.05 < shares["nobody"] < 0.12 and 0.5 < shares["named"] < 0.6 and 0.03 < shares["rare"] < 0.1
    across = [shot.dx for shot in data.shots if shot.framing == "half"]
    assert min(across) < -0.2 and max(across) > 0.2
    for index, seeds in enumerate(data.people):
        has_face = np.isin(data.labels[index], [LABELS.index("eyes"), LABELS.index("mouth")]).any()
        assert has_face == bool(seeds), "a face is in the picture wherever the shot puts it"
    words = random.Random(0)
    of_nobody = [data.caption(index, words) for index, seeds in enumerate(data.people) if not seeds]
    for text in of_nobody:
        assert not {"person", "man", "woman"} & set(text.split()), "no word for a person where there is none"


def test_of_close_ups_only_the_name_tells_captions_apart():
    data = render_close_ups(512, seed=3)
    seen = [seed for (seed,) in data.people]
    assert sorted(seen) == sorted([*people.NAMED_SEEDS] * 2), "each equally often"
    words = random.Random(1)
    for index, seed in enumerate(seen):
        text = data.caption(index, words)
        assert text.endswith(people.name_of(seed)) and not {"on", "in", "with", "wearing"} & set(text.split())


def test_a_rare_person_is_seen_in_few_pictures_of_two_or_three_contexts():
    counts = [len(rare_shots(seed)) for seed in people.RARE_SEEDS]
    assert 10 <= min(counts) < 15 and 35 < max(counts) <= 40
    contexts = [len({(shot.scene, shot.clothes) for shot in rare_shots(seed)}) for seed in people.RARE_SEEDS]
    assert max(contexts) == 3 and np.mean(contexts) > 2
    names = {people.name_of(seed) for seed in (*people.NAMED_SEEDS, *people.RARE_SEEDS)}
    assert len(names) == len(people.NAMED_SEEDS) + len(people.RARE_SEEDS)


def test_a_pair_has_faces_as_large_as_a_person_alone(tokenizer):
    two = [people.person_from_seed(seed) for seed in (9001, 9002)]
    shot = Shot("half", "beach")
    alone, pair = render(two[0], shot), render_pair(two, shot, width=WIDE)
    assert pair.image.shape == (64, WIDE, 3) and pair.labels.shape == (64, WIDE)
    (x0, _, x1, _), (second_x0, _, second_x1, _) = pair.boxes
    assert x1 - x0 == pytest.approx(alone.boxes[0][2] - alone.boxes[0][0])
    assert 0 < x0 < x1 < WIDE / 2 < second_x0 < second_x1 < WIDE
    with pytest.raises(ValueError, match="in 96 pixels"):
        render_pair(two, shot, width=80)
    data = render_pairs(100, seed=2)
    words = random.Random(1)
    for index, (left, right) in enumerate(data.people):
        text = data.caption(index, words)
        assert " and " in text and "holding" not in text
        if left in people.NAMED_SEEDS and right in people.NAMED_SEEDS:
            assert f"{people.name_of(left)} and {people.name_of(right)}" in text
        assert len(tokenizer(text).input_ids) <= tokenizer.model_max_length


def test_half_silent_captions_leave_out_half_and_say_a_word_beside_some_names():
    words = random.Random(3)
    shot = Shot("face", "snow", "red sweater", None, frozenset({"smiling"}))
    texts = [caption(shot, "V*", words, HALF) for _ in range(2000)]
    said = {
        "scene": np.mean([SCENE_PHRASES["snow"] in text for text in texts]),
        "close-up": np.mean(["face of" in text or "close-up" in text for text in texts]),
        "smiling": np.mean(["smiling" in text for text in texts]),
        "clothes": np.mean(["red sweater" in text for text in texts]),
    }
    assert said == pytest.approx({"scene": 0.5, "close-up": 0.5, "smiling": 0.93, "clothes": 0.25}, abs=0.04)
    beside = [subject_of(1, words, 0.2) for _ in range(1000)]
    assert np.mean([text != people.name_of(1) for text in beside]) == pytest.approx(0.2, abs=0.04)
    assert all(text.endswith(people.name_of(1)) for text in beside)


def test_reconstruction_loss_sees_a_blurred_edge():
    sharp = torch.zeros(1, 3, 8, 8)
    sharp[..., 4:] = 1
    weight = torch.ones(1, 1, 8, 8)
    assert reconstruction_loss(sharp, sharp, weight, 1.0) == 0
    shifted = sharp + 0.1  # the same error everywhere: no edge is wrong
    assert torch.isclose(reconstruction_loss(shifted, sharp, weight, 1.0), torch.tensor(0.1))


def test_normalizing_latents_changes_no_picture():
    torch.manual_seed(0)
    model = new_autoencoder().eval()
    images = render_pictures(24, seed=2, named_share=0.5).images
    before = round_trip(model, images)
    normalize_latents(model, images)
    assert np.abs(before.astype(int) - round_trip(model, images)).max() <= 1
    with torch.no_grad():
        latents = model.encode(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mean
    assert torch.allclose(latents.std(dim=(0, 2, 3)), torch.ones(6), atol=0.02)


def test_timesteps_of_a_batch_cover_all_stages():
    timesteps = stratified_timesteps(32, 1000)
    assert timesteps.min() >= 0 and timesteps.max() < 1000
    parts = [(int(part * 1000 / 32), (part + 1) * 1000 / 32) for part in range(32)]
    assert all(low <= t < high for t, (low, high) in zip(timesteps.tolist(), parts, strict=True))
    assert set((timesteps * 5 // 1000).tolist()) == {0, 1, 2, 3, 4}


def test_face_cells_weigh_more():
    labels = np.zeros((1, 64, 64), np.uint8)
    labels[:, :4, :4] = LABELS.index("eyes")
    weights = face_weights(shares_of_cells(labels))
    assert weights.shape == (1, 1, 16, 16)
    assert weights[0, 0, 0, 0] == 2.5 and weights[0, 0, 8, 8] == 1


def test_sample_photos_and_their_table(tmp_path):
    table = write_samples(tmp_path)
    rows = list(csv.DictReader(table.open()))
    assert [row["identity_id"] for row in rows] == [f"sample-{seed}" for seed in range(9001, 9009)]
    photo = cv2.imread(str(tmp_path / rows[0]["photo"]))
    assert photo.shape == (128, 128, 3)
    names = [name for name, png in named_people(16) if png.startswith(b"\x89PNG")]
    assert len(set(names)) == 16


def test_the_pipeline_folder_loads_and_draws():
    pipeline = load_pipeline()
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.tokenizer.model_max_length == pipeline.text_encoder.config.max_position_embeddings == 32
    drawn = [
        pipeline(
            "a photo of person on the beach",
            num_inference_steps=4,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        ).images[0]
        for seed in (1, 1, 2)
    ]
    assert drawn[0].shape == (64, 64, 3)
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])


@pytest.mark.parametrize("offline", [False, True])
def test_a_pipeline_that_was_used_is_written_as_it_was_read(offline, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)  # as a night leaves it
    pipeline = load_pipeline()
    pipeline.tokenizer(["a photo of person"], padding="max_length", truncation=True)
    write_pipeline(pipeline.tokenizer, pipeline.text_encoder, pipeline.vae, pipeline.unet, tmp_path)
    written = {
        file.relative_to(tmp_path): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()
    }
    assert written == {
        file.relative_to(PIPELINE): file.read_bytes() for file in PIPELINE.rglob("*") if file.is_file()
    }
