"""What only S3 can do to a store: replies that get lost, conflicts to retry, pages, refusals."""

import base64

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from faceid_core.config import S3Config, parse_config
from faceid_core.errors import ConfigurationError, Conflict, StoreError
from faceid_core.store import open_store
from faceid_core.store.s3 import S3Settings, S3Store
from faceid_core.tables import Tables
from tests.helpers.table_rows import run as table_rows


def refusal(code, status, operation="PutObject"):
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, operation)


def fail_first(monkeypatch, client, method, errors, *, after=False):
    """Make the next calls raise, before or after the request landed; returns those still to come."""
    real, errors = getattr(client, method), list(errors)

    def call(**arguments):
        if after or not errors:
            answer = real(**arguments)
            if not errors:
                return answer
        raise errors.pop(0)

    monkeypatch.setattr(client, method, call)
    return errors


def test_a_conflict_between_two_conditional_writes_is_tried_again(s3_store, monkeypatch):
    left = fail_first(
        monkeypatch, s3_store._client, "put_object", [refusal("ConditionalRequestConflict", 409)] * 3
    )
    assert s3_store.put_if_absent("x", b"1") and not left


def test_a_conflict_that_stays_is_reported_with_the_name(s3_store, monkeypatch):
    fail_first(monkeypatch, s3_store._client, "put_object", [refusal("ConditionalRequestConflict", 409)] * 99)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(StoreError, match="cannot write x in s3://"):
        s3_store.put_if_absent("x", b"1")


def test_a_replacement_whose_reply_was_lost_counts_as_done(s3_store, monkeypatch):
    first = s3_store.replace_if_match("x", b"1", None)
    lost = ReadTimeoutError(endpoint_url="http://s3")
    fail_first(monkeypatch, s3_store._client, "put_object", [lost], after=True)
    second = s3_store.replace_if_match("x", b"2", first)
    assert s3_store.get_with_etag("x") == (b"2", second)


def test_a_replacement_that_another_overtook_is_a_conflict(s3_store, monkeypatch):
    first = s3_store.replace_if_match("x", b"1", None)
    open_store(s3_store.url).replace_if_match("x", b"other", first)
    with pytest.raises(Conflict):
        s3_store.replace_if_match("x", b"2", first)
    assert s3_store.get("x") == b"other"


def test_a_read_that_broke_off_is_read_again(s3_store, monkeypatch):
    s3_store.put_if_absent("x", b"1")
    broken = [ConnectionClosedError(endpoint_url="http://s3"), ReadTimeoutError(endpoint_url="http://s3")]
    left = fail_first(monkeypatch, s3_store._client, "get_object", broken)
    assert s3_store.get("x") == b"1" and not left


def test_objects_carry_type_and_checksum(s3_store):
    sent = []
    s3_store._client.meta.events.register(
        "before-send.s3.PutObject", lambda request, **_: sent.append(request.headers)
    )
    s3_store.put_if_absent("runs/r/index.html", b"<p>")
    s3_store.put_if_absent("store.json", b"{}")
    assert [headers["Content-Type"] for headers in sent] == [b"text/html; charset=utf-8", b"application/json"]
    assert sent[1]["x-amz-checksum-sha256"] == b"RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o="


def test_listings_go_on_over_pages_and_stay_within_the_prefix(s3_store, s3_server):
    for number in range(7):
        s3_store.put_if_absent(f"p/{number}", b"x")
    s3_server.client.put_object(Bucket=s3_store.bucket, Key="some/prefix-of-another/p/8", Body=b"x")
    s3_store._client.meta.events.register(
        "before-parameter-build.s3.ListObjectsV2", lambda params, **_: params.update(MaxKeys=3)
    )
    assert [info.name for info in s3_store.list("")] == [f"p/{number}" for number in range(7)]
    assert all(info.etag == s3_store.head(info.name).etag for info in s3_store.list("p/"))


def test_a_bucket_itself_can_be_a_store(s3_server):
    store = open_store(f"s3://{s3_server.new_bucket()}/")
    assert store.put_if_absent("a/b", b"1") and [info.name for info in store.list("")] == ["a/b"]


def test_a_missing_bucket_is_told_with_what_to_do(s3_server):
    store = open_store("s3://no-such-bucket-of-ours/p")
    for use in (lambda: store.put_if_absent("x", b"1"), lambda: list(store.list(""))):
        with pytest.raises(StoreError, match=r"s3://no-such-bucket-of-ours/p: .*create the bucket"):
            use()


def test_an_endpoint_that_is_down_is_a_store_error(s3_server):
    store = S3Store("s3://bucket/p", S3Settings(endpoint_url="http://127.0.0.1:9", region="us-east-1"))
    store._client.meta.events.register("needs-retry.s3.PutObject", lambda **_: None)
    with pytest.raises(StoreError, match=r"cannot write x .*check the endpoint"):
        store.put_if_absent("x", b"1")


def test_settings_go_before_the_environment(s3_server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    bucket = s3_server.new_bucket()
    store = S3Store(f"s3://{bucket}/p", S3Settings(endpoint_url=s3_server.endpoint, path_style=True))
    assert store.put_if_absent("x", b"1") and store.get("x") == b"1"


def test_the_configuration_reaches_the_client(s3_server):
    section = {
        "kms_key": "alias/faces",
        "checksums": "none",
        "attempts": 7,
        "timeout_seconds": 9,
        "connections": 48,
    }
    config = parse_config({"store": "s3://bucket/p", "s3": section})
    store = open_store(config.store, config.s3.settings())
    client = store._client.meta.config
    assert client.max_pool_connections == 48 and client.read_timeout == 9
    assert client.retries == {"mode": "standard", "total_max_attempts": 7}
    assert (store.settings.kms_key, store.settings.checksums) == ("alias/faces", "none")
    assert parse_config({}).s3.model_dump() == S3Config().model_dump()
    usual = open_store(config.store, S3Config().settings())
    assert usual.settings == S3Settings()


def test_everything_that_is_written_is_encrypted_with_the_key_tables_too(s3_server):
    bucket = s3_server.new_bucket()
    store = S3Store(f"s3://{bucket}/p", S3Settings(kms_key="alias/faces"))
    etag = store.replace_if_match("x", b"1", None)
    store.replace_if_match("x", b"2", etag)
    store.put_if_absent("y", b"3")
    Tables(store).publish("r1", table_rows("r1", 1))
    names = [row["Key"] for row in s3_server.client.list_objects_v2(Bucket=bucket)["Contents"]]
    assert any(name.endswith(".parquet") for name in names) and len(names) > 10
    for name in names:
        head = s3_server.client.head_object(Bucket=bucket, Key=name)
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", "alias/faces"), name
    assert Tables(store).read("runs").num_rows == 1


@pytest.mark.parametrize(
    ("mode", "header"),
    [("sha256", "x-amz-checksum-sha256"), ("crc32", "x-amz-checksum-crc32"), ("none", None)],
)
def test_the_checksum_that_goes_with_an_object_is_the_configured_one(s3_server, mode, header):
    store = S3Store(f"s3://{s3_server.new_bucket()}/p", S3Settings(checksums=mode))
    sent = []
    store._client.meta.events.register(
        "before-send.s3.PutObject", lambda request, **_: sent.append(dict(request.headers))
    )
    assert store.put_if_absent("x", b"123456789") and store.get("x") == b"123456789"
    found = [name.lower() for name in sent[0] if name.lower().startswith("x-amz-checksum")]
    assert found == ([header] if header else [])
    if mode == "crc32":
        assert base64.b64decode(sent[0][next(n for n in sent[0] if n.lower() == header)]).hex() == "cbf43926"


def test_a_checksum_that_does_not_exist_is_refused():
    with pytest.raises(ConfigurationError, match=r"s3\.checksums"):
        parse_config({"s3": {"checksums": "md4"}})


def test_purging_takes_all_versions_and_leaves_the_neighbors(s3_server):
    bucket = s3_server.new_bucket()
    s3_server.client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    store = S3Store(f"s3://{bucket}/p", S3Settings())
    for name in ("a/1", "a/2", "b/1"):
        store.replace_if_match(name, b"2", store.replace_if_match(name, b"1", None))
    store.delete("a/2")

    def versions():
        answer = s3_server.client.list_object_versions(Bucket=bucket)
        rows = [*answer.get("Versions", ()), *answer.get("DeleteMarkers", ())]
        return sorted(row["Key"] for row in rows)

    assert versions() == ["p/a/1"] * 2 + ["p/a/2"] * 3 + ["p/b/1"] * 2
    assert store.purge_old_versions("b/") == 1 and store.get("b/1") == b"2"
    assert store.purge("a/") == 5
    assert versions() == ["p/b/1"] and store.purge("a/") == 0


def test_uploads_that_were_never_finished_are_swept(s3_server):
    bucket = s3_server.new_bucket()
    store = S3Store(f"s3://{bucket}/p", S3Settings())
    begun = s3_server.client.create_multipart_upload(Bucket=bucket, Key="p/tables/x")
    s3_server.client.upload_part(
        Bucket=bucket, Key="p/tables/x", UploadId=begun["UploadId"], PartNumber=1, Body=b"half"
    )
    # The server says of every upload that it began in 2010.
    assert store.sweep_unfinished(100 * 365 * 86_400, delete=True) == (0, 0)
    assert store.sweep_unfinished(3600, delete=False) == (1, 4)
    assert store.sweep_unfinished(3600, delete=True) == (1, 4)
    assert not s3_server.client.list_multipart_uploads(Bucket=bucket).get("Uploads")
