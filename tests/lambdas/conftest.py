"""Fixtures of both Lambdas' tests: an AWS in memory with a release in its bucket, and small HTTP servers."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import boto3
import drift_check_kit
import pytest
from inference_kit import Runtime, app
from lambdas_kit import BASELINE, BUCKET, ENDPOINT, RELEASE, SCHEMA, keys, put
from moto import mock_aws
from moto.cloudwatch import cloudwatch_backends
from moto.core import DEFAULT_ACCOUNT_ID

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_REGION": "eu-west-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "ENDPOINT_NAME": ENDPOINT,
    "BUCKET": BUCKET,
}


@pytest.fixture(scope="module")
def aws():
    """AWS in memory, and an environment that knows no other; one for all tests of a file: clients are slow to make."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        with mock_aws():
            client = boto3.client("s3")
            client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
            yield client


@pytest.fixture
def s3(aws):
    """The bucket, with nothing but a release in it."""
    for key in keys(aws):
        aws.delete_object(Bucket=BUCKET, Key=key)
    put(aws, f"releases/{ENDPOINT}/current.json", RELEASE)
    put(aws, RELEASE["schema_key"], json.loads(SCHEMA.to_json()))
    put(aws, RELEASE["baseline_key"], BASELINE)
    return aws


@pytest.fixture
def serve():
    """Start HTTP servers on loopback; each answers with what a function makes of a request."""
    servers = []

    def start(answer):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                request = SimpleNamespace(path=self.path, headers=self.headers, body=body, connection=self.connection)
                if (found := answer(request)) is None:
                    self.close_connection = True
                    return
                status, headers, content = found
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def clients(aws):
    """Clients are slow to make; the real one of the endpoint is for those who ask for it."""
    app.service.cache_clear()
    yield app.service()
    app.service.cache_clear()


@pytest.fixture(scope="module")
def real_runtime(clients):
    return clients.runtime


@pytest.fixture
def service(s3, clients, real_runtime):
    """The Lambda's service over the bucket and the endpoint in memory."""
    clients.runtime, clients.settings = Runtime(), app.Settings(ENDPOINT, BUCKET)
    clients.releases = app.Releases(clients._read, ENDPOINT, time.monotonic)
    return clients


@pytest.fixture(scope="module")
def topic(aws):
    return boto3.client("sns").create_topic(Name="fraud-alarms")["TopicArn"]


@pytest.fixture(scope="module")
def made_once(aws):
    """Clients of the drift check are slow to make, too."""
    return {name: boto3.client(name, config=drift_check_kit.aws.PATIENCE) for name in ("s3", "sns", "cloudwatch")}


@pytest.fixture
def bucket(s3, made_once, monkeypatch):
    """The bucket as the drift check sees it."""
    monkeypatch.setattr(drift_check_kit.aws, "client", made_once.__getitem__)
    return drift_check_kit.aws.Bucket(BUCKET)


@pytest.fixture
def pipeline(s3, serve, topic, made_once, tmp_path, monkeypatch):
    """CodePipeline, with the Lambda around it set up: policy, topic, clock."""
    service = drift_check_kit.CodePipeline()
    monkeypatch.setenv("PIPELINE_NAME", "fraud-retrain")
    monkeypatch.setenv("TOPIC_ARN", topic)
    monkeypatch.setenv("AWS_ENDPOINT_URL_CODEPIPELINE", serve(service))
    (tmp_path / "policy.json").write_text(json.dumps(drift_check_kit.POLICY))
    monkeypatch.setattr(drift_check_kit.app, "POLICY_FILE", tmp_path / "policy.json")
    monkeypatch.setattr(drift_check_kit.app.time, "time", lambda: drift_check_kit.NOON + 60)
    clients = made_once | {"codepipeline": boto3.client("codepipeline", config=drift_check_kit.aws.PATIENCE)}
    monkeypatch.setattr(drift_check_kit.aws, "client", clients.__getitem__)
    drift_check_kit.told().clear()
    cloudwatch_backends[DEFAULT_ACCOUNT_ID]["eu-west-1"].metric_data.clear()
    return service
