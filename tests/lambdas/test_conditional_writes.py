"""S3's 409 and a lost answer at each conditional write of both Lambdas: nothing is lost, and no success is made up."""

import json

import pytest
from botocore.exceptions import ClientError
from drift_check_kit import LOCK, aws, capture, stored, tick
from inference_kit import call
from lambdas_kit import BUCKET, ENDPOINT, keys
from test_drift_check_verdict import policy

PLACES = ["/verdicts/", "/judged/", "/decisions/", "/sketches/", LOCK]
BODY = json.dumps({"labels": [{"inference_id": "a", "label": 1, "time": "2026-01-02T03:04:05Z"}]})


class Faulty:
    """S3 whose conditional writes under a place fail the first times: not done, or done and the answer lost."""

    def __init__(self, client, place, code, times=1):
        self.client, self.place, self.code, self.left, self.met = client, place, code, times, []

    def __getattr__(self, name):
        return getattr(self.client, name)

    def put_object(self, **given):
        conditional = "IfNoneMatch" in given or "IfMatch" in given
        if self.left and conditional and self.place in given["Key"]:
            self.left -= 1
            self.met.append(given["Key"])
            if self.code == "PreconditionFailed":
                self.client.put_object(**given)
            status = {"HTTPStatusCode": 412 if self.code == "PreconditionFailed" else 409}
            raise ClientError({"Error": {"Code": self.code}, "ResponseMetadata": status}, "PutObject")
        return self.client.put_object(**given)


@pytest.fixture
def faulty(monkeypatch):
    """Let the conditional writes of the drift check under a place fail the first times."""
    made = []

    def begin(place, code, times=1):
        real = aws.Bucket.__init__

        def init(self, name):
            real(self, name)
            self.s3 = Faulty(self.s3, place, code, times)
            made.append(self.s3)

        monkeypatch.setattr(aws.Bucket, "__init__", init)
        return made

    return begin


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("code", "times"),
    [("ConditionalRequestConflict", 1), ("409", 2), ("PreconditionFailed", 1)],
)
def test_no_write_of_a_check_is_lost_or_doubled(s3, pipeline, faulty, place, code, times):
    policy(min_records=300)
    capture(s3, 1000, factor=1.5)
    made = faulty(place, code, times)
    report = tick()
    assert len(made[0].met) == times
    assert report["verdict"] == "DRIFT" and report["decision"]["reasons"] == ["START"]
    assert stored(s3, report)["verdict"] == "DRIFT" and len(pipeline.executions) == 1
    for folder in ("verdicts", "judged", "decisions", "sketches"):
        assert keys(s3, f"drift/{ENDPOINT}/{folder}/"), folder
    state = json.loads(s3.get_object(Bucket=BUCKET, Key=LOCK)["Body"].read())
    assert state["status"] == "started" and len(state["starts"]) == 1
    assert tick(owner="request-2")["verdict_key"] == report["verdict_key"]
    assert len(pipeline.executions) == 1


@pytest.mark.parametrize("place", ["/verdicts/", "/judged/"])
def test_a_verdict_that_could_not_be_kept_is_an_error_and_the_event_comes_again(s3, pipeline, faulty, place):
    capture(s3)
    faulty(place, "ConditionalRequestConflict", 99)
    with pytest.raises(ClientError, match="Conflict"):
        tick()
    assert not keys(s3, f"drift/{ENDPOINT}{place}")


@pytest.mark.parametrize("code", ["ConditionalRequestConflict", "409", "PreconditionFailed"])
def test_posted_labels_are_kept_when_two_come_at_the_same_instant(s3, service, code):
    service.s3 = Faulty(service.s3, "labels/", code, 1)
    status, body, _ = call("POST", "/labels", BODY)
    assert status == 202 and keys(s3, "labels/") == [body["key"]]


def test_labels_that_others_write_for_ever_are_to_be_sent_again(s3, service):
    service.s3 = Faulty(service.s3, "labels/", "ConditionalRequestConflict", 99)
    assert call("POST", "/labels", BODY)[0] == 503 and not keys(s3, "labels/")
