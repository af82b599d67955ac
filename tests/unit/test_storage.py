"""The bucket: keys, retries, conditions, lost answers."""

from __future__ import annotations

import threading
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from fraud.errors import DataError, PlatformError
from fraud.pipeline.storage import Storage, join, parse_uri

BUCKET = "loop"


class FaultyS3:
    """An S3 client that fails on request: before the call, or after it, when only the answer is lost.

    ``faults`` is a list of ``(operation, kind)``; kind is ``before``, ``after``, or an S3 error code.
    """

    def __init__(self, client: Any, faults: list[tuple[str, str]]) -> None:
        self.client, self.faults, self.calls = client, faults, []

    def __getattr__(self, operation: str) -> Any:
        def call(**given: Any) -> Any:
            self.calls.append((operation, given))
            fault = self.faults.pop(0)[1] if self.faults and self.faults[0][0] == operation else ""
            if fault == "before":
                raise ConnectionClosedError(endpoint_url="https://s3")
            if fault and fault != "after":
                raise ClientError({"Error": {"Code": fault}}, operation)
            answer = getattr(self.client, operation)(**given)
            if fault == "after":
                raise ConnectionClosedError(endpoint_url="https://s3")
            return answer

        return call


@pytest.fixture
def client(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        made = boto3.client("s3", region_name="eu-west-1")
        made.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        yield made


def faulty(client, *faults):
    return Storage(BUCKET, FaultyS3(client, list(faults)), wait=0)


parts = st.lists(st.text(st.sampled_from("ab/._-"), max_size=6), min_size=1, max_size=5)


@given(parts)
def test_a_key_never_holds_a_double_slash(pieces):
    key = join(*pieces)
    assert "//" not in key and not key.startswith("/")
    assert join(key) == key
    assert parse_uri(f"s3://{BUCKET}/{'/'.join(pieces)}")[1] == join("/".join(pieces))


@pytest.mark.parametrize("text", ["http://loop/a", "s3:/loop/a", "s3://", "s3://L/a", "loop/a", "s3://a b/c"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(DataError, match="s3://bucket/key"):
        parse_uri(text)


def test_the_owner_is_named_in_every_call(client):
    faults = FaultyS3(client, [])
    storage = Storage(BUCKET, faults, owner="123456789012")
    item = None
    storage.put("a/b", b"1")
    storage.put_once("a/c", b"1")
    storage.put_if_match("a/b", b"2", storage.head("a/b").etag)
    storage.get("a/b"), storage.exists("a/b"), storage.folders("a"), storage.read_json("a/b")
    item = next(storage.list("a/"))
    storage.delete(item.key)
    assert len(faults.calls) >= 9
    assert {given.get("ExpectedBucketOwner") for _, given in faults.calls} == {"123456789012"}


def test_the_owner_is_found_in_the_role(client, monkeypatch):
    monkeypatch.setenv("FRAUD_TRAIN_ROLE_ARN", "arn:aws:iam::210987654321:role/train")
    assert Storage(BUCKET, client).owner == "210987654321"
    monkeypatch.delenv("FRAUD_TRAIN_ROLE_ARN")
    assert Storage(BUCKET, client).owner == ""


@pytest.mark.parametrize("fault", ["before", "after", "SlowDown", "ConditionalRequestConflict", "409", "503"])
@pytest.mark.parametrize("write", ["put", "put_once", "put_if_match"])
def test_a_write_is_repeated_until_it_has_an_answer(client, fault, write):
    storage = faulty(client, ("put_object", fault), ("put_object", fault))
    if write == "put":
        assert storage.put("k", b"mine")
    elif write == "put_once":
        assert storage.put_once("k", b"mine") is True
    else:
        assert storage.put_if_match("k", b"mine", "") == storage.head("k").etag
    assert storage.get("k") == b"mine"
    assert [item.key for item in storage.list("")] == ["k"]


def test_replacing_survives_a_lost_answer(client):
    storage = faulty(client)
    etag = storage.put("k", b"first")
    storage.client.faults = [("put_object", "after")]
    assert storage.put_if_match("k", b"second", etag) == storage.head("k").etag
    assert storage.get("k") == b"second"


def test_another_writer_is_not_taken_for_oneself(client):
    storage = faulty(client)
    assert storage.put_once("k", b"theirs")
    assert storage.put_once("k", b"mine") is False
    assert storage.put_once("k", b"theirs, longer") is False
    assert storage.put_once("k", b"their") is False
    assert storage.put_if_match("k", b"mine", "0" * 32) is None
    assert storage.put_if_match("absent", b"mine", "0" * 32) is None
    assert storage.get("k") == b"theirs"


def test_one_of_many_writers_wins(client):
    won = []
    threads = [
        threading.Thread(target=lambda n=n: won.append(n) if Storage(BUCKET, client).put_once("k", b"%d" % n) else None)
        for n in range(8)
    ]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert len(won) == 1 and client.get_object(Bucket=BUCKET, Key="k")["Body"].read() == b"%d" % won[0]


def test_a_file_is_sent_whole_on_the_second_attempt(client, tmp_path):
    path = tmp_path / "part"
    path.write_bytes(b"x" * 100_000)
    for key, fault in (("a", "before"), ("b", "after")):
        storage = faulty(client, ("put_object", fault))
        assert storage.put_once(key, path) is True
        assert storage.get(key) == path.read_bytes()


class CutBody:
    def __init__(self, body):
        self.body = body

    def read(self, *_):
        raise ConnectionClosedError(endpoint_url="https://s3")

    def iter_chunks(self, _):
        yield self.body.read(3)


def test_a_cut_answer_is_read_again(client, tmp_path):
    storage, cuts = Storage(BUCKET, client, wait=0), [1, 1]
    storage.put("k", b"whole body")

    class Cutting(FaultyS3):
        def get_object(self, **given):
            answer = client.get_object(**given)
            return answer | {"Body": CutBody(answer["Body"])} if cuts and cuts.pop() else answer

    storage.client = Cutting(client, [])
    assert storage.get("k") == b"whole body"
    cuts[:] = [1, 1]
    storage.download(next(storage.list("k")), tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == b"whole body"


def test_an_object_replaced_since_it_was_listed_is_not_read(client, tmp_path):
    storage = Storage(BUCKET, client)
    storage.put("k", b"first")
    item = next(storage.list("k"))
    storage.put("k", b"other")
    with pytest.raises(DataError, match=r"s3://loop/k was replaced"):
        storage.download(item, tmp_path / "k")


def test_listing_pages_begins_after_a_key_and_finds_folders(client):
    storage = Storage(BUCKET, client)
    for n in range(1_003):
        client.put_object(Bucket=BUCKET, Key=f"d/{n:04d}/x", Body=b"")
    assert len(list(storage.list_keys("d/"))) == 1_003
    assert list(storage.list_keys("d/", after="d/1000/x")) == ["d/1001/x", "d/1002/x"]
    assert storage.folders("d") == [f"{n:04d}" for n in range(1_003)]


def test_json_and_absence(client):
    storage = Storage(BUCKET, client)
    assert storage.write_json("j", {"b": 1, "a": "é"}) and storage.read_json("j") == {"a": "é", "b": 1}
    assert storage.write_json("j", {"b": 2}, once=True) is False
    assert storage.read_json("absent", default=None) is None and storage.get("absent", default=b"") == b""
    assert storage.head("absent") is None and not storage.exists("absent")
    with pytest.raises(DataError, match="s3://loop/absent does not exist"):
        storage.read_json("absent")
    storage.put("j", b"{")
    with pytest.raises(DataError, match="s3://loop/j is not JSON"):
        storage.read_json("j", default=None)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ClientError({"Error": {"Code": "NoSuchBucket"}}, "GetObject"), "no bucket loop"),
        (ClientError({"Error": {"Code": "AccessDenied"}}, "GetObject"), "must belong to account 123456789012"),
        (ClientError({"Error": {"Code": "SlowDown"}}, "GetObject"), "failed 3 times, last with SlowDown"),
        (EndpointConnectionError(endpoint_url="http://127.0.0.1:4566"), "fraud local up"),
    ],
)
def test_what_does_not_pass_is_one_sentence(error, says):
    class Failing:
        def get_object(self, **_):
            raise error

    with pytest.raises(PlatformError, match=says):
        Storage(BUCKET, Failing(), owner="123456789012", attempts=3, wait=0).get("k")
