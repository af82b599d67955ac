"""What follows from a verdict: labels that are new, what goes wrong, and what is news."""

import datetime as dt
import json
import random

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from drift_check_kit import LOCK, NOON, app, aws, capture, metric, tick, told
from lambdas_kit import BUCKET, ENDPOINT, keys, load_module

from fraud import advice
from fraud.decision import Decision
from fraud.errors import DataError
from fraud.labels import GroundTruth, LabelColumns, render_label_line
from fraud.moment import iso, seconds

acting = load_module("drift_check", "acting")
RELEASED = seconds("2026-01-02T00:30:00Z")
ROW = f"{render_label_line(GroundTruth('x', 1, 60.0))}\n".encode()
IDS = LabelColumns("id", "", "")
HEAD = b"inference_id,label,label_time\n"
REFUSED = ClientError({"Error": {"Code": "AccessDenied"}}, "ListObjectsV2")


def policy(**given):
    app.POLICY_FILE.write_text(json.dumps(json.loads(app.POLICY_FILE.read_bytes()) | given))


def at(monkeypatch, moment):
    """A tick of the schedule at another moment."""
    monkeypatch.setattr(app.time, "time", lambda: moment + 60)
    return tick({"time": dt.datetime.fromtimestamp(moment, dt.UTC).isoformat()}, owner=f"request-{moment}")


def decisions(s3):
    found = [s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys(s3, f"drift/{ENDPOINT}/decisions/")]
    return [json.loads(body) for body in found]


class Folder:
    """Label files by key: the moment each came, and its lines; counts what is listed and read."""

    def __init__(self, **files):
        self.files, self.listed, self.read_keys, self.gone = files, 0, [], set()

    def items(self, prefix, after=""):
        for key in sorted(self.files):
            if key > after:
                self.listed += 1
                yield aws.Item(key, "", len(self.files[key][1]), self.files[key][0])

    def read(self, key):
        self.read_keys.append(key)
        if key in self.gone:
            raise FileNotFoundError(key)
        return self.files[key][1]


# ---------------------------------------------------------------------------------------------------- new labels


@pytest.mark.parametrize(
    "key",
    [
        "labels/2026/01/02/05/a.jsonl",
        "labels/2026/01/01/23/late.jsonl",
        "labels/2025/03/04/05/very late.jsonl",
        "labels/2026-01.csv",
        "labels/01-2026.csv",
        "labels/2025/12/bank.csv",
        "labels/2025/12/31/bank.csv",
        "labels/bank.csv",
        "labels/bank.CSV",
        "labels/bank.json.gz",
        "labels/bank",
    ],
)
def test_labels_are_found_wherever_they_lie(key):
    folder = Folder(**{key: (RELEASED + 3600, ROW * 500), "labels/2025/01/01/01/old.jsonl": (RELEASED - 1, ROW)})
    assert acting.new_labels(folder, RELEASED, 501, LabelColumns()) == 500


def test_labels_from_before_the_release_are_known_already():
    folder = Folder(**{
        "labels/1970/01/01/00/a.jsonl": (90.0, ROW),
        "labels/1970/01/01/00/b.jsonl": (100.0, ROW * 3),
        "labels/bank.csv": (110.0, b"id\n1\n\n2\n"),
        "labels/empty.csv": (110.0, b""),
        "labels/last.csv": (120.0, b"ID;x\n1;x\n2;x\n"),
    })  # fmt: skip
    assert acting.new_labels(folder, 100.0, 100, IDS) == 3 + 2 + 2
    assert folder.read_keys == ["labels/1970/01/01/00/b.jsonl", "labels/bank.csv", "labels/last.csv"]
    folder.read_keys.clear()
    assert acting.new_labels(folder, 100.0, 3, IDS) == 3
    assert len(folder.read_keys) == 1


def test_years_of_labels_are_listed_only_where_those_of_late_hours_are_too_few():
    years = {
        f"labels/2024/{month:02}/01/{hour:02}/a.jsonl": (0.0, b"x") for month in range(1, 13) for hour in range(24)
    }
    folder = Folder(**years, **{"labels/2026/01/02/05/a.jsonl": (RELEASED + 1, ROW * 2)})
    assert acting.new_labels(folder, RELEASED, 2, IDS) == 2
    assert folder.listed == 1
    assert acting.new_labels(folder, RELEASED, 3, IDS) == 2
    assert folder.listed == 1 + len(years) + 2


@pytest.mark.parametrize("body", [b"no label\n" * 500, b"x,y\n" * 500, b"{}\n" * 500, b"PK\3\4" + b"\n" * 500])
def test_what_the_next_training_cannot_read_is_nothing_new_to_learn(body):
    for name in ("a.jsonl", "b.csv", "readme.txt"):
        assert acting.new_labels(Folder(**{f"labels/{name}": (RELEASED, body)}), RELEASED, 9, LabelColumns()) == 0


def test_a_label_file_that_is_gone_again_says_nothing():
    folder = Folder(**{"labels/a.csv": (RELEASED, b"id\n1\n"), "labels/b.csv": (RELEASED, b"id\n1\n")})
    folder.gone = {"labels/a.csv"}
    assert acting.new_labels(folder, RELEASED, 9, IDS) == 1


@pytest.mark.parametrize("error", [REFUSED, BotoCoreError()])
@pytest.mark.parametrize("name", ["items", "read"])
def test_how_many_there_are_is_unknown_where_that_cannot_be_read(monkeypatch, error, name):
    def fails(self, *arguments, **given):
        raise error

    folder = Folder(**{"labels/a.csv": (RELEASED, b"id\n1\n")})
    monkeypatch.setattr(Folder, name, fails)
    assert acting.new_labels(folder, RELEASED, 9, IDS) is None


def test_what_nobody_knows_holds_nothing_up_and_is_said(s3, pipeline, monkeypatch):
    policy(min_new_labels=3)
    capture(s3, factor=1.5)
    real = aws.Bucket.items

    def refused(self, prefix, after=""):
        if prefix == "labels/":
            raise REFUSED
        return real(self, prefix, after)

    monkeypatch.setattr(aws.Bucket, "items", refused)
    assert tick()["decision"] == {"start": True, "reasons": ["START"]}
    assert decisions(s3)[0]["notes"] == ["NEW_LABELS_UNKNOWN"]


@pytest.mark.parametrize(
    ("released", "last", "since"),
    [
        (100.0, None, 100.0),
        (100.0, 200.0, 200.0),  # its run failed the gate, or goes on
        (200.0, 100.0, 100.0),  # its run's release: what came in between may not have been read
        (100.0 + 7 * 86_400, 100.0, 100.0 + 7 * 86_400),  # another's
    ],
)
def test_since_when_labels_are_new(released, last, since):
    assert acting.learnt(released, last) == since


def test_the_same_labels_start_one_retraining(s3, pipeline, monkeypatch):
    """Also when that fails the gate, so that the release stays."""
    policy(min_new_labels=3, cool_down_hours=1.0)
    capture(s3, factor=1.5)
    came = {"labels/bank.csv": NOON - 60, "labels/late.csv": NOON + 2.5 * 3600}

    def items(self, prefix, after=""):
        if prefix != "labels/":
            return real(self, prefix, after)
        return (one._replace(modified=came[one.key]) for one in real(self, prefix, after))

    real = aws.Bucket.items
    monkeypatch.setattr(aws.Bucket, "items", items)
    s3.put_object(Bucket=BUCKET, Key="labels/bank.csv", Body=HEAD + b"1,1,\n2,1,\n")
    assert at(monkeypatch, NOON - 3600)["decision"]["reasons"] == ["NOTHING_NEW_TO_LEARN"]
    s3.put_object(Bucket=BUCKET, Key="labels/bank.csv", Body=HEAD + b"1,1,\n2,1,\n3,1,\n")
    assert at(monkeypatch, NOON)["decision"]["reasons"] == ["START"]
    pipeline.executions[0]["status"] = "Failed"
    assert at(monkeypatch, NOON + 2 * 3600)["decision"]["reasons"] == ["NOTHING_NEW_TO_LEARN"]
    s3.put_object(Bucket=BUCKET, Key="labels/late.csv", Body=HEAD + b"1,1,\n2,1,\n3,1,\n")
    assert at(monkeypatch, NOON + 3 * 3600)["decision"]["reasons"] == ["START"]


# ---------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("state", "wrong"),
    [
        (b"[1]", "it is no JSON object"),
        (b'"x"', "it is no JSON object"),
        (b'{"starts":[{}]}', "an item of starts has no moment"),
        (b'{"starts":[1]}', "an item of starts has no moment"),
        (b'{"status":"claimed","token":"t"}', "a claim has no claimed_at"),
        (b"{", "is no JSON: restore an earlier version"),
        (b"\xff", "is no JSON: restore an earlier version"),
    ],
)
def test_a_state_that_cannot_be_used_is_told_recorded_and_raised(s3, pipeline, state, wrong):
    capture(s3, factor=1.5)
    s3.put_object(Bucket=BUCKET, Key=LOCK, Body=state)
    with pytest.raises(DataError) as found:
        tick()
    assert str(found.value).startswith(f"s3://{BUCKET}/{LOCK} is no") and wrong in str(found.value)
    ((_, text, *_),) = told()
    assert f"could not be started; it is tried again. {found.value}" in text
    (made,) = decisions(s3)
    assert made["reasons"] == ["FAILED"] and made["told"] == ["moved:TransactionAmt", "FAILED"]
    assert metric("Drift") == 1 and not pipeline.executions
    s3.delete_object(Bucket=BUCKET, Key=LOCK)
    assert tick(owner="request-2")["decision"]["start"]


def test_whatever_goes_wrong_with_the_start_people_are_told(s3, pipeline, monkeypatch):
    def fails(*_):
        raise AttributeError("secret")

    capture(s3, factor=1.5)
    monkeypatch.setattr(acting.governor, "start_once", fails)
    with pytest.raises(AttributeError):
        tick()
    assert "could not be started" in told()[0][1] and "secret" not in told()[0][1]
    assert [made["reasons"] for made in decisions(s3)] == [["FAILED"]] and metric("Drift") == 1


def test_records_that_cannot_be_read_keep_nobody_from_being_told(s3, pipeline, monkeypatch):
    capture(s3, factor=1.5)
    folder = f"drift/{ENDPOINT}/decisions/2026/01/02"
    for k, body in enumerate((b"{", b"[1]", b"\xff", b"5", b'{"told": 5}', b'{"told": null}', b"{}")):
        s3.put_object(Bucket=BUCKET, Key=f"{folder}/11000{k}-FAILED.json", Body=body)
    assert tick()["decision"]["start"] and len(told()) == 1

    def fails(*_):
        raise REFUSED

    monkeypatch.setattr(acting, "_records", fails)
    with pytest.raises(ClientError):
        at(monkeypatch, NOON + 3600)
    assert len(told()) == 2 and metric("Drift") == 2
    assert "COOL_DOWN" in keys(s3, f"drift/{ENDPOINT}/decisions/")[-1]


def test_a_message_that_was_not_sent_is_sent_when_the_event_comes_again(s3, pipeline, monkeypatch):
    def fails(*_):
        raise REFUSED

    capture(s3, factor=1.5)
    real = acting.message.send
    monkeypatch.setattr(acting.message, "send", fails)
    with pytest.raises(ClientError):
        tick()
    (made,) = decisions(s3)
    assert (made["start"], made["told"], metric("RetrainingStarted")) == (True, [], 1)
    monkeypatch.setattr(acting.message, "send", real)
    monkeypatch.setattr(app.time, "time", lambda: NOON + 120)
    tick()
    assert len(told()) == 1 and "A retraining has been started." in told()[0][1]


def test_a_record_that_cannot_be_written_is_an_error_after_all_else(s3, pipeline, monkeypatch):
    capture(s3, factor=1.5)
    real = aws.Bucket.put_once

    def refused(self, key, document):
        if "/decisions/" in key:
            raise REFUSED
        return real(self, key, document)

    monkeypatch.setattr(aws.Bucket, "put_once", refused)
    with pytest.raises(ClientError):
        tick()
    assert len(told()) == 1 and metric("RetrainingStarted") == 1


def test_a_claim_that_is_over_and_a_persons_run(s3, pipeline, monkeypatch):
    capture(s3, factor=1.5)
    pipeline.fail = "StartPipelineExecution"
    with pytest.raises(ClientError):
        tick()
    pipeline.fail = None
    pipeline.add("Succeeded", at=NOON + 5 * 3600)
    person = pipeline.executions[0]["pipelineExecutionId"]
    report = at(monkeypatch, NOON + 8 * 3600)
    assert report["decision"] == {"start": True, "reasons": ["START"]} and report["execution_id"] != person
    assert len({item["token"] for item in pipeline.executions}) == 2


def test_a_run_that_is_found_late_counts_from_its_begin(s3, pipeline, monkeypatch):
    capture(s3, factor=1.5)
    pipeline.lose = "StartPipelineExecution"
    with pytest.raises(BotoCoreError):
        tick()
    pipeline.lose = None
    pipeline.executions[0] |= {"status": "Failed", "startTime": NOON + 65}
    pipeline.add("Failed", at=NOON + 2 * 3600)  # a person's
    pipeline.add("Failed", at=NOON + 90, kind="Webhook")
    report = at(monkeypatch, NOON + 3 * 3600)
    assert report["decision"] == {"start": True, "reasons": ["RECOVERED", "COOL_DOWN"]}
    assert report["execution_id"] == pipeline.executions[-1]["pipelineExecutionId"]
    assert json.loads(s3.get_object(Bucket=BUCKET, Key=LOCK)["Body"].read())["last_start"] == iso(NOON + 65)


# ------------------------------------------------------------------------------------------------------ what is news


def fired(*rules):
    given = [{"rule": name, "feature": feature, "fired": True, "direction": "up"} for name, feature in rules]
    return {"verdict": "DRIFT", "rules": [*given, {"rule": "psi", "feature": "calm", "fired": False}]}


def test_a_topic_is_a_cause_and_its_feature():
    rules = [("psi", "amount"), ("ks", "amount"), ("unseen", "card4"), ("missing", "addr1"), ("repeated", "amount")]
    on_all = [("recall", ""), ("auc", ""), ("score_psi", ""), ("review_rate", "")]
    assert advice.topics(fired(*rules, *on_all)) == [
        "moved:amount", "new:card4", "missing:addr1", "repeated:amount", "truth", "score", "more reviews",
    ]  # fmt: skip
    assert advice.topics({"verdict": "SCHEMA_CHANGED", "rules": fired(("psi", "x"))["rules"]}) == ["SCHEMA_CHANGED"]


def messages(verdicts):
    """Which of the checks of a day tell people."""
    records, said = [], []
    for k, verdict in enumerate(verdicts):
        topics = acting.news(advice.topics(verdict), Decision(False, ("COOL_DOWN",)), records, f"k{k}")
        records.append({"verdict_key": f"k{k}", "start": False, "told": topics})
        said += [k] * bool(topics)
    return said


def test_another_feature_is_news_and_a_drift_that_hovers_is_one_message():
    amount, new = fired(("psi", "amount")), fired(("psi", "is_new"))
    assert messages([amount, new]) == [0, 1]
    assert messages([amount, fired(("ks", "amount"), ("mean_shift", "amount"))] * 12) == [0]
    assert messages([amount, new] * 12) == [0, 1]


def test_where_everything_moves_a_little_not_every_check_is_news():
    """What was told with the first check is known, whichever of it comes first in the next ones."""
    features = [("psi", f"V{k}") for k in range(60)]
    assert messages([fired(*features[k:], *features[:k]) for k in range(24)]) == [0]
    assert messages([fired(*features), fired(*features, ("psi", "new"))]) == [0]
    assert messages([fired(*features), fired(("psi", "new"), *features)]) == [0, 1]


def test_a_second_drift_is_told_at_once(s3, pipeline, monkeypatch):
    class Old(random.Random):
        def random(self):
            return 0.9  # nobody is new

        def getrandbits(self, k):
            return super().getrandbits(k)

    policy(window_hours=2)
    capture(s3, factor=1.5)
    at(monkeypatch, NOON)
    with monkeypatch.context() as patch:
        patch.setattr(random, "Random", Old)
        capture(s3, hour="02/12", end=NOON + 7200)
    at(monkeypatch, NOON + 7200)
    at(monkeypatch, NOON + 7300)
    assert [made["told"] for made in decisions(s3)] == [["moved:TransactionAmt"], ["moved:is_new"], []]
    assert len(told()) == 2 and "is_new" in told()[1][1]
