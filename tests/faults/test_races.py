"""Races: for one object, of whole runs for one store; on a folder, and on an S3 whose conditions are atomic."""

from __future__ import annotations

import base64
import hashlib
import io
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import boto3
import pytest
from botocore.exceptions import ClientError

from faceid_core.errors import Conflict
from faceid_core.stages.leases import SHARED_STAGES
from faceid_core.store import open_store
from faceid_core.upkeep.scopes import all_scopes
from tests.helpers.aftermath import compare_with, nothing_is_left_over
from tests.helpers.fault_counts import FaultRecord
from tests.helpers.honest_s3 import HonestS3, MotoServer
from tests.helpers.killed import night_in_a_child

RACERS = 6
FEW, MANY = 25, 1000


@pytest.fixture(scope="module")
def honest_s3():
    """The server; this process and its children find it through the environment."""
    server = MotoServer()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        yield server
    server.close()


@pytest.fixture(params=["folder", "s3"])
def address(request, tmp_path) -> str:
    """Of a new store of each kind."""
    if request.param == "folder":
        return str(tmp_path / "store")
    request.getfixturevalue("honest_s3")
    bucket = f"faceid-{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/nights"


def winners(address: str, rounds: int) -> Counter:
    """How many racers won, over so many rounds of `put_if_absent` and as many of `replace_if_match`."""
    stores = [open_store(address) for _ in range(RACERS)]
    found: Counter = Counter()
    start = Barrier(RACERS)

    def create(racer: int, name: str) -> bool:
        start.wait()
        return stores[racer].put_if_absent(name, b"%d" % racer)

    def swap(racer: int, name: str, etag: str) -> bool:
        start.wait()
        try:
            stores[racer].replace_if_match(name, b"then %d" % racer, etag)
            return True
        except Conflict:
            return False

    with ThreadPoolExecutor(RACERS) as pool:
        for number in range(rounds):
            name = f"race/{number}"
            won = list(pool.map(create, range(RACERS), [name] * RACERS))
            data, etag = stores[0].get_with_etag(name)
            assert won.count(True) != 1 or data == b"%d" % won.index(True), "the winner's bytes stand there"
            found["create", won.count(True)] += 1
            won = list(pool.map(swap, range(RACERS), [name] * RACERS, [etag] * RACERS))
            found["swap", won.count(True)] += 1
    return found


def test_one_of_six_wins_each_race(address):
    assert winners(address, FEW) == {("create", 1): FEW, ("swap", 1): FEW}


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_one_of_six_wins_each_of_a_thousand_races(address):
    record = FaultRecord("races-for-an-object")
    point = "s3" if address.startswith("s3://") else "folder"
    if record.left(["folder", "s3"]).count(point):
        assert winners(address, MANY) == {("create", 1): MANY, ("swap", 1): MANY}
        record.add(point, runs=2 * MANY, compared=2 * MANY * RACERS)


def test_a_server_whose_look_and_write_are_two_steps_has_two_winners_without_the_wrapper():
    """What the wrapper is for: it makes a server atomic that is not."""

    def run(wrap) -> int:
        there: set[str] = set()
        together = Barrier(2)

        def careless(environ, start_response):
            exists = environ["PATH_INFO"] in there
            try:
                together.wait(0.5)
            except Exception:  # alone: the other one waits for its turn
                together.reset()
            there.add(environ["PATH_INFO"])
            start_response("412 Precondition Failed" if exists else "200 OK", [])
            return [b""]

        application, answers = wrap(careless), []
        environ = {"REQUEST_METHOD": "PUT", "PATH_INFO": "/b/x", "HTTP_IF_NONE_MATCH": "*"}

        def put(_):
            body = io.BytesIO()
            application({**environ, "wsgi.input": body}, lambda status, headers: answers.append(status))

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(put, range(2)))
        return answers.count("200 OK")

    assert (run(lambda application: application), run(HonestS3)) == (2, 1)


def test_an_object_that_is_not_what_its_checksum_says_is_refused(honest_s3):
    client = boto3.client("s3")
    client.create_bucket(Bucket="checked")
    for algorithm, wrong in (
        ("ChecksumSHA256", base64.b64encode(hashlib.sha256(b"other").digest()).decode()),
        ("ChecksumCRC32", base64.b64encode(b"1234").decode()),
        ("ContentMD5", base64.b64encode(hashlib.md5(b"other").digest()).decode()),
    ):
        with pytest.raises(ClientError, match="BadDigest"):
            client.put_object(Bucket="checked", Key="x", Body=b"these bytes", **{algorithm: wrong})
    assert "Contents" not in client.list_objects_v2(Bucket="checked")
    digest = base64.b64encode(hashlib.sha256(b"these bytes").digest()).decode()
    client.put_object(Bucket="checked", Key="x", Body=b"these bytes", ChecksumSHA256=digest)
    assert client.get_object(Bucket="checked", Key="x")["Body"].read() == b"these bytes"


def race(night_on, undisturbed: dict, address: str, on_busy: str, racers: int) -> int:
    """So many runs at once on one new store; each ends as one alone does, and nothing is left over."""
    config = night_on(address, people=2, run={"on_busy": on_busy})
    with ThreadPoolExecutor(racers) as pool:
        runs = list(pool.map(lambda _: night_in_a_child(config), range(racers)))
    compared = sum(
        compare_with(undisturbed, run, f"night {number} of {racers} ({on_busy})")
        for number, run in enumerate(runs)
    )
    nothing_is_left_over(config, on_busy)
    made = Counter(stage for scope in all_scopes(open_store(address)) for stage, _ in scope.manifests)
    for stage in SHARED_STAGES if on_busy == "share" else made:
        computed = sum(run.report["computed"].get(stage, 0) for run in runs)
        assert computed == made[stage], f"{stage} was computed {computed} times for {made[stage]} results"
    return compared


def test_two_nights_race_for_one_store(night_on, undisturbed_pair, tmp_path):
    race(night_on, undisturbed_pair, str(tmp_path / "store"), "share", 2)


@pytest.mark.exhaustive
@pytest.mark.parametrize("on_busy", ["share", "wait"])
def test_six_nights_race_for_one_store(night_on, undisturbed_pair, address, on_busy):
    record = FaultRecord("six-nights-at-once")
    kind = "s3" if address.startswith("s3://") else "folder"
    record.left([f"{kind} {how}" for kind in ("folder", "s3") for how in ("share", "wait")])
    record.add(
        f"{kind} {on_busy}", runs=RACERS, compared=race(night_on, undisturbed_pair, address, on_busy, RACERS)
    )
