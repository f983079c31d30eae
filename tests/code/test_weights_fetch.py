"""faceid models fetch: from the net, the hub, a folder and a bucket; broken off, gone on with, damaged, refused."""

from __future__ import annotations

import bz2
import hashlib
import json

import pytest
from click.testing import CliRunner

from faceid_core.config import NightlyConfig
from faceid_core.weights.catalog import DETECTORS, RECOGNIZERS, SEGFORMER_FILES, KnownFile, KnownModel
from faceid_core.weights.download import FetchFailed, download
from faceid_core.weights.fetch import fetch
from faceid_core.weights.hub import base_revision
from faceid_core.weights.lock import DamagedWeights, ModelsLock
from faceid_core.weights.place import WeightsPlace
from faceid_core.weights.required import face_detector, face_parser, published
from faceid_core.weights.resolve import resolve
from faceid_core.weights.status import model_statuses
from flows.cli import cli
from tests.helpers.face_models import detector_digest
from tests.helpers.weights_server import REVISION, serving_weights

NETWORK = bytes(range(256)) * 12_000  # 3 MB: more than one piece
SHA = hashlib.sha256(NETWORK).hexdigest()


@pytest.fixture(autouse=True)
def own_caches(monkeypatch, tmp_path):
    from huggingface_hub import constants

    # A run in this process may have shut the hub off, as it should.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "net.onnx").write_bytes(NETWORK)
    with serving_weights(tmp_path / "served") as server:
        yield server


def served(server, *, sha256=SHA, name="net.onnx") -> KnownModel:
    return KnownModel("deepface-Net", (KnownFile("net.onnx", (f"{server.url}/{name}",), sha256),))


def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path):
    server.break_after["net.onnx"] = 2_000_000
    (first,) = fetch([served(server)], WeightsPlace(str(tmp_path / "weights")))
    assert first.state == "failed" and "2,000,000 of 3,072,000 bytes" in first.sentence
    assert not (tmp_path / "weights" / "deepface-Net" / "net.onnx").exists()
    (second,) = fetch([served(server)], WeightsPlace(str(tmp_path / "weights")))
    assert (second.state, second.resumed_from, second.bytes) == ("brought", 2_000_000, len(NETWORK))
    assert server.sent == [("/net.onnx", 0), ("/net.onnx", 2_000_000)]
    assert (tmp_path / "weights" / "deepface-Net" / "net.onnx").read_bytes() == NETWORK
    assert [path.name for path in (tmp_path / "weights" / "deepface-Net").iterdir()] == ["net.onnx"]
    lock = ModelsLock.load(tmp_path / "weights" / "models.lock")
    lock.verify("deepface-Net", tmp_path / "weights" / "deepface-Net")
    (third,) = fetch([served(server)], WeightsPlace(str(tmp_path / "weights")))
    assert third.state == "here" and third.digest == second.digest and len(server.sent) == 2


def test_a_file_that_changed_meanwhile_is_not_glued_together(server, tmp_path):
    server.break_after["net.onnx"] = 2_000_000
    with pytest.raises(FetchFailed):
        download(f"{server.url}/net.onnx", tmp_path / "net.onnx")
    (server.folder / "net.onnx").write_bytes(NETWORK[::-1])
    brought = download(f"{server.url}/net.onnx", tmp_path / "net.onnx")
    assert brought.resumed_from == 0 and (tmp_path / "net.onnx").read_bytes() == NETWORK[::-1]


def test_what_is_not_the_published_file_is_removed(server, tmp_path):
    (found,) = fetch([served(server, sha256="0" * 64)], WeightsPlace(str(tmp_path / "weights")))
    assert (
        found.state == "failed"
        and f"sha256 {SHA[:12]}" in found.sentence
        and "000000000000" in found.sentence
    )
    assert list((tmp_path / "weights" / "deepface-Net").iterdir()) == []


def test_the_second_address_is_asked_where_the_first_has_nothing(server, tmp_path):
    model = KnownModel(
        "deepface-Net", (KnownFile("net.onnx", (f"{server.url}/gone.onnx", f"{server.url}/net.onnx"), None),)
    )
    (found,) = fetch([model], WeightsPlace(str(tmp_path / "weights")))
    assert found.state == "brought"
    # No digest is published: the lock of the first fetch is what later ones, and runs, are held to.
    (tmp_path / "weights" / "deepface-Net" / "net.onnx").write_bytes(b"another")
    (server.folder / "net.onnx").write_bytes(b"a third")
    place = WeightsPlace(str(tmp_path / "weights"))
    ref = published(model, place)
    with pytest.raises(DamagedWeights, match=r"net\.onnx"):
        resolve(ref, planned=resolve(ref).digest)


def test_a_packed_file_is_unpacked(server, tmp_path):
    (server.folder / "net.dat.bz2").write_bytes(bz2.compress(NETWORK))
    brought = download(f"{server.url}/net.dat.bz2", tmp_path / "net.dat", sha256=SHA)
    assert brought.path.read_bytes() == NETWORK and [p.name for p in tmp_path.glob("net*")] == ["net.dat"]
    (server.folder / "bad.dat.bz2").write_bytes(b"BZh9 no")
    with pytest.raises(DamagedWeights, match="no usable bz2"):
        download(f"{server.url}/bad.dat.bz2", tmp_path / "bad.dat")


def test_from_folder_to_bucket_to_folder(server, s3_server, tmp_path):
    model = served(server)
    first, second = WeightsPlace(str(tmp_path / "first")), WeightsPlace(str(tmp_path / "second"))
    bucket = WeightsPlace(f"s3://{s3_server.new_bucket()}/weights")
    fetch([model], first)
    sent = len(server.sent)
    digests = {
        fetch([model], to, origin=origin)[0].digest for to, origin in ((bucket, first), (second, bucket))
    }
    assert digests == {ModelsLock.load(tmp_path / "first" / "models.lock").digest("deepface-Net")}
    assert len(server.sent) == sent
    assert (tmp_path / "second" / "deepface-Net" / "net.onnx").read_bytes() == NETWORK
    assert fetch([model], bucket)[0].state == "here"
    other = KnownModel("deepface-Other", (KnownFile("other.onnx"),))
    (missing,) = fetch([other], second, origin=bucket)
    assert missing.state == "failed" and "does not name deepface-Other" in missing.sentence
    # A second model joins the bucket's lock and leaves the first one's entry.
    (server.folder / "other.onnx").write_bytes(b"other")
    joining = KnownModel("deepface-Other", (KnownFile("other.onnx", (f"{server.url}/other.onnx",)),))
    assert fetch([joining], bucket)[0].state == "brought" and fetch([model], bucket)[0].state == "here"


def test_a_detector_is_taken_from_a_bucket_of_weights(s3_server, tmp_path, monkeypatch):
    bucket, folder = f"s3://{s3_server.new_bucket()}/weights", tmp_path / "folder"
    for place in (bucket, str(folder)):
        (brought,) = fetch([DETECTORS["dlib"]], WeightsPlace(place))
        assert brought.state == "brought", brought.sentence
    monkeypatch.setattr("faceid_core.weights.deepface_files.package_folder", lambda package: None)
    (file,) = resolve(face_detector("dlib", WeightsPlace(bucket))).paths
    assert file.is_relative_to(tmp_path / "cache")
    assert detector_digest("dlib", WeightsPlace(bucket)) == detector_digest("dlib", WeightsPlace(str(folder)))
    run = NightlyConfig(faces={"backend": "deepface", "detector": "dlib"}, weights=bucket)
    assert [need.state for need in model_statuses(run)] == ["ships", "here"]
    run = NightlyConfig(faces={"backend": "deepface", "detector": "yunet"}, weights=bucket)
    assert f"models fetch --to {bucket}" in model_statuses(run)[1].detail


def test_a_parser_that_is_not_here_is_among_the_needs(tmp_path):
    faces = {"backend": "deepface", "parser": "segformer", "parser_source": str(tmp_path)}
    (need,) = [each for each in model_statuses(NightlyConfig(faces=faces)) if each.role == "face parser"]
    assert need.state == "missing" and str(tmp_path) in need.detail


def test_an_interrupted_copy_from_a_bucket_goes_on(s3_server, tmp_path):
    bucket = s3_server.new_bucket()
    s3_server.client.put_object(Bucket=bucket, Key="net.onnx", Body=NETWORK)
    etag = s3_server.client.head_object(Bucket=bucket, Key="net.onnx")["ETag"]
    (tmp_path / "net.onnx.part").write_bytes(NETWORK[:1_000_000])
    (tmp_path / "net.onnx.part.version").write_text(etag)
    assert download(f"s3://{bucket}/net.onnx", tmp_path / "net.onnx", sha256=SHA).resumed_from == 1_000_000
    with pytest.raises(FetchFailed, match="no such object"):
        download(f"s3://{bucket}/absent", tmp_path / "absent")


def test_a_whole_model_comes_from_the_hub_at_its_revision(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    repository = server.folder / "clip-tiny"
    for name, data in {
        "config.json": b"{}", "model.safetensors": NETWORK, "pytorch_model.bin": b"pickled", "vocab.json": b"{}",
        "tokenizer.json": b"{}", "flax_model.msgpack": b"x",
    }.items():  # fmt: skip
        repository.mkdir(exist_ok=True)
        (repository / name).write_bytes(data)
    files = tuple(KnownFile(name) for name in ("config.json", "model.safetensors", "vocab.json"))
    model = KnownModel("clip-tiny", files, hub="org/clip-tiny", revision=REVISION)
    server.break_after["model.safetensors"] = 1_000_000
    fetch([model], WeightsPlace(str(tmp_path / "weights")))
    (found,) = fetch([model], WeightsPlace(str(tmp_path / "weights")))
    folder = tmp_path / "weights" / "clip-tiny"
    assert found.state in ("brought", "here"), found.sentence  # the hub's client may go on within one call
    assert [path for path, _ in server.sent].count("/clip-tiny/model.safetensors") == 2
    assert (folder / "model.safetensors").read_bytes() == NETWORK
    assert {path.name for path in folder.iterdir() if path.is_file() and path.name[0] != "."} == {
        "config.json", "model.safetensors", "vocab.json", "tokenizer.json",
    }  # fmt: skip
    assert fetch([model], WeightsPlace(str(tmp_path / "weights")))[0].state == "here"
    strange = KnownModel("clip-tiny", files, hub="org/clip-tiny", revision="d" * 40)
    (refused,) = fetch([strange], WeightsPlace(str(tmp_path / "other")))
    assert refused.state == "failed" and "RevisionNotFoundError" in refused.sentence


def test_of_a_pipeline_only_what_is_read_comes(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    for name in (
        "model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors",
        "text_encoder/model.safetensors", "text_encoder/pytorch_model.bin", "safety_checker/model.safetensors",
        "tokenizer/vocab.json", "tokenizer/merges.txt", "v1-5-pruned.safetensors",
    ):  # fmt: skip
        file = server.folder / "sd-tiny" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    model = base_revision(f"hub:org/sd-tiny@{REVISION}").known()
    for precision, weights in (
        ("float32", "diffusion_pytorch_model"),
        ("float16", "diffusion_pytorch_model.fp16"),
    ):
        to = tmp_path / precision
        (found,) = fetch([model], WeightsPlace(str(to)), precision=precision)
        assert found.state == "brought", found.sentence
        names = {
            path.relative_to(to / model.folder).as_posix()
            for path in (to / model.folder).rglob("*")
            if path.is_file()
        }
        names = {name for name in names if not name.startswith(".")}
        assert f"unet/{weights}.safetensors" in names and "tokenizer/merges.txt" in names
        assert not [name for name in names for part in ("non_ema", "safety", "v1-5", ".bin") if part in name]
        assert len([name for name in names if name.startswith("unet/") and name.endswith("safetensors")]) == 1


def test_what_a_configuration_needs():
    assert {need.state for need in model_statuses(NightlyConfig())} == {"ships"}
    config = NightlyConfig(
        base_model={"source": f"hub:org/model@{REVISION}"},
        faces={"backend": "deepface"},
        weights="/nowhere",
        score={
            "scorers": "photographs", "recognizers": ["SFace", "ArcFace"],
            "metrics": ["identity", "detection", "image_text", "diversity"],
        },
    )  # fmt: skip
    found = {need.name: need for need in model_statuses(config)}
    assert {name: need.state for name, need in found.items()} == {
        f"hub:org/model@{REVISION}": "missing", "deepface dlib": "here", "deepface-SFace": "missing",
        "clip-vit-base-patch32": "missing",
    }  # fmt: skip
    assert found[f"hub:org/model@{REVISION}"].model == KnownModel(
        f"org--model--{REVISION}", (), hub="org/model", revision=REVISION
    )
    assert "24,227,283 bytes" in found["deepface-SFace"].detail
    assert (
        base_revision("/models/sd15") is None
        and base_revision("miniature") is None
        and base_revision("s3://b/x") is None
    )


def test_a_face_parser_comes_from_the_hub_into_the_folder_where_runs_look(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in (file.name for file in SEGFORMER_FILES):
        file = server.folder / "face-parsing" / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(name.encode())
    source = f"org/face-parsing@{REVISION}"
    config = NightlyConfig(
        faces={"backend": "deepface", "parser": "segformer", "parser_source": source},
        weights=str(tmp_path / "weights"),
    )

    def need():
        return next(each for each in model_statuses(config) if each.role == "face parser")

    assert need().state == "missing"
    (found,) = fetch([need().model], WeightsPlace(config.weights))
    assert found.state == "brought" and need().state == "here"
    assert (
        resolve(face_parser("segformer", source, WeightsPlace(config.weights))).paths[0]
        == tmp_path / "weights" / f"org--face-parsing--{REVISION}"
    )


def test_the_command_prints_what_became_of_each(server, tmp_path):
    origin = tmp_path / "origin"
    model = KnownModel(
        RECOGNIZERS["ArcFace"].folder, (KnownFile("arcface_weights.onnx", (f"{server.url}/net.onnx",)),)
    )
    fetch([model], WeightsPlace(str(origin)))
    command = ["models", "fetch", "ArcFace", "--to", str(tmp_path / "weights"), "--from", str(origin)]
    told = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert told.exit_code == 0 and "brought" in told.output and "deepface-ArcFace" in told.output
    assert "here" in CliRunner().invoke(cli, command, catch_exceptions=False).output
    failed = CliRunner().invoke(cli, [*command[:2], "SFace", *command[3:]], catch_exceptions=False)
    assert failed.exit_code == 3 and "not here: deepface-SFace" in failed.output
    unknown = CliRunner().invoke(cli, [*command[:2], "FaceNet9", *command[3:]])
    assert "FaceNet9 is no known model" in str(unknown.exception)
    assert "where to?" in str(CliRunner().invoke(cli, ["models", "fetch"]).exception)
    nothing = CliRunner().invoke(
        cli, ["models", "fetch", "--to", str(tmp_path / "weights")], catch_exceptions=False
    )
    assert nothing.exit_code == 0 and "needs nothing that does not ship" in nothing.output
    lock = json.loads((tmp_path / "weights" / "models.lock").read_text())
    assert lock["models"]["deepface-ArcFace"]["arcface_weights.onnx"] == {"sha256": SHA, "size": len(NETWORK)}
