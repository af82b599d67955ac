"""Traffic against a small server that refuses what the real API refuses, and can be made to misbehave."""

import asyncio
import contextlib
import json
import math
import threading
import time

import numpy as np
import polars as pl
import pytest
from aiohttp import web
from sklearn.metrics import roc_auc_score

from fraud import api as real
from fraud.demo.malformed import KINDS
from fraud.demo.report import Answer, Report, Scored, auc
from fraud.demo.traffic import Api, Flow, calls, some, spoiled, transactions
from fraud.errors import InvalidRequestError
from fraud.schema import Feature, Schema

SCHEMA = Schema(
    [
        Feature("amount", "number", True),
        Feature("card", "category", False, ("credit", "debit")),
        Feature("n", "number"),
    ],
    {"target": "fraud", "id": "key", "time": "when", "amount": "amount"},
)


class Server:
    """The API as far as a caller sees it; ``behave`` changes one answer in so many."""

    def __init__(self):
        self.version, self.behave, self.every = "run-1", None, 1
        self.bodies, self.connections, self.headers, self.labels = [], set(), [], {}
        self.busy = self.most_busy = 0
        self.delay, self.label_status = 0.0, 202

    async def predict(self, request):
        self.connections.add(request.transport.get_extra_info("peername"))
        body = await request.read()
        self.headers.append(dict(request.headers))
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        await asyncio.sleep(self.delay)
        self.busy -= 1
        try:
            asked = real.read_prediction(body, SCHEMA)
        except InvalidRequestError as error:
            return web.json_response({"status": error.status, "detail": error.detail}, status=error.status)
        self.bodies.append(json.loads(body))
        scores = [{"fraud_probability": min(1.0, row["amount"] / 100)} for row in asked.transactions]
        answer = real.answer_prediction(asked, scores, [self.version] * len(scores), {self.version: 0.5}, self.version)
        if self.behave and len(self.bodies) % self.every == 0:
            answer = self.behave(answer)
        return answer if isinstance(answer, web.Response) else web.json_response(answer)

    async def take_labels(self, request):
        found = real.read_labels(await request.read(), time.time())
        self.labels |= {truth.inference_id: truth.label for truth in found}
        return web.json_response({"stored": len(found), "key": "labels/x"}, status=self.label_status)

    def app(self):
        app = web.Application(client_max_size=1 << 22)
        app.add_routes([web.post("/live/predict", self.predict), web.post("/live/labels", self.take_labels)])
        return app


@pytest.fixture
def server():
    found, loop, ready = Server(), asyncio.new_event_loop(), threading.Event()

    async def start():
        runner = web.AppRunner(found.app())
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        found.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/live"
        found.runner = runner
        ready.set()

    def serve():
        asyncio.set_event_loop(loop)
        loop.run_until_complete(start())
        loop.run_forever()

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(10)
    found.stop = lambda: asyncio.run_coroutine_threadsafe(found.runner.cleanup(), loop).result(10)
    yield found
    with contextlib.suppress(RuntimeError):
        found.stop()
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@pytest.fixture
def frame():
    n = 120
    return pl.DataFrame(
        {
            "key": range(n),
            "amount": [float(k % 97) for k in range(n)],
            "card": [None if k % 5 == 0 else "debit" for k in range(n)],
            "n": [math.nan if k % 7 == 0 else 1.5 for k in range(n)],
            "fraud": [int(k % 97 > 80) for k in range(n)],
        }
    )


@pytest.fixture
def client(server):
    with Api(server.url, concurrency=3, region="eu-west-1", sign=False) as found:
        yield found


# --- making requests ----------------------------------------------------------------------------------------------


def test_rows_become_json_without_nulls_nan_and_truth(frame):
    rows = transactions(frame.with_columns(pl.lit("2026-01-02 03:04:05").str.to_datetime().alias("when")), ["fraud"])
    assert rows[0] == {"key": 0, "amount": 0.0, "when": "2026-01-02T03:04:05.000000"}
    assert rows[1] == {"key": 1, "amount": 1.0, "card": "debit", "n": 1.5, "when": "2026-01-02T03:04:05.000000"}


def test_every_row_is_sent_once_and_its_truth_never(frame):
    made = calls(frame, "fraud", prefix="a", batch=25, singles=20, malformed=6)
    good = [call for call in made if 200 in call.expected]
    assert sorted(int(own.split("-")[1]) for call in good for own in call.ids) == list(range(120))
    assert [call.kind for call in good].count("single") == 20
    assert max(len(call.ids) for call in good) == 25
    assert all(b"fraud" not in call.body for call in good)
    truth = {own: label for call in good for own, label in zip(call.ids, call.labels, strict=True)}
    assert [truth[f"a-{k}"] for k in range(120)] == frame["fraud"].to_list()


def test_malformed_requests_are_mixed_in_and_of_many_kinds(frame):
    made = calls(frame, "fraud", prefix="a", batch=5, malformed=len(KINDS))
    bad = [at for at, call in enumerate(made) if 200 not in call.expected]
    assert {made[at].kind for at in bad} == {kind.name for kind in KINDS}
    assert bad[0] < len(made) / 4
    assert bad[-1] > len(made) * 3 / 4


def test_a_table_without_truth_or_rows_makes_requests_too(frame):
    made = calls(frame.drop("fraud"), "", prefix="a")
    assert {label for call in made for label in call.labels} == {None}
    assert calls(frame[:0], "fraud", prefix="a", singles=5, malformed=5) == []


# --- sending ------------------------------------------------------------------------------------------------------


def test_a_good_server_fails_nothing(server, client, frame):
    seen = []
    report = client.send_all(
        calls(frame, "fraud", prefix="a", batch=10, singles=30, malformed=14), progress=seen.append
    )
    assert (report.failed, report.problems) == (0, [])
    assert report.refused == 14
    assert report.sent == 30 + 9 + 14
    assert seen == list(range(1, report.sent + 1))
    assert report.transactions == 120
    assert report.frauds == frame["fraud"].sum()
    assert report.by_model_version == {"run-1": 120}
    assert report.by_status == {200: 39, 400: 12, 404: 1, 413: 1}
    assert report.auc["run-1"] == 1.0
    assert 0 < report.p50 <= report.p99


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_malformed_request_is_refused_for_what_is_wrong_with_it(client, frame, kind):
    answer = client.send(spoiled(kind, transactions(frame[1:2], ["fraud"])[0]))
    assert answer.problem == ""
    assert answer.malformed
    assert answer.status in kind.expected


def test_connections_are_kept_and_used_at_once(server, client, frame):
    server.delay = 0.02
    client.send_all(calls(frame, "fraud", prefix="a", batch=2))
    assert len(server.connections) <= 3
    assert server.most_busy == 3


def test_requests_are_signed_for_the_api(server, frame, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "local")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")
    with Api(server.url, region="eu-west-1") as client:
        assert client.send_all(calls(frame[:3], "fraud", prefix="a")).failed == 0
    said = server.headers[0]
    assert "/eu-west-1/execute-api/aws4_request" in said["Authorization"]
    assert "SignedHeaders=content-type;host;x-amz-date" in said["Authorization"]


def a_score_of_two(answer):
    answer["predictions"][0]["fraud_probability"] = 2.0
    return answer


def another_id(answer):
    answer["predictions"][0]["inference_id"] = "else"
    return answer


def one_less(answer):
    answer["predictions"].pop()
    return answer


def without_version(answer):
    del answer["model_version"]
    return answer


@pytest.mark.parametrize(
    "behave",
    [
        lambda answer: web.json_response({"message": "Internal server error"}, status=502),
        lambda answer: web.Response(text="<html>"),
        lambda answer: web.json_response({"status": 400}, status=400),
        a_score_of_two,
        another_id,
        one_less,
        without_version,
    ],
)
def test_a_wrong_answer_to_a_good_request_is_a_failure(server, client, frame, behave):
    server.behave, server.every = behave, 4
    report = client.send_all(calls(frame, "fraud", prefix="a", batch=10))
    assert report.sent == 12
    assert report.failed == 3
    assert report.problems
    assert report.transactions == 90


def test_a_malformed_request_that_is_answered_is_a_failure(server, client, frame):
    answer = client.send(calls(frame[:1], "fraud", prefix="a")[0])
    assert answer.problem == ""
    wrongly = spoiled(KINDS[0], {})
    accepted = client.send(type(wrongly)(b'{"amount": 1}', wrongly.kind, (), (), wrongly.expected))
    assert "HTTP 200 instead of 400" in accepted.problem
    assert accepted.malformed


def test_a_server_that_is_gone_is_a_failure_not_an_exception(server, client, frame):
    server.stop()
    report = client.send_all(calls(frame, "fraud", prefix="a", malformed=2))
    assert report.failed == report.sent == 5
    assert set(report.by_status) == {0}
    assert "Refused" in report.problems[0] or "refused" in report.problems[0]


# --- ground truth -------------------------------------------------------------------------------------------------


def test_the_truth_about_a_share_is_delivered(server, client, frame):
    report = client.send_all(calls(frame, "fraud", prefix="a", batch=50))
    chosen = some(report.scored, 0.5, seed=3)
    assert 40 < len(chosen) < 80
    assert chosen == some(report.scored, 0.5, seed=3)
    assert client.send_labels(chosen) == (len(chosen), 0)
    expected = dict(zip([f"a-{k}" for k in range(120)], frame["fraud"], strict=True))
    assert server.labels == {item.inference_id: expected[item.inference_id] for item in chosen}


def test_many_labels_go_in_several_requests_and_unknown_ones_not_at_all(server, client):
    scored = [Scored(f"x-{k}", 0.5, k % 2) for k in range(2_500)] + [Scored("y", 0.5, None)]
    assert client.send_labels(scored) == (2_500, 0)
    assert len(server.labels) == 2_500


def test_labels_count_only_when_all_of_them_were_taken(server, client):
    server.label_status = 200
    assert client.send_labels([Scored("x", 0.5, 1)]) == (0, 1)


def test_labels_that_are_not_taken_are_counted(server, client):
    server.stop()
    assert client.send_labels([Scored("x", 0.5, 1)]) == (0, 1)


# --- traffic that keeps flowing -----------------------------------------------------------------------------------


def test_traffic_flows_at_its_rate_through_a_change_of_models_until_it_is_stopped(server, client, frame):
    with Flow(client, frame, "fraud", "flow", rate=60.0, batch=5) as flow:
        time.sleep(0.7)
        server.version = "run-2"
        time.sleep(0.7)
    sent = flow.report.sent
    assert 40 < sent < 100
    assert flow.report.failed == 0
    assert list(flow.report.by_model_version) == ["run-1", "run-2"]
    time.sleep(0.2)
    assert flow.report.sent == sent
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("flow", "traffic"))]


def test_traffic_begins_anew_with_other_ids(server, client, frame):
    with Flow(client, frame[:6], "fraud", "flow", rate=200.0, batch=2) as flow:
        time.sleep(0.5)
    ids = [item.inference_id for item in flow.report.scored]
    assert len(ids) > 12
    assert len(set(ids)) == len(ids)


def test_requests_are_spread_over_a_time(server, client, frame):
    began = time.monotonic()
    report = client.send_all(calls(frame, "fraud", prefix="a", batch=12), seconds=0.8)
    assert 0.7 < time.monotonic() - began < 2
    assert report.answers[-1].time - report.answers[0].time == pytest.approx(0.72, abs=0.2)


@pytest.mark.parametrize(("seconds", "last"), [(0.0, 3), (1_200.0, 1)])
def test_an_interrupt_ends_traffic_at_once(server, client, frame, seconds, last):
    server.delay = 0.05

    def interrupt(done):
        if done == last:
            raise KeyboardInterrupt

    report, began = Report(), time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        client.send_all(calls(frame, "fraud", prefix="a", batch=1), report, interrupt, seconds=seconds)
    assert time.monotonic() - began < 5
    assert report.sent == last
    served = len(server.bodies)
    assert served < 20
    time.sleep(0.3)
    assert len(server.bodies) == served


# --- arithmetic ---------------------------------------------------------------------------------------------------


def test_auc_is_that_of_scikit_learn_also_with_ties():
    rng = np.random.default_rng(1)
    truth, score = rng.integers(0, 2, 500), np.round(rng.random(500), 1)
    scored = [Scored("x", float(s), int(t)) for s, t in zip(score, truth, strict=True)]
    assert auc(scored) == pytest.approx(roc_auc_score(truth, score))
    assert math.isnan(auc([Scored("x", 0.5, 1)]))
    assert math.isnan(auc([]))


def test_reports_count_and_add_up():
    good = Answer(2.0, 200, 0.010, "single", False, "", "b", (Scored("1", 0.9, 1),))
    slow = Answer(1.0, 200, 0.110, "batch", False, "", "a", (Scored("2", 0.1, 0), Scored("3", 0.2, None)))
    bad = Answer(3.0, 503, 9.000, "single", False, "HTTP 503")
    refused = Answer(4.0, 400, 0.001, "cut off", True)
    taken = Answer(5.0, 200, 0.001, "cut off", True, "cut off: HTTP 200 instead of 400")
    report = Report([good, slow]) + Report([bad, refused, bad, taken])
    assert (report.sent, report.failed, report.refused, report.transactions, report.frauds) == (6, 3, 1, 3, 1)
    assert report.by_status == {200: 3, 400: 1, 503: 2}
    assert list(report.by_model_version.items()) == [("a", 2), ("b", 1)]
    assert report.p50 == pytest.approx(60.0)
    assert report.problems == ["HTTP 503", "cut off: HTTP 200 instead of 400"]
    assert math.isnan(Report().p99)
