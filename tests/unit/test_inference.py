"""The endpoint's handlers: the scores of training, to the last bit, and nothing for input that has none."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import training_kit as kit

import inference
from fraud.errors import QualityGateError
from fraud.serving import model_file
from fraud.training import data as training_data


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    channel = kit.put(tmp_path_factory.mktemp("channel"), kit.history(kit.table()))
    with pytest.MonkeyPatch.context() as patch:
        return kit.run(patch, tmp_path_factory.mktemp("job"), channel)


@pytest.fixture(scope="module")
def served(job):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODEL_VERSION", "run-1")
        patch.setenv("MODEL_SHA256", job.read("metrics.json")["model_sha256"])
        return inference.model_fn(str(job.model_dir))


@pytest.fixture(scope="module")
def golden(job):
    return job.read("golden.json")


def ask(model, body, content_type="application/json", accept="application/json"):
    """Go through the handlers as the container does; text out."""
    body = body if isinstance(body, (str, bytes)) else json.dumps(body)
    return inference.output_fn(inference.predict_fn(inference.input_fn(body, content_type), model), accept)


def refused(model, body, content_type="application/json", accept="application/json"):
    """Status of the answer, which a WSGI application gives as the container's web framework calls it."""
    seen = []
    answer = b"".join(ask(model, body, content_type, accept)({}, lambda *given: seen.append(given)))
    ((line, headers),) = seen
    document = json.loads(answer)
    assert dict(headers) == {"Content-Type": "application/problem+json", "Content-Length": str(len(answer))}
    assert (line, document["detail"][-1:]) == (f"{document['status']} {document['title']}", ".")
    return document["status"]


def scores(model, transactions):
    answer, _ = ask(model, {"transactions": transactions})
    return [item["fraud_probability"] for item in json.loads(answer)["predictions"]]


# -- the right scores


def test_golden_rows_score_as_at_training_alone_together_and_as_csv(served, job, golden):
    transactions, expected = golden["transactions"], golden["scores"]
    assert len(expected) == 20
    assert max(expected) > 10 * min(expected)  # from one end to the other
    assert scores(served, transactions) == expected
    assert [scores(served, [transaction])[0] for transaction in transactions] == expected

    names = [feature["name"] for feature in job.read("schema.json")["features"]]
    cells = [[transaction[name] for name in names] for transaction in transactions]
    rows = [",".join("" if cell is None else json.dumps(cell).strip('"') for cell in row) for row in cells]
    answer, content_type = ask(served, "\n".join(rows), "text/csv; charset=utf-8", "text/csv")
    assert [float(line) for line in answer.splitlines()] == expected
    assert content_type == "text/csv"
    assert ask(served, rows[0], "text/csv")[0] == f"{expected[0]!r}\n"


def test_every_row_scores_as_its_training_matrix(served, job, tmp_path):
    channel = kit.put(tmp_path, kit.history(kit.table(700, seed=5)))
    ledger = training_data.open_ledger(channel)
    rows = training_data.raw_rows(ledger, range(700), served.schema.names)
    together = np.array([served.schema.encode(row) for row in rows])
    expected = served.loaded.probabilities(together).tolist()
    assert [scores(served, [row])[0] for row in rows] == expected
    assert scores(served, rows) == expected


def test_the_answer_names_the_model(served, job, golden):
    answer, content_type = ask(served, {"transactions": golden["transactions"][:2], "inference_ids": ["a", "b"]})
    found = json.loads(answer)
    assert content_type == "application/json"
    assert set(found) == {"predictions", "model_version", "sha256"}
    assert [set(item) for item in found["predictions"]] == [{"fraud_probability"}] * 2
    assert found["model_version"] == "run-1"
    assert found["sha256"] == model_file.sha256((job.model_dir / "model.txt").read_bytes())


def test_reasons_are_the_largest_contributions(served, golden):
    body = {"transactions": golden["transactions"], "reasons": True}
    predictions = json.loads(ask(served, body)[0])["predictions"]
    rows = np.array([served.schema.encode(transaction) for transaction in golden["transactions"]])
    shares = served.loaded.booster.predict(rows, pred_contrib=True)
    for item, row in zip(predictions, shares, strict=True):
        named = {reason["feature"]: reason["contribution"] for reason in item["reasons"]}
        sizes = [abs(reason["contribution"]) for reason in item["reasons"]]
        assert len(named) == 5
        assert sizes == sorted(sizes, reverse=True)
        assert sizes == sorted(np.abs(row[:-1]), reverse=True)[:5]
        assert named == {name: row[served.schema.names.index(name)] for name in named}
        log_odds = math.log(item["fraud_probability"] / (1 - item["fraud_probability"]))
        assert row.sum() == pytest.approx(log_odds)


def test_threads_do_not_mix_rows(served, golden):
    wrong = []

    def work(k):
        transaction, expected = golden["transactions"][k], golden["scores"][k]
        wrong.extend(score for _ in range(300) for score in scores(served, [transaction]) if score != expected)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -- wrong input


@pytest.mark.parametrize(
    "body",
    [
        "", "null", "[]", "7", "{}", '{"transactions": []}', '{"transactions": {}}', '{"transactions": [1]}',
        '{"transactions": [{"v1": NaN}]}', '{"transactions": [{"v1": Infinity}]}', '{"transactions": [{"v1": 1e999}]}',
        '{"transactions": [{"v1": -1e999}, {"v1": 1}]}', '{"transactions": [{"v1": "1"}]}',
        '{"transactions": [{"v1": true}]}', '{"transactions": [{"v1": [1]}]}', '{"transactions": [{"known": 1}]}',
        '{"transactions": [{"card": {}}]}', '{"transactions": [{"v1": 1' + "0" * 400 + "}]}",
        '{"transactions": [{}], "reasons": "yes"}', "[" * 100_000, b"\xff\xfe",
    ],
)  # fmt: skip
def test_what_has_no_score_is_refused(served, body):
    text = body if isinstance(body, str) else body.decode(errors="replace")  # as the container does
    assert refused(served, text) == refused(served, body, "application/json; charset=utf-8") == 400


@pytest.mark.parametrize(
    "body", ["", "\n", "1,2\n", "1,2,3,4,visa,maybe,true", "inf,1,1,1,visa,true,true", "x,1,1,1,visa,true,true"]
)
def test_csv_without_a_score_is_refused(served, body):
    assert refused(served, body, "text/csv") == 400


def test_other_types_are_refused(served, golden):
    assert refused(served, "{}", "application/x-npy") == 415
    assert refused(served, {"transactions": golden["transactions"][:1]}, accept="image/png") == 406


def test_names_of_another_model_are_refused(served, golden):
    transaction = golden["transactions"][0]
    assert refused(served, {"transactions": [{name.upper(): value for name, value in transaction.items()}]}) == 400
    required = next(feature.name for feature in served.schema.features if feature.required)
    assert refused(served, {"transactions": [transaction | {required: None}]}) == 400


def test_a_fault_of_the_model_is_no_refusal(served, golden, monkeypatch):
    monkeypatch.setattr(served, "_score_row", lambda row: float("nan"))
    with pytest.raises(ValueError, match="no probability"):
        ask(served, {"transactions": golden["transactions"][:1]})


# -- models that must not be served


def copy(job, folder):
    return shutil.copytree(job.model_dir, folder / "model")


def test_another_model_than_released_is_refused(job, tmp_path, monkeypatch):
    folder = copy(job, tmp_path)
    text = (folder / "model.txt").read_text()
    (folder / "model.txt").write_text(text.replace("shrinkage=0.1", "shrinkage=0.2", 1))  # scores the same
    monkeypatch.setenv("MODEL_SHA256", job.read("metrics.json")["model_sha256"])
    with pytest.raises(QualityGateError, match="was released"):
        inference.model_fn(str(folder))


def test_a_model_that_scores_otherwise_is_refused_without_a_promised_hash(job, tmp_path, monkeypatch):
    monkeypatch.delenv("MODEL_SHA256", raising=False)
    folder = copy(job, tmp_path)
    lines = (folder / "model.txt").read_text().split("\n")
    lines = [
        line.translate(str.maketrans("1234", "2341")) if line.startswith("leaf_value=") else line for line in lines
    ]
    (folder / "model.txt").write_text("\n".join(lines))
    with pytest.raises(QualityGateError, match="golden rows score differently"):
        inference.model_fn(str(folder))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("ending", ["", "\nend of trees\n"])
def test_a_truncated_model_is_refused_and_the_server_lives(job, tmp_path, monkeypatch, share, ending):
    folder = copy(job, tmp_path)
    content = (folder / "model.txt").read_bytes()
    (folder / "model.txt").write_bytes(content[: int(share * len(content))] + ending.encode())
    monkeypatch.setenv("MODEL_SHA256", model_file.sha256((folder / "model.txt").read_bytes()))
    with pytest.raises(QualityGateError, match="cannot be loaded|not a whole"):
        inference.model_fn(str(folder))


@pytest.mark.parametrize("name", ["model.txt", "schema.json", "golden.json"])
def test_a_missing_file_is_named(job, tmp_path, monkeypatch, name):
    monkeypatch.delenv("MODEL_SHA256", raising=False)
    folder = copy(job, tmp_path)
    (folder / name).unlink()
    with pytest.raises(QualityGateError, match=name):
        inference.model_fn(str(folder))


@pytest.mark.parametrize("name", ["golden.json", "calibration.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"transactions": [{}], "scores": []}', '{"transactions": 1}'])
def test_a_file_that_says_nothing_is_named(job, tmp_path, monkeypatch, name, text):
    monkeypatch.delenv("MODEL_SHA256", raising=False)
    folder = copy(job, tmp_path)
    (folder / name).write_text(text)
    with pytest.raises(QualityGateError, match=name):
        inference.model_fn(str(folder))


# -- in the container


def test_the_archive_serves_alone(job, golden, tmp_path):
    """Only the archive's code, numpy and LightGBM; neither the pipeline nor what training needs."""
    program = f"""
import sys
sys.path.insert(0, {str(job.model_dir / "code")!r})
import inference, fraud
assert fraud.__file__.startswith({str(job.model_dir)!r}), fraud.__file__
model = inference.model_fn({str(job.model_dir)!r})
body, kind = inference.input_fn(sys.stdin.read(), "application/json"), "application/json"
print(*inference.output_fn(inference.predict_fn(body, model), kind)[:1])
heavy = {{"polars", "boto3", "fraud.pipeline", "train", "training_data"}} & set(sys.modules)
assert not heavy, heavy
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps({"transactions": golden["transactions"]}),
        env=environment | {"MODEL_SHA256": job.read("metrics.json")["model_sha256"]},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [item["fraud_probability"] for item in json.loads(done.stdout)["predictions"]] == golden["scores"]


def difficult_rows(n, n_features):
    """Rows with what numbers can be: missing, both zeros, denormal, huge, categories that nobody has seen."""
    rng = np.random.default_rng(0)
    rows = np.exp(rng.normal(0, 3, (n, n_features))) * rng.choice([-1.0, 1.0], (n, n_features))
    rows[:, ::2] = np.floor(np.abs(rows[:, ::2]) * 3)
    ends = [np.nan, 0.0, -0.0, 1e308, -1e308, 5e-324, -5e-324, 1e-35, 2.0**31, -(2.0**31), 2.0**53, 1e6, -1.0]
    return np.where(rng.random((n, n_features)) < 0.3, rng.choice(ends, (n, n_features)), rows)


def test_one_row_scores_as_lightgbm_does_to_the_last_bit(served):
    rows = difficult_rows(20_000, len(served.schema.features))
    expected = served.loaded.booster.predict(rows, num_threads=1)
    assert len(np.unique(expected)) > 100
    assert [served._score_row(row) for row in rows.tolist()] == expected.tolist()


def test_without_the_fast_way_there_is_the_usual_one(served, monkeypatch):
    booster, rows = served.loaded.booster, difficult_rows(200, len(served.schema.features))
    basic = SimpleNamespace(_LIB=SimpleNamespace(), _safe_call=None)
    monkeypatch.setattr(inference.libgomp, "lightgbm", lambda: SimpleNamespace(basic=basic))
    score = inference.single_row(booster, rows.shape[1])
    assert [score(row) for row in rows.tolist()] == booster.predict(rows, num_threads=1).tolist()
