"""A store that refuses us, asks to slow down, or is none: what is said, which setting it names, and when."""

from __future__ import annotations

import datetime as dt
import logging
import socket
from email.utils import format_datetime

import pytest
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from faceid_core.config import NightlyConfig
from faceid_core.doctor.storage import examine_tables
from faceid_core.errors import ConfigurationError, StoreError, StoreRefused
from faceid_core.nightly import drive_inline
from faceid_core.run.open import open_run
from faceid_core.run.reporter import LogReporter
from faceid_core.run.store_access import open_existing, open_or_create
from faceid_core.store import initialize, open_store
from faceid_core.store.s3 import S3Settings, S3Store
from faceid_core.store.s3_advice import ADVICE, advise, advise_words
from faceid_core.store.secret import IdentitySecret
from faceid_core.tables.write import DeltaPlace
from faceid_core.weights.download import download
from flows.cli import main
from tests.end_to_end.conftest import people, small  # noqa: F401 - fixtures
from tests.helpers.honest_s3 import HonestS3, MotoServer
from tests.helpers.troubled_s3 import PAGE, TroubledS3, every_other, lists, writes

TOLD = {
    "AccessDenied": "allow GetObject",
    "InvalidAccessKeyId": "AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "s3.path_style",
    "InvalidToken": "AWS_PROFILE",
    "ExpiredToken": "expired",
    "TokenRefreshRequired": "expired",
    "RequestTimeTooSkewed": "clock",
    "NotImplemented": "s3.checksums: none",
    "InvalidRequest": "s3.checksums",
    "PermanentRedirect": "s3.region",
    "AuthorizationHeaderMalformed": "s3.region",
    "NoSuchBucket": "create the bucket",
    "MethodNotAllowed": "s3.endpoint_url",
    "KMS.DisabledException": "s3.kms_key",
}


@pytest.fixture(scope="module")
def server(quiet_environment):
    found = MotoServer(lambda application: TroubledS3(HonestS3(application)))
    yield found
    found.close()


@pytest.fixture
def troubled(server, monkeypatch):
    """The trouble, which is none until its `code` is set, and the address of a store that is there."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    trouble = server.application
    trouble.code, trouble.inside, trouble.headers = "", "", ()
    trouble.wanted = lambda environ: True
    store = S3Store("s3://faces/p")
    store._client.create_bucket(Bucket="faces")
    for info in list(store.list("")):
        store.delete(info.name)
    initialize(store, IdentitySecret.load(store.url))
    trouble.url = store.url
    trouble.seen.clear()
    return trouble


@pytest.mark.parametrize("code", sorted(TOLD))
def test_each_refusal_names_the_setting_whatever_was_asked(troubled, code, monkeypatch):
    monkeypatch.setattr("faceid_core.tables.write._RETRIES", {"max_retries": "1"})  # 501 is tried again, too
    store, tables = S3Store(troubled.url), DeltaPlace(S3Store(troubled.url))
    tables._store.head("x")
    troubled.code = code
    uses = {
        "head": lambda: store.head("store.json"),
        "get": lambda: store.get("store.json"),
        "put": lambda: store.put_if_absent("x", b"1"),
        "replace": lambda: store.replace_if_match("x", b"1", None),
        "list": lambda: list(store.list("")),
        "tables": lambda: tables.open("runs"),
    }
    if code != "NoSuchBucket":  # a HEAD of any name and a deletion say 404 then, as for a missing object
        uses["delete"] = lambda: store.delete("x")
    else:
        del uses["head"]
    for use, call in uses.items():
        with pytest.raises(StoreRefused) as told:
            call()
        assert TOLD[code] in str(told.value), use
        assert "s3://faces/p" in str(told.value), use


def test_an_answer_to_head_is_asked_for_its_reason_once_and_only_then(troubled):
    store = S3Store(troubled.url)
    assert store.head("store.json").size > 0 and store.head("absent") is None
    assert troubled.seen == {"HEAD": 2}
    troubled.code = "ExpiredToken"
    with pytest.raises(StoreRefused, match=r"\(ExpiredToken\).*As told.*renew"):
        store.head("store.json")


def test_the_region_and_endpoint_that_a_redirect_names_are_told(troubled):
    troubled.code, troubled.inside = (
        "PermanentRedirect",
        "<Endpoint>faces.s3.eu-west-3.amazonaws.com</Endpoint>",
    )
    with pytest.raises(StoreRefused, match=r"s3\.region.*the answer names faces\.s3\.eu-west-3"):
        S3Store(troubled.url).get("store.json")
    troubled.code, troubled.inside = "AuthorizationHeaderMalformed", "<Region>eu-west-3</Region>"
    # boto3 signs for the region that is named and asks again: only a service that still refuses is told of.
    with pytest.raises(StoreRefused, match=r"\(AWS_REGION\) to eu-west-3"):
        S3Store(troubled.url).get("store.json")
    troubled.code, troubled.inside = "301", ""
    troubled.headers = (("Location", "https://faces.example/"),)
    with pytest.raises(StoreRefused, match=r"s3\.endpoint_url; the answer names https://faces\.example/"):
        list(S3Store(troubled.url).list(""))
    troubled.headers = ()


@pytest.mark.parametrize(
    ("hours", "wanted"), [(1, "60 min behind the service's"), (-1, "60 min ahead of the service's")]
)
def test_a_clock_that_is_wrong_is_told_with_the_difference(hours, wanted):
    then = dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours)
    answer = {
        "Error": {"Code": "RequestTimeTooSkewed"},
        "ResponseMetadata": {"HTTPHeaders": {"date": format_datetime(then, usegmt=True)}},
    }
    assert wanted in advise(boto.ClientError(answer, "GetObject")).text


@pytest.mark.parametrize("code", sorted(ADVICE))
def test_every_code_has_advice_for_both_libraries(code):
    error = boto.ClientError({"Error": {"Code": code}}, "GetObject")
    assert advise(error) == ADVICE[code] == advise_words(f"400 <Error><Code>{code}</Code></Error>")
    assert len(ADVICE[code].text) > 20


@pytest.mark.parametrize(
    ("error", "wanted", "refused"),
    [
        (boto.NoCredentialsError(), "AWS_ACCESS_KEY_ID", True),
        (boto.PartialCredentialsError(provider="env", cred_var="x"), "credentials", True),
        (boto.CredentialRetrievalError(provider="x", error_msg="y"), "credentials", True),
        (boto.TokenRetrievalError(provider="sso", error_msg="y"), "aws sso login", True),
        (boto.SSOTokenLoadError(error_msg="y"), "aws sso login", True),
        (boto.ProfileNotFound(profile="x"), "AWS_PROFILE", True),
        (boto.NoRegionError(), "s3.region", True),
        (boto.SSLError(endpoint_url="https://x", error="CERTIFICATE_VERIFY_FAILED"), "AWS_CA_BUNDLE", True),
        (boto.ProxyConnectionError(proxy_url="http://p:1"), "NO_PROXY", False),
        (boto.EndpointConnectionError(endpoint_url="http://x", error="Connection refused"), "nothing answers", False),
        (boto.EndpointConnectionError(endpoint_url="http://x", error="Name or service not known"), "no host", False),
        (boto.ConnectTimeoutError(endpoint_url="http://x"), "check the endpoint", False),
        (ResponseParserError("no XML"), "does not speak S3", True),
    ],
)  # fmt: skip
def test_what_the_network_or_boto3_says_names_the_setting_too(error, wanted, refused):
    assert wanted in advise(error).text and advise(error).refused is refused


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("Received redirect without LOCATION, this normally indicates an incorrectly configured region", "s3.region"),
        ("client error (Connect) dns error failed to lookup address information", "no host"),
        ("tcp connect error Connection refused (os error 111)", "nothing answers"),
        ("invalid peer certificate: UnknownIssuer", "SSL_CERT_FILE"),
        ("Unable to extract metadata from headers: ETag Header missing from response", "does not speak S3"),
        ("The operation lacked the necessary privileges - 403 Forbidden", "allow GetObject"),
    ],
)  # fmt: skip
def test_what_the_tables_library_says_in_words_names_the_setting_too(words, wanted):
    assert wanted in advise_words(words).text


@pytest.mark.parametrize(
    "code", ["AccessDenied", "InvalidAccessKeyId", "ExpiredToken", "NoSuchBucket", "page"]
)
def test_what_the_store_refuses_at_the_opening_is_configuration(troubled, code, tmp_path):
    config = NightlyConfig(store=troubled.url)
    troubled.code = code
    for dry in (True, False):
        with pytest.raises(ConfigurationError):
            open_or_create(config, read_only=dry)
    with pytest.raises(ConfigurationError):
        open_existing(config)
    with pytest.raises(ConfigurationError):
        download("s3://faces/weights/x.bin", tmp_path / "x.bin")


def test_only_writes_denied_is_found_at_the_opening(troubled):
    troubled.code, troubled.wanted = "AccessDenied", writes
    with pytest.raises(ConfigurationError, match="PutObject"):
        open_or_create(NightlyConfig(store=troubled.url))
    open_existing(NightlyConfig(store=troubled.url))
    assert troubled.seen["PUT"] == troubled.seen["refused"] == 1


def test_the_command_ends_with_the_status_of_configuration_and_writes_nothing(troubled, monkeypatch, capsys):
    troubled.code = "InvalidAccessKeyId"
    for command in (["status"], ["query", "select 1"], ["verify"], ["gc", "--delete"]):
        monkeypatch.setattr("sys.argv", ["faceid", *command, "--store", troubled.url])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 3
        assert "check the credentials" in capsys.readouterr().err
    assert not troubled.seen["PUT"] and not troubled.seen["POST"] and not troubled.seen["DELETE"]


def test_people_whose_photos_may_not_be_read_are_no_rejected_people(troubled, tmp_path):
    (tmp_path / "identities.csv").write_text(
        "identity_id,photo,class_word\nann,s3://faces/photos/a.png,person\nbob,s3://faces/photos/b.png,person\n"
    )
    config = NightlyConfig(store=str(tmp_path / "store"), identities=str(tmp_path / "identities.csv"))
    troubled.code = "AccessDenied"
    with pytest.raises(
        ConfigurationError, match=r"none of the manifest's 2 photos may be read.*allow GetObject"
    ):
        open_run(config, LogReporter())


@pytest.mark.parametrize("use", ["put", "replace", "get", "head", "list", "delete", "purge", "sweep", "file"])
def test_a_web_page_with_status_200_is_believed_by_no_call(troubled, use, tmp_path):
    store = S3Store(troubled.url)
    (tmp_path / "file").write_bytes(b"1")
    troubled.code = "page"
    call = {
        "put": lambda: store.put_if_absent("x", b"1"),
        "replace": lambda: store.replace_if_match("x", b"1", None),
        "get": lambda: store.get("store.json"),
        "head": lambda: store.head("store.json"),
        "list": lambda: list(store.list("")),
        "delete": lambda: store.delete("x"),
        "purge": lambda: store.purge(""),
        "sweep": lambda: store.sweep_unfinished(1.0, delete=False),
        "file": lambda: store.put_file("x", str(tmp_path / "file")),
    }[use]
    with pytest.raises(StoreRefused, match=r"does not speak S3.*s3\.endpoint_url"):
        call()


@pytest.mark.parametrize("kept", [PAGE, b""])
def test_a_page_with_an_etag_is_no_object_of_ours_and_a_page_of_ours_is_none_of_theirs(troubled, kept):
    """A web server gives its start page for every name, with an ETag."""
    store = S3Store(troubled.url)
    store._client.put_object(Bucket="faces", Key="p/a.json", Body=kept, ContentType="text/html")
    store.put_if_absent("runs/r/index.html", PAGE)
    assert store.get("runs/r/index.html") == PAGE
    if kept:
        with pytest.raises(StoreRefused, match="web page"):
            store.get("a.json")
    else:
        assert store.get("a.json") == b""


def test_the_first_write_of_a_store_is_read_again(any_store, monkeypatch):
    """As where a proxy answers for the store: success with an ETag, and nothing kept."""
    secret = IdentitySecret.load(any_store.url)
    monkeypatch.setattr(type(any_store), "put_if_absent", lambda self, name, data: True)
    with pytest.raises(StoreError, match="keeps nothing"):
        initialize(any_store, secret)


def test_a_store_that_asks_half_of_the_requests_to_slow_down_loses_none(troubled, monkeypatch, caplog):
    monkeypatch.setattr("faceid_core.store.s3_patience._FIRST_PAUSE_SECONDS", 0.0005)
    store = S3Store(troubled.url)
    troubled.code, troubled.wanted = "SlowDown", every_other(7)
    with caplog.at_level(logging.WARNING, logger="faceid"):
        for number in range(40):
            assert store.put_if_absent(f"n/{number:02}", b"%d" % number)
            assert store.head(f"n/{number:02}").size and store.get(f"n/{number:02}") == b"%d" % number
        assert len(list(store.list("n/"))) == 40
        DeltaPlace(store).probe("runs")
        assert store.purge("n/") == 40
    assert troubled.seen["refused"] > 100
    said = [record.getMessage() for record in caplog.records if "slow down" in record.getMessage()]
    assert len(said) == 1 and "SlowDown" in said[0] and store.url in said[0]


def test_a_store_that_never_stops_asking_to_slow_down_is_told_in_the_end(troubled, monkeypatch):
    monkeypatch.setattr("faceid_core.store.s3_patience._LONGEST_PAUSE_SECONDS", 0.001)
    troubled.code = "SlowDown"
    with pytest.raises(StoreError, match="asks to slow down: lower the number of workers") as told:
        S3Store(troubled.url).get("store.json")
    assert not isinstance(told.value, StoreRefused) and troubled.seen["GET"] == 24


@pytest.mark.exhaustive
def test_a_night_finishes_on_a_store_that_asks_half_of_the_requests_to_slow_down(small, people, troubled):  # noqa: F811
    troubled.code, troubled.wanted = "SlowDown", every_other(11)
    began = dt.datetime.now()
    run = open_run(small(troubled.url, people), LogReporter())
    assert drive_inline(run).exit_status == 0, dt.datetime.now() - began
    assert {outcome_report.outcome.value for outcome_report in run.outcome_reports.values()} == {"done"}
    assert troubled.seen["refused"] > 200


def test_an_endpoint_without_a_server_is_told_by_name(quiet_environment, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed_port = f"http://127.0.0.1:{free.getsockname()[1]}"
    for endpoint, wanted in (
        (closed_port, "nothing answers there"),
        ("http://no.such.host.invalid", "no host of that name"),
    ):
        store = S3Store("s3://faces/p", S3Settings(endpoint, "us-east-1", attempts=1))
        with pytest.raises(StoreError, match=wanted) as told:
            store.head("x")
        assert not isinstance(told.value, StoreRefused)


def test_the_doctor_tries_the_tables_library_and_leaves_nothing(any_store, troubled):
    assert examine_tables(any_store).state == "ok"
    assert list(any_store.list("")) == []


def test_the_doctor_names_what_the_tables_library_is_refused(troubled):
    store = open_store(troubled.url)
    store.head("x")
    troubled.code = "AccessDenied"
    troubled.wanted = lambda environ: "_delta_log" in environ["PATH_INFO"]
    found = examine_tables(store)
    assert (found.state, found.check) == ("fail", "store: tables") and "allow GetObject" in found.advice


def test_listings_that_are_denied_alone_are_found_at_the_opening(troubled):
    troubled.code, troubled.wanted = "AccessDenied", lists
    with pytest.raises(ConfigurationError, match="ListBucket"):
        open_or_create(NightlyConfig(store=troubled.url))


def test_without_credentials_nothing_is_asked_for_minutes(troubled, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigurationError, match="there are no credentials here"):
        open_or_create(NightlyConfig(store=troubled.url))
    monkeypatch.setenv("AWS_PROFILE", "unknown")
    with pytest.raises(ConfigurationError, match="AWS_PROFILE names a profile"):
        open_store(troubled.url)
    assert not troubled.seen["refused"]
