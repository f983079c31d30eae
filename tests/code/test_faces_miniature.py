"""The miniature's own detector and parser through the same path as photographs."""

import numpy as np
import pytest

from faceid_core import photos
from faceid_core.errors import MissingWeights, PhotoRejected
from faceid_core.faces.backends import load_faces
from faceid_core.faces.prepare import prepare_photo
from faceid_core.geometry.align import TRAINING_EYE_TARGETS
from faceid_core.geometry.classes import INDEX, REGIONS
from faceid_core.miniature import people, renderer


def test_missing_miniature_weights_name_file_and_folder(tmp_path):
    with pytest.raises(MissingWeights, match=str(tmp_path)):
        load_faces("miniature", folder=tmp_path)


@pytest.fixture(scope="module")
def faces():
    return load_faces("miniature")


def test_sample_people_are_prepared(faces):
    for seed in people.SAMPLE_SEEDS:
        truth = renderer.render(people.person_from_seed(seed), renderer.Shot(), size=128)
        prepared = prepare_photo(
            photos.encode_png(truth.image), detector=faces[0], parser=faces[1], size=64, region="face_hair"
        )
        found = prepared.detection
        assert np.abs(np.array(found.eyes) - np.array(truth.eyes[0])).max() < 4
        placed = np.array(truth.eyes[0]) @ found.transform[:, :2].T + found.transform[:, 2]
        assert np.abs(placed / 64 - np.array(TRAINING_EYE_TARGETS)).max() < 0.03
        assert not prepared.approximate
        # The true labels brought into the crop by the same transform.
        inverse = np.linalg.inv(np.vstack([found.transform, (0, 0, 1)]))
        columns, rows = np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5)
        x, y, _ = inverse @ np.stack([columns.ravel(), rows.ravel(), np.ones(64 * 64)])
        there = truth.labels[np.clip(y, 0, 127).astype(int), np.clip(x, 0, 127).astype(int)].reshape(64, 64)
        wanted = np.isin(there, [INDEX[name] for name in REGIONS["face_hair"]]) & found.valid
        mask = prepared.mask > 0
        assert (mask & wanted).sum() / (mask | wanted).sum() > 0.85, seed


def test_scene_without_people_is_no_face(faces):
    image = renderer.render_scene(renderer.Shot(scene="beach"), size=128).image
    with pytest.raises(PhotoRejected, match="no_face"):
        prepare_photo(photos.encode_png(image), detector=faces[0], parser=faces[1])


def test_two_people_are_several_faces(faces):
    group = renderer.render_group(
        [people.person_from_seed(seed) for seed in people.HELD_OUT_SEEDS[:2]], renderer.Shot(), size=128
    )
    with pytest.raises(PhotoRejected, match="several_faces"):
        prepare_photo(photos.encode_png(group.image), detector=faces[0], parser=faces[1])
