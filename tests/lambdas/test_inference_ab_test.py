"""Who meets which model while an A/B test runs, and by whose threshold the answer is decided."""

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
