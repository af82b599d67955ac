"""Who meets which model while an A/B test runs, and by whose threshold the answer is decided."""

import io
import json

import pytest
from botocore.exceptions import ClientError
from inference_kit import GOOD, app, predict
from lambdas_kit import ENDPOINT, RELEASE, put

TEST = {
    "run_id": "run-2", "model_version": "run-2", "variant": "Challenger", "champion_variant": "AllTraffic",
    "traffic_percent": 50, "sticky_column": "card4", "decision_threshold": 0.2,
}  # fmt: skip


@pytest.fixture
def during(s3, service):
    """Put a test beside the release."""

    def begin(**change):
        put(s3, f"releases/{ENDPOINT}/current.json", RELEASE | {"challenger": TEST | change})
        service.releases._due = 0.0
        return service.runtime

    return begin


def test_equal_values_meet_the_same_variant(during):
    runtime = during()
    for card in ("visa", "visa", "amex", *(f"card {k}" for k in range(30))):
        assert predict(GOOD | {"card4": card})[0] == 200
    variants = [call["TargetVariant"] for call in runtime.calls]
    assert variants[0] == variants[1] and set(variants) == {"Challenger", "AllTraffic"}


@pytest.mark.parametrize("change", [{"sticky_column": ""}, {"sticky_column": "no such field"}])
def test_else_sagemakers_weights_decide(during, change):
    runtime = during(**change)
    assert predict(GOOD)[0] == 200 and "TargetVariant" not in runtime.calls[0]


def test_each_model_decides_by_its_own_threshold(during):
    runtime = during()
    decisions = {}
    for runtime.version in ("run-1", "run-2"):
        decisions[runtime.version] = predict(GOOD)[1]["decision"]  # the score is 0.25
    assert decisions == {"run-1": "approve", "run-2": "review"}


@pytest.fixture
def both(during, monkeypatch):
    """Two models behind the endpoint: the score is the amount / 1000, the challenger's half as much."""
    runtime = during()
    runtime.fails = ""

    def invoke(**given):
        runtime.calls.append(given)
        variant, rows = given.get("TargetVariant", "AllTraffic"), json.loads(given["Body"])["transactions"]
        if runtime.fails == variant:
            said = {"Error": {"Code": "ModelError", "Message": ""}, "OriginalStatusCode": 500}
            raise ClientError(said, "InvokeEndpoint")
        version, part = {"Challenger": ("run-2", 2000), "AllTraffic": ("run-1", 1000)}[variant]
        scores = [{"fraud_probability": row["TransactionAmt"] / part} for row in rows]
        return {"Body": io.BytesIO(json.dumps({"predictions": scores, "model_version": version}).encode())}

    monkeypatch.setattr(runtime, "invoke_endpoint", invoke)
    return runtime


def batch(n, **more):
    rows = [{"TransactionAmt": 20.0 * k, "card4": f"card {k}"} for k in range(n)]
    return rows, {"transactions": rows, "inference_ids": [f"id-{k}" for k in range(n)]} | more


def test_a_batch_is_split_and_put_together_in_its_order(both):
    rows, asked = batch(50)
    status, answer, _ = predict(asked)
    assert status == 200 and answer["model_version"] == "run-1"
    assert [item["inference_id"] for item in answer["predictions"]] == asked["inference_ids"]
    alone = {}
    for row, item in zip(rows, answer["predictions"], strict=True):
        version = item["model_version"]
        score, threshold = (
            (row["TransactionAmt"] / 1000, 0.5) if version == "run-1" else (row["TransactionAmt"] / 2000, 0.2)
        )
        assert item["fraud_probability"] == score
        assert item["decision"] == ("review" if score >= threshold else "approve")
        alone[row["card4"]] = version
    assert set(alone.values()) == {"run-1", "run-2"}
    calls = [(call["TargetVariant"], json.loads(call["Body"]), call["InferenceId"]) for call in both.calls]
    assert len(calls) == 2
    for variant, body, inference_id in calls:
        assert {alone[row["card4"]] for row in body["transactions"]} == {{"AllTraffic": "run-1"}.get(variant, "run-2")}
        assert inference_id == body["inference_ids"][0]
        assert body["inference_ids"] == [f"id-{rows.index(row)}" for row in body["transactions"]]
    for row in rows[:10]:  # and a payment alone meets the same model as within a batch
        assert predict(row)[1]["model_version"] == alone[row["card4"]]


def test_a_batch_of_one_card_is_one_request_and_names_its_model_once(both):
    status, answer, _ = predict({"transactions": [GOOD] * 9})
    assert status == 200 and len(both.calls) == 1
    assert all("model_version" not in item for item in answer["predictions"])


def test_one_of_both_that_fails_fails_the_batch(both):
    for both.fails in ("AllTraffic", "Challenger"):
        assert predict(batch(50)[1])[0] == 502


def test_what_a_split_batch_is_counted_as(both, capsys):
    answer = predict(batch(50)[1])[1]["predictions"]
    line = json.loads(capsys.readouterr().out)
    review = [int(item["decision"] == "review") for item in answer]
    theirs = [value for value, item in zip(review, answer, strict=True) if item["model_version"] == "run-2"]
    assert (line["Review"], line["CandidateReview"]) == (review, theirs)
    assert line["CandidateExcess"] == pytest.approx(sum(theirs) - 0.2 * len(theirs)) and 0 < sum(theirs) < len(theirs)
    assert "ModelVersion" not in line and len(line["_aws"]["CloudWatchMetrics"]) == 1


def test_a_variant_that_is_gone_is_no_fault_of_the_callers(during, monkeypatch):
    runtime = during()
    answer = runtime.invoke_endpoint

    def invoke(**given):
        if "TargetVariant" in given:
            error = {"Code": "ValidationError", "Message": "Variant Challenger not found"}
            raise ClientError({"Error": error, "ResponseMetadata": {"HTTPStatusCode": 400}}, "InvokeEndpoint")
        return answer(**given)

    monkeypatch.setattr(runtime, "invoke_endpoint", invoke)
    assert predict(GOOD)[0] == 200
    assert app.NO_SUCH_VARIANT == {"ValidationError", "ValidationException"}
