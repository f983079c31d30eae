"""What only S3 can do to a store: replies that get lost, conflicts to retry, pages, refusals."""

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from faceid_core.errors import Conflict, StoreError
from faceid_core.store import open_store
from faceid_core.store.s3 import S3Settings, S3Store


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
