"""Starting or adopting a training job; SageMaker itself is a fake with its answers' shapes."""

from types import SimpleNamespace

import pytest

from fraud.pipeline import training

P = SimpleNamespace(num_boost_round=50, learning_rate=0.1, endpoint_name="fraud", training_instances=1)


class FakeSageMaker:
    """Holds jobs: name to status, hyperparameters and number of machines."""

    def __init__(self, jobs):
        self.jobs = jobs

    def list_training_jobs(self, NameContains, **_):
        names = [name for name in reversed(self.jobs) if NameContains in name]
        return {"TrainingJobSummaries": [{"TrainingJobName": n, "TrainingJobStatus": self.jobs[n][0]} for n in names]}

    def describe_training_job(self, TrainingJobName):
        _, given, *count = self.jobs[TrainingJobName]
        return {"HyperParameters": given, "ResourceConfig": {"InstanceCount": count[0] if count else 1}}


@pytest.fixture
def start(monkeypatch):
    def with_jobs(jobs):
        monkeypatch.setattr(training, "client", lambda service: FakeSageMaker(jobs))
        monkeypatch.setattr(training, "_submit", lambda run, p, base: f"{base}-new")
        run = SimpleNamespace(run_id="r1", results=lambda step: {})
        return training.start(run, P)

    return with_jobs


SAME = {"num_boost_round": "50", "learning_rate": "0.1"}


@pytest.mark.parametrize(
    ("jobs", "chosen"),
    [
        ({}, "fraud-r1-new"),
        ({"fraud-r1-1": ("Completed", SAME)}, "fraud-r1-1"),
        ({"fraud-r1-1": ("InProgress", SAME)}, "fraud-r1-1"),
        ({"fraud-r1-1": ("Failed", SAME)}, "fraud-r1-new"),
        ({"fraud-r1-1": ("Completed", SAME | {"num_boost_round": "99"})}, "fraud-r1-new"),
        ({"fraud-r1-1": ("Completed", SAME), "fraud-r1-2": ("Completed", {})}, "fraud-r1-1"),
        ({"fraud-r1-1": ("Completed", SAME, 2)}, "fraud-r1-new"),
        ({"other-fraud-r1-1": ("Completed", SAME), "fraud-r10-1": ("Completed", SAME)}, "fraud-r1-new"),
    ],
)
def test_a_job_is_adopted_only_when_it_is_this_runs_and_does_the_same(start, jobs, chosen):
    assert start(jobs) == chosen


def test_only_what_train_py_takes_is_passed_on():
    taken = training.hyperparameters(P)
    assert taken == SAME
