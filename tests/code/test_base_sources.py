"""Where base models come from: names and hub revisions in a local cache, folders, buckets, single files."""

import json
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import constants

from faceid_core.config import parse_config
from faceid_core.diffusion.base import load_base_model
from faceid_core.errors import ConfigurationError, MissingWeights
from faceid_core.evaluate.generation import DrawRequest, draw
from faceid_core.weights.base_model import find_base
from faceid_core.weights.catalog import BASE_REVISIONS
from faceid_core.weights.hub import base_revision
from faceid_core.weights.lock import digest_folder
from faceid_core.weights.place import WeightsPlace
from faceid_core.weights.required import base_model
from faceid_core.weights.resolve import resolve, resolve_all
from tests.helpers.architectures import KINDS, write_architecture
from tests.helpers.original_layout import write_original_layout
from tests.helpers.tiny_pipeline import write_tiny_pipeline

REVISION = "0123456789012345678901234567890123456789"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def cache(folder, tmp_path, monkeypatch):
    """Hugging Face's cache with one snapshot of two repositories, laid out as the hub's client does."""
    hub = tmp_path / "hub"
    for repository in ("someone/model", BASE_REVISIONS["sd15"].split("@")[0]):
        revision = BASE_REVISIONS["sd15"].split("@")[1] if repository != "someone/model" else REVISION
        shutil.copytree(folder, hub / f"models--{repository.replace('/', '--')}" / "snapshots" / revision)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    return hub


def picture(base):
    request = [DrawRequest("person", "a photo of V* on beach", 1)]
    return next(draw(base, request, sampler="DDIMScheduler", steps=2, guidance_scale=2.0, batch=1)).image


def test_a_known_name_is_a_pinned_revision_of_the_local_cache(cache, folder):
    files = find_base("sd15")
    assert files.folder.name == BASE_REVISIONS["sd15"].split("@")[1] and files.folder.is_relative_to(cache)
    assert np.array_equal(picture(load_base_model("sd15")), picture(load_base_model(folder)))
    assert find_base(f"hub:someone/model@{REVISION}").folder.name == REVISION
    for name in BASE_REVISIONS:
        assert len(base_revision(name).revision) == 40


def test_a_digest_of_a_hub_model_is_of_the_files_that_are_read(cache):
    files = find_base(f"hub:someone/model@{REVISION}")
    digest = files.digest()
    for name in (
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "v1-5-pruned.ckpt",
        "unet/flax_model.msgpack",
    ):
        (files.folder / name).write_bytes(b"another variant, which is not read")
    assert files.digest() == digest
    ref = base_model(parse_config({"base_model": {"source": files.source}}))
    assert resolve(ref, planned=digest).paths == (files.folder,)
    # One number of the model's configuration, then one byte of its weights.
    config = files.folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "beta_end": 0.02}))
    changed = files.digest()
    weights = files.folder / "text_encoder" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert len({digest, changed, files.digest()}) == 3
    with pytest.raises(ConfigurationError, match="changed since the run was planned"):
        resolve(ref, planned=digest)


def test_what_was_not_brought_says_what_brings_it(cache, tmp_path):
    with pytest.raises(
        MissingWeights, match=r"stable-diffusion-xl-base-1\.0 at revision 4621.*faceid models fetch"
    ):
        find_base("sdxl")
    with pytest.raises(MissingWeights, match=r"someone--model--0123.*faceid models fetch"):
        find_base(f"hub:someone/model@{REVISION}", place=WeightsPlace(str(tmp_path)))
    folder = tmp_path / f"someone--model--{REVISION}"
    shutil.copytree(cache / "models--someone--model" / "snapshots" / REVISION, folder)
    assert find_base(
        f"hub:someone/model@{REVISION}", place=WeightsPlace(str(tmp_path))
    ).folder.is_relative_to(tmp_path)
    (folder / "vae" / "config.json").unlink()
    with pytest.raises(MissingWeights, match=r"no file vae/config\.json"):
        find_base(f"hub:someone/model@{REVISION}", place=WeightsPlace(str(tmp_path)))


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("hub:someone/model", "write hub:owner/name@revision"),
        ("hub:../../etc@x", "write hub:owner/name@revision"),
        ("hub:a/b@../c", "write hub:owner/name@revision"),
        ("/models/v1-5.ckpt", "nothing is unpickled here"),
    ],
)
def test_sources_of_another_form_are_refused(source, told):
    with pytest.raises(ConfigurationError, match=told):
        find_base(source)


def test_the_digest_of_the_configuration_pins_the_files(folder):
    digest = resolve_all(parse_config({"base_model": {"source": str(folder)}})).digests["base"]
    assert digest == digest_folder(folder), "as before there was a choice of sources"
    pinned = {"base_model": {"source": str(folder), "digest": digest}}
    assert resolve_all(parse_config(pinned)).digests["base"] == digest
    with pytest.raises(ConfigurationError, match=f"have digest {digest}, base_model.digest asks for eeee"):
        resolve_all(parse_config({"base_model": {"source": str(folder), "digest": "e" * 64}}))


def test_new_choices_leave_the_configurations_digest_alone_while_empty(folder):
    base = {"source": str(folder)}
    usual = parse_config({"base_model": base}).digest()
    assert parse_config({"base_model": {**base, "weights": "/elsewhere"}}).digest() == usual
    assert parse_config({"base_model": {**base, "digest": "e" * 64}}).digest() != usual


@pytest.fixture
def bucket(folder, s3_server):
    name = s3_server.new_bucket()
    for file in folder.rglob("*"):
        if file.is_file():
            key = f"models/tiny/{file.relative_to(folder).as_posix()}"
            s3_server.client.put_object(Bucket=name, Key=key, Body=file.read_bytes())
    return name


def test_a_bucket_is_staged_once_and_again_where_it_changed(bucket, s3_server, folder, tmp_path, monkeypatch):
    from faceid_core.store.s3 import S3Store

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    read, download = [], S3Store.download
    monkeypatch.setattr(
        S3Store, "download", lambda self, name, path: (read.append(name), download(self, name, path))
    )
    source = f"s3://{bucket}/models/tiny"
    first = find_base(source)
    assert first.folder.is_relative_to(tmp_path) and len(read) > 8
    assert first.digest() == digest_folder(folder)
    read.clear()
    assert find_base(source) == first and find_base(f"{source}/").folder == first.folder and not read
    s3_server.client.put_object(
        Bucket=bucket, Key="models/tiny/scheduler/scheduler_config.json", Body=b'{"beta_schedule": "linear"}'
    )
    s3_server.client.delete_object(Bucket=bucket, Key="models/tiny/tokenizer/tokenizer.json")
    assert find_base(source).digest() != digest_folder(folder)
    assert read == ["scheduler/scheduler_config.json"]
    assert not (first.folder / "tokenizer" / "tokenizer.json").exists()


def test_a_bucket_may_hold_a_single_file(bucket, s3_server, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    s3_server.client.put_object(Bucket=bucket, Key="models/one.safetensors", Body=b"weights")
    s3_server.client.put_object(Bucket=bucket, Key="models/one.safetensors.md", Body=b"about them")
    files = find_base(f"s3://{bucket}/models/one.safetensors", layout=f"s3://{bucket}/models/tiny")
    assert files.checkpoint.read_bytes() == b"weights"
    assert [each.name for each in files.checkpoint.parent.iterdir()] == ["one.safetensors"]
    assert (files.folder / "unet" / "config.json").read_bytes() == (
        folder / "unet" / "config.json"
    ).read_bytes()
    before = files.digest()
    s3_server.client.put_object(Bucket=bucket, Key="models/one.safetensors", Body=b"Weights")
    assert find_base(files.source, layout=f"s3://{bucket}/models/tiny").digest() != before


def test_a_bucket_of_all_weights_holds_hub_models_too(
    bucket, s3_server, folder, cache, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source, place = f"hub:someone/other@{REVISION}", f"s3://{bucket}/weights"
    with pytest.raises(MissingWeights, match=f"is not at {place}/someone--other--{REVISION} nor in"):
        find_base(source, place=WeightsPlace(place))
    assert find_base(f"hub:someone/model@{REVISION}", place=WeightsPlace(place)).folder.is_relative_to(cache)
    for file in (path for path in folder.rglob("*") if path.is_file()):
        key = f"weights/someone--other--{REVISION}/{file.relative_to(folder)}"
        s3_server.client.put_object(Bucket=bucket, Key=key, Body=file.read_bytes())
    config = parse_config({"base_model": {"source": source}, "weights": place}, source="test")
    there = shutil.copytree(folder, tmp_path / "all" / f"someone--other--{REVISION}").parent
    assert resolve_all(config).digests["base"] == find_base(source, place=WeightsPlace(str(there))).digest()


def test_an_empty_prefix_says_so(bucket):
    with pytest.raises(MissingWeights, match="no file of a model lies there"):
        find_base(f"s3://{bucket}/models/other")


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_file_draws_as_its_folder_does(tmp_path, kind):
    folder = write_architecture(tmp_path / kind, kind)
    file = write_original_layout(folder, tmp_path / "model.safetensors", kind)
    layout = tmp_path / "layout"
    shutil.copytree(folder, layout, ignore=shutil.ignore_patterns("*.safetensors"))
    single, whole = load_base_model(find_base(file, layout=str(layout))), load_base_model(folder)
    texts = [(single.towers[name].model, whole.towers[name].model) for name in whole.towers]
    for ours, theirs in ((single.unet, whole.unet), (single.vae, whole.vae), *texts):
        ours, theirs = ours.state_dict(), theirs.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    # The same weights; only the text encoder's attention kernel, which the library picks, may round differently.
    assert np.abs(picture(single).astype(int) - picture(whole)).max() <= 1


def test_a_single_file_and_its_layout_are_checked(tmp_path):
    folder = write_architecture(tmp_path / "sd15", "sd15")
    file, layout = tmp_path / "model.safetensors", tmp_path / "layout"
    shutil.copyfile(folder / "vae" / "diffusion_pytorch_model.safetensors", file)
    shutil.copytree(folder, layout, ignore=shutil.ignore_patterns("*.safetensors"))
    config = parse_config({"base_model": {"source": str(file), "layout": str(layout)}})
    digest = resolve_all(config).digests["base"]
    scheduler = layout / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("epsilon", "v_prediction"))
    assert resolve_all(config).digests["base"] != digest, "the layout decides results too"
    with pytest.raises(ConfigurationError, match=r"set base_model\.layout"):
        find_base(file)
    with pytest.raises(MissingWeights, match="there is no such file"):
        find_base(tmp_path / "none.safetensors", layout=str(layout))
    with pytest.raises(MissingWeights, match=r"cannot be loaded as the model.*base_model\.layout"):
        load_base_model(find_base(file, layout=str(layout)))
