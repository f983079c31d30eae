"""One address, two readers: boto3's keys and the tables' library mean the same place, or the address is refused."""

from __future__ import annotations

import pytest

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError, StoreError
from faceid_core.run.store_access import open_existing, open_or_create
from faceid_core.store import initialize, open_store
from faceid_core.store.layout import CATALOG
from faceid_core.store.s3 import S3Settings, S3Store
from faceid_core.store.s3_address import S3Address
from faceid_core.store.secret import IdentitySecret
from faceid_core.tables import Tables
from faceid_core.tables.storage import storage_options
from faceid_core.tables.write import DeltaPlace
from faceid_core.upkeep.gc import collect
from faceid_core.upkeep.tables import erase_rows
from faceid_core.upkeep.verify import MISPLACED, verify
from tests.helpers.honest_s3 import MotoServer
from tests.helpers.table_rows import run as table_rows

STRANGE = [
    "n b",
    "größe",
    "e\u0301",
    "日本",
    "a+b&c=d",
    "[a]{b}|c^d",
    'q"<x>`',
    "a\\b",
    "100%",
    "..b",
    "a;b,c@d$!*'()",
]
UNFIT = ["n%20b", "n%41b", "a%2Fb", "n//b", "x/./p", "x/../p", "x" * 800]


def keys_of(s3_server, bucket):
    return [row["Key"] for row in s3_server.client.list_objects_v2(Bucket=bucket).get("Contents", ())]


def config_of(url, **s3):
    return NightlyConfig(store=url, s3=s3)


@pytest.mark.parametrize("prefix", STRANGE)
def test_what_the_tables_library_writes_lies_below_the_stores_own_keys(s3_server, prefix):
    bucket = s3_server.new_bucket()
    store = open_store(f"s3://{bucket}/{prefix}")
    initialize(store, IdentitySecret.load(store.url))
    DeltaPlace(store).probe("runs")
    keys = keys_of(s3_server, bucket)
    assert len(keys) == 2 and all(key.startswith(f"{prefix}/") for key in keys), keys
    assert S3Address.parse(store.url) == store.address


@pytest.mark.parametrize("prefix", UNFIT)
def test_a_night_refuses_an_address_whose_tables_would_land_elsewhere(s3_server, prefix):
    bucket = s3_server.new_bucket()
    for dry in (True, False):
        with pytest.raises(ConfigurationError, match=r"no run can run here.*Choose another prefix"):
            open_or_create(config_of(f"s3://{bucket}/{prefix}"), read_only=dry)
    assert keys_of(s3_server, bucket) == []


@pytest.mark.parametrize(
    "address",
    ["s3://", "s3:///p", "s3://b/a#b", "s3://b/a?b", "s3://b/a\nb", "s3://b/a\tb", "s3://b/\x7f", "s3://b/\udc80",
     "s3://user:word@b/p", "s3://bücket/p", "s3://b c/p", "S3://b/p", "s3a://b/p", "s3n://b/p", "s3:/b/p", "s3:b/p"],
)  # fmt: skip
def test_what_is_no_address_of_a_bucket_is_refused_and_no_folder(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="s3://"):
        open_store(address)


@pytest.mark.parametrize("spelled", ["p/", "p//", "/p", "//p/"])
def test_slashes_at_the_ends_are_one_and_the_same_address(spelled):
    assert S3Address.parse(f"s3://bucket/{spelled}") == S3Address("bucket", "p")


def of_earlier_days(s3_server, prefix, monkeypatch):
    """A store as earlier versions made it: objects below the address as typed, tables where the library decoded it to."""
    store = open_store(f"s3://{s3_server.new_bucket()}/{prefix}")
    initialize(store, IdentitySecret.load(store.url))
    with monkeypatch.context() as patch:
        patch.setattr("faceid_core.tables.write.store_of_tables", lambda store: store)
        patch.setattr(S3Address, "encoded", S3Address.url)
        # Earlier versions did not look for the files that they had written.
        patch.setattr(DeltaPlace, "_standing", lambda place, name, _: place.open(name))
        rows = outcomes("r1", 1)
        Tables(store).publish("r1", rows)
    return store, rows


def outcomes(run_id, day):
    """Rows of the two tables that every run has: five tables take a minute on this server."""
    return {
        name: rows for name, rows in table_rows(run_id, day).items() if name in ("runs", "identity_outcomes")
    }


@pytest.fixture
def few_tables(request, monkeypatch):
    """Two tables in place of five: each costs a dozen requests, and none of them is special here."""
    if request.param == "two":
        # `remains` first: imported later, it would keep the short list for other tests.
        for module in ("upkeep.remains", "upkeep.tables", "tables.catalog", "tables.query"):
            monkeypatch.setattr(f"faceid_core.{module}.NAMES", ("runs", "identity_outcomes"))
        for module in ("upkeep.remains", "upkeep.tables"):
            monkeypatch.setattr(f"faceid_core.{module}.HOLD_PEOPLE", ("identity_outcomes",))


@pytest.mark.parametrize(
    ("prefix", "few_tables"),
    [
        ("n%20b", "two"),
        pytest.param("n%20b", "all", marks=pytest.mark.exhaustive),
        pytest.param("x/./p", "all", marks=pytest.mark.exhaustive),
    ],
    indirect=["few_tables"],
)
@pytest.mark.usefixtures("few_tables")
def test_rows_that_an_earlier_address_misplaced_are_read_found_and_erased(s3_server, prefix, monkeypatch):
    store, rows = of_earlier_days(s3_server, prefix, monkeypatch)
    twin = {"n%20b": "n b", "x/./p": "x/p"}[prefix]
    key = rows["identity_outcomes"]["identity_key"][0].as_py()
    inside = [name for name in keys_of(s3_server, store.bucket) if name.startswith(f"{twin}/tables/")]
    assert inside and not any(True for _ in store.list("tables/"))
    assert open_existing(config_of(store.url)).url == store.url
    assert key in Tables(store).read("identity_outcomes")["identity_key"].to_pylist()
    found = [finding for finding in verify(store).findings if finding.kind == MISPLACED]
    assert len(found) == 1 and f"{twin}/tables" in found[0].detail
    collect(store, 0.0)
    moved = copied(s3_server.client, store, twin)
    assert verify(moved).findings == [] and Tables(moved).read("runs").equals(Tables(store).read("runs"))
    moved.purge("")
    removed = erase_rows(store, key, (), unnamed_age=0.0)
    assert removed["identity_outcomes"] == 1
    assert key not in Tables(store).read("identity_outcomes")["identity_key"].to_pylist()
    assert Tables(store).read("runs").num_rows == 1
    for name in keys_of(s3_server, store.bucket):
        body = s3_server.client.get_object(Bucket=store.bucket, Key=name)["Body"].read()
        assert key.encode() not in body, name


def copied(client, store, twin):
    """The store at a new prefix, as the documentation says to move it."""
    moved = open_store(f"s3://{store.bucket}/moved")
    for start, end in ((store.address.start, "moved/"), (f"{twin}/tables/", "moved/tables/")):
        for row in client.list_objects_v2(Bucket=store.bucket, Prefix=start)["Contents"]:
            client.copy_object(
                Bucket=store.bucket,
                Key=end + row["Key"].removeprefix(start),
                CopySource={"Bucket": store.bucket, "Key": row["Key"]},
            )
    return moved


@pytest.mark.exhaustive
def test_a_store_that_shares_its_tables_with_its_twin_leaves_both_readable(s3_server, monkeypatch):
    store, rows = of_earlier_days(s3_server, "n%20b", monkeypatch)
    other = open_store(f"s3://{store.bucket}/n b")
    Tables(other).publish("r2", outcomes("r2", 2))
    key = rows["identity_outcomes"]["identity_key"][0].as_py()
    erase_rows(store, key, (), unnamed_age=None)
    for each in (store, other):
        assert key not in Tables(each).read("identity_outcomes")["identity_key"].to_pylist()
        assert Tables(each).read("runs").num_rows == 2


def test_a_store_with_an_empty_part_has_no_tables_and_can_be_looked_after(s3_server):
    store = open_store(f"s3://{s3_server.new_bucket()}/n//b")
    initialize(store, IdentitySecret.load(store.url))
    assert erase_rows(store, "ab" * 16, (), unnamed_age=0.0) == {}
    assert Tables(store).read("runs").num_rows == 0 and collect(store, 0.0).objects == 0
    with pytest.raises(StoreError, match="plain prefix"):
        Tables(store).publish("r1", table_rows("r1", 1))


@pytest.fixture(scope="module")
def elsewhere(quiet_environment):
    """A second server, which no variable of the environment names."""
    server = MotoServer()
    yield server
    server.close()


def of_file(monkeypatch, tmp_path, text):
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "aws").write_text(text)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))


def new_bucket(server):
    import boto3

    client = boto3.client("s3", endpoint_url=server.endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="second")
    return client


@pytest.mark.parametrize("where", ["global", "service"])
def test_an_endpoint_of_the_aws_configuration_file_counts_for_objects_and_tables(
    s3_server, elsewhere, monkeypatch, tmp_path, where
):
    client = new_bucket(elsewhere)
    line = {
        "global": f"[default]\nregion = us-east-1\nendpoint_url = {elsewhere.endpoint}\n",
        "service": "[default]\nregion = us-east-1\nservices = own\n"
        f"[services own]\ns3 =\n  endpoint_url = {elsewhere.endpoint}\n",
    }[where]
    of_file(monkeypatch, tmp_path, line)
    store, _ = open_or_create(config_of(f"s3://second/{where}"))
    names = [row["Key"] for row in client.list_objects_v2(Bucket="second", Prefix=where)["Contents"]]
    assert f"{where}/store.json" in names and any("/tables/runs/" in name for name in names)
    assert store.reached().endpoint == elsewhere.endpoint and not store.on_aws and store.reached().by_path


def test_the_configured_endpoint_wins_over_the_variable_that_the_tables_library_prefers(
    s3_server, elsewhere, monkeypatch
):
    new_bucket(elsewhere)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint)
    open_or_create(config_of("s3://second/third", endpoint_url=elsewhere.endpoint))


def test_addressing_region_and_host_are_those_of_the_last_request(s3_server, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    for url, settings, wanted in [
        ("s3://bkt/p", S3Settings(region="eu-west-1"), ("https://bkt.s3.eu-west-1.amazonaws.com", "false")),
        ("s3://my.bkt/p", S3Settings(region="eu-west-1"), ("https://s3.eu-west-1.amazonaws.com", "false")),
        ("s3://bkt/p", S3Settings("http://s3.local/x", "eu-west-1"), ("http://s3.local/x", "true")),
        ("s3://bkt/p", S3Settings("http://s3.local", path_style=False), ("http://bkt.s3.local", "true")),
    ]:
        store = S3Store(url, settings)

        def answer(request, **_):
            raise ValueError("no request leaves a test")

        store._client.meta.events.register("before-send.s3", answer)
        with pytest.raises(ValueError, match="no request"):
            store.head("x")
        options = storage_options(store)
        assert (options["aws_endpoint"], options["allow_http"]) == wanted
        assert options["aws_endpoint_url_s3"] == options["aws_endpoint"]
        by_host = options["aws_endpoint"].split("//")[1].startswith("bkt.")
        assert options["aws_virtual_hosted_style_request"] == str(by_host).lower()


def test_a_token_that_belongs_to_other_credentials_is_told(s3_store, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = S3Store(s3_store.url)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "stale")
    store._last = (f"{s3_store._client.meta.endpoint_url}/{s3_store.bucket}", "us-east-1")
    with pytest.raises(ConfigurationError, match="AWS_SESSION_TOKEN"):
        storage_options(store)


def test_a_probe_that_the_store_does_not_see_is_refused(s3_store, monkeypatch):
    """As behind a proxy that sends the two libraries to different places."""
    monkeypatch.setattr(
        "faceid_core.tables.write.table_address", lambda store, folder: f"s3://{store.bucket}/other/{folder}"
    )
    with pytest.raises(ConfigurationError, match="the store does not list"):
        DeltaPlace(s3_store).probe("runs")


def test_only_what_a_night_has_to_write_is_written_at_the_opening(s3_server):
    bucket = s3_server.new_bucket()
    config = config_of(f"s3://{bucket}/p")
    open_or_create(config, read_only=True)
    assert keys_of(s3_server, bucket) == []
    open_or_create(config)
    before = keys_of(s3_server, bucket)
    assert before == ["p/store.json", "p/tables/runs/v2/_delta_log/00000000000000000000.json"]
    asked = []
    looked_at = open_existing(config)
    looked_at._client.meta.events.register(
        "before-send.s3", lambda request, **_: asked.append(request.method)
    )
    verify(looked_at)
    collect(looked_at, 0.0)
    Tables(looked_at).read("runs")
    assert asked and set(asked) <= {"GET", "HEAD"}
    open_or_create(config)
    assert keys_of(s3_server, bucket) == before and CATALOG not in str(before)
