"""The stage cache on both stores: manifest last, one winner, damage found and repaired, erasure."""

import dataclasses
import json
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from faceid_core.errors import DamagedInput, StoreError
from faceid_core.store import (
    IdentityErased,
    IdentitySecret,
    Manifest,
    Output,
    StageCache,
    StageCall,
    erased_people,
    is_erased,
    layout,
    sha256_hex,
)

KEY = IdentitySecret(bytes(32)).identity_key("anna")
CALL = StageCall("mask", 2, {"region": "face", "margin": 0.1}, inputs={"labels": sha256_hex(b"labels")})
OUTPUTS = {"mask": Output(b"\x00\x01" * 2000, "image/png"), "verdict": Output(b"{}", "application/json")}
PROVENANCE = {"run": "r1", "attempt": 1, "seconds": 0.25, "host": "h"}
MANIFEST = f"identities/{KEY}/stages/mask/{CALL.key}.json"


@pytest.fixture
def cache(any_store):
    return StageCache(any_store, layout.identity_scope(KEY))


def names(cache):
    return [info.name for info in cache.store.list("")]


def overwrite(store, name, data):
    """What a failing disk or a careless hand does."""
    store.replace_if_match(name, data, store.head(name).etag)


def test_a_result_is_found_again_by_an_equal_call(cache):
    assert cache.lookup(CALL) is None
    made = cache.commit(CALL, OUTPUTS, PROVENANCE)
    found = StageCache(cache.store, cache.scope).lookup(dataclasses.replace(CALL))
    assert found == made == cache.read_manifest("mask", CALL.key)
    assert {name: cache.read(found, name) for name in found.outputs} == {
        n: o.data for n, o in OUTPUTS.items()
    }
    assert found.provenance == PROVENANCE and found.content["preimage"] == CALL.preimage()
    assert (found.outputs["mask"].size, found.outputs["mask"].media_type) == (4000, "image/png")
    with pytest.raises(KeyError):
        cache.read(found, "labels")


def test_the_layout_is_the_one_that_is_documented(cache):
    cache.commit(CALL, OUTPUTS, PROVENANCE)
    blobs = [f"identities/{KEY}/blobs/{sha256_hex(output.data)}" for output in OUTPUTS.values()]
    assert names(cache) == sorted([*blobs, MANIFEST])
    assert StageCache(cache.store, "common").lookup(CALL) is None
    for scope in ("", "identities", "identities/anna", f"identities/{KEY}/x", "tables"):
        with pytest.raises(ValueError):
            StageCache(cache.store, scope)


def test_the_same_work_on_two_kinds_of_store_has_equal_content(folder_store, s3_store):
    made = [
        StageCache(store, "common").commit(CALL, OUTPUTS, PROVENANCE) for store in (folder_store, s3_store)
    ]
    assert made[0].to_bytes() == made[1].to_bytes()
    listed = [[info.name for info in store.list("common/")] for store in (folder_store, s3_store)]
    assert listed[0] == listed[1]


def test_who_comes_second_gets_the_winners_manifest(cache):
    first = cache.commit(CALL, OUTPUTS, PROVENANCE)
    other = cache.commit(CALL, OUTPUTS | {"verdict": Output(b"{ }", "application/json")}, {"run": "r2"})
    assert other == first == cache.lookup(CALL)


def test_eight_threads_agree_on_one_manifest(folder_store):
    def work(number):
        return StageCache(folder_store, "common").commit(CALL, OUTPUTS, {"run": str(number)})

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(work, range(8)))
    assert all(manifest == made[0] for manifest in made)


def test_force_replaces_what_was_there_and_works_where_nothing_was(cache):
    assert cache.commit(CALL, OUTPUTS, {"run": "r1"}, replace=True).provenance == {"run": "r1"}
    changed = {"mask": Output(b"new", "image/png")}
    forced = cache.commit(CALL, changed, {"run": "r2"}, replace=True)
    assert cache.lookup(CALL) == forced and cache.read(forced, "mask") == b"new"


def test_nothing_is_found_until_the_manifest_stands(cache, monkeypatch):
    real = cache.store.put_if_absent

    def die_at_manifest(name, data):
        if "/stages/" in name:
            raise StoreError("killed here")
        return real(name, data)

    monkeypatch.setattr(cache.store, "put_if_absent", die_at_manifest)
    with pytest.raises(StoreError):
        cache.commit(CALL, OUTPUTS, PROVENANCE)
    monkeypatch.undo()
    assert cache.lookup(CALL) is None and len(names(cache)) == 2
    assert cache.read(cache.commit(CALL, OUTPUTS, PROVENANCE), "mask") == OUTPUTS["mask"].data


@pytest.mark.parametrize("damage", ["wrong byte", "truncated", "gone"])
def test_damage_to_a_blob_is_found_on_reading_and_repaired_by_a_rerun(cache, damage):
    made = cache.commit(CALL, OUTPUTS, PROVENANCE)
    data, blob = OUTPUTS["mask"].data, layout.blob(cache.scope, made.outputs["mask"].digest)
    if damage == "gone":
        cache.store.delete(blob)
    else:
        overwrite(cache.store, blob, b"\x02" + data[1:] if damage == "wrong byte" else data[:-1])
    found = cache.lookup(CALL)
    with pytest.raises(DamagedInput, match=r"mask is (gone|damaged)") as caught:
        cache.read(found, "mask")
    assert (caught.value.stage, caught.value.stage_key) == ("mask", CALL.key)
    assert cache.read(found, "verdict") == b"{}"

    cache.quarantine(found, "its mask is damaged")
    assert cache.lookup(CALL) is None
    again = cache.commit(CALL, OUTPUTS, {"run": "r2"})
    assert cache.read(again, "mask") == data and again.content == made.content


@pytest.mark.parametrize("copy", ["AAAA", "no base64", 3, None])
def test_a_copy_in_the_manifest_spares_a_request_and_a_damaged_one_is_not_believed(cache, monkeypatch, copy):
    scores = Output(b"0.5, 0.25", "text/csv", inline=True)
    made = cache.commit(CALL, OUTPUTS | {"scores": scores}, PROVENANCE)
    cache.store.delete(layout.blob(cache.scope, made.outputs["scores"].digest))
    assert cache.read(cache.lookup(CALL), "scores") == scores.data, "the blob is not asked for"
    cache.commit(CALL, OUTPUTS | {"scores": scores}, PROVENANCE, replace=True)

    record = json.loads(cache.store.get(MANIFEST))
    record["inline"]["scores"] = copy
    overwrite(cache.store, MANIFEST, json.dumps(record).encode())
    found = cache.lookup(CALL)
    assert found.content == made.content and not found.inline
    assert cache.read(found, "scores") == scores.data, "the blob is"


def test_quarantine_leaves_alone_what_was_written_since(cache):
    old = cache.commit(CALL, OUTPUTS, {"run": "r1"})
    new = cache.commit(CALL, OUTPUTS, {"run": "r2"}, replace=True)
    cache.quarantine(old, "late")
    assert cache.lookup(CALL) == new
    cache.quarantine(new, "now")
    cache.quarantine(new, "and again")
    assert cache.lookup(CALL) is None


def changed_content(data):
    record = json.loads(data)
    record["content"]["outputs"][0]["digest"] = "0" * 64
    return json.dumps(record).encode()


def other_calls(data):
    record = json.loads(data)
    record["content"]["preimage"]["version"] = 3
    record["content_sha256"] = sha256_hex(
        json.dumps(record["content"], sort_keys=True, separators=(",", ":")).encode()
    )
    return json.dumps(record).encode()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: b"", "set aside"),
        (lambda data: data[:-20], "set aside"),
        (lambda data: b"\xff" + data, "set aside"),
        (lambda data: b"[1]", "not of the format"),
        (lambda data: b'{"format":"faceid-manifest/1"}', "not an object"),
        (lambda data: data.replace(b"0.25", b"NaN"), "holds NaN"),
        (lambda data: b"[" * 100_000, "set aside"),
        (changed_content, "own digest"),
        (other_calls, "not the digest of its preimage"),
    ],
)
def test_a_manifest_that_cannot_be_trusted_is_a_miss_and_kept_for_inspection(
    folder_store, caplog, damage, told
):
    cache = StageCache(folder_store, layout.identity_scope(KEY))
    cache.commit(CALL, OUTPUTS, PROVENANCE)
    spoilt = damage(cache.store.get(MANIFEST))
    overwrite(cache.store, MANIFEST, spoilt)
    with caplog.at_level(logging.WARNING):
        assert cache.lookup(CALL) is None
    assert told in caplog.text and CALL.key[:12] in caplog.text
    kept = [info.name for info in cache.store.list(f"{cache.scope}/quarantine/")]
    assert len(kept) == 1 and cache.store.get(kept[0]) == spoilt
    assert cache.read(cache.commit(CALL, OUTPUTS, PROVENANCE), "mask") == OUTPUTS["mask"].data


def test_a_manifest_moved_to_another_stage_is_not_believed(folder_store):
    cache = StageCache(folder_store, "common")
    cache.commit(CALL, OUTPUTS, PROVENANCE)
    data = folder_store.get(f"common/stages/mask/{CALL.key}.json")
    folder_store.put_if_absent(f"common/stages/parse/{CALL.key}.json", data)
    assert cache.read_manifest("parse", CALL.key) is None


def test_for_an_erased_person_nothing_is_kept(cache):
    assert not is_erased(cache.store, KEY)
    cache.store.put_if_absent(f"tombstones/{KEY}.json", b"{}")
    assert is_erased(cache.store, KEY) and erased_people(cache.store) == {KEY}
    for replace in (False, True):
        with pytest.raises(IdentityErased, match=KEY):
            cache.commit(CALL, OUTPUTS, PROVENANCE, replace=replace)
    assert names(cache) == [f"tombstones/{KEY}.json"]
    assert StageCache(cache.store, "common").commit(CALL, OUTPUTS, PROVENANCE)


def test_an_erasure_while_blobs_are_written_wins(folder_store, monkeypatch):
    cache, real = StageCache(folder_store, layout.identity_scope(KEY)), folder_store.put_if_absent

    def erased_meanwhile(name, data):
        real(layout.tombstone(KEY), b"{}")
        return real(name, data)

    monkeypatch.setattr(folder_store, "put_if_absent", erased_meanwhile)
    with pytest.raises(IdentityErased):
        cache.commit(CALL, OUTPUTS, PROVENANCE)
    assert cache.lookup(CALL) is None


@pytest.mark.parametrize("place", [0, 0.2, 0.5, 0.8, 0.99])
def test_a_manifest_read_for_its_call_is_believed_as_little_as_any(folder_store, place):
    """The short way to a hit parses no preimage; whatever it believes, the long way must believe as well."""
    made = StageCache(folder_store, "common").commit(CALL, OUTPUTS, PROVENANCE)
    whole = made.to_bytes()
    assert (
        Manifest.of_call(whole, CALL)
        == made
        == Manifest.from_bytes(whole, stage=CALL.stage, stage_key=CALL.key)
    )
    first = int(place * (len(whole) - 1))
    for position in range(first, min(first + 40, len(whole))):
        for other in (whole[position] ^ 1, whole[position] ^ 32):
            spoilt = whole[:position] + bytes([other]) + whole[position + 1 :]
            short = Manifest.of_call(spoilt, CALL)
            if short is not None:
                assert short == Manifest.from_bytes(spoilt, stage=CALL.stage, stage_key=CALL.key)
    for spoilt in (whole[:-1], whole + b" ", whole.replace(b'"outputs":[', b'"outputs":[[],'), b""):
        assert Manifest.of_call(spoilt, CALL) is None


def test_looking_leaves_a_damaged_manifest_where_it_is(cache):
    made = cache.commit(CALL, OUTPUTS, PROVENANCE)
    assert (
        cache.lookup(CALL, read_only=True)
        == made
        == cache.read_manifest(CALL.stage, CALL.key, read_only=True)
    )
    name = f"{cache.scope}/stages/{CALL.stage}/{CALL.key}.json"
    overwrite(cache.store, name, cache.store.get(name)[:-9])
    before = {info.name for info in cache.store.list("")}
    assert (
        cache.lookup(CALL, read_only=True) is None and {info.name for info in cache.store.list("")} == before
    )
    assert cache.lookup(CALL) is None and cache.store.head(name) is None
