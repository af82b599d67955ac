"""The simulated month of permanent drift, shortened; `make bench` runs it whole."""

import contextlib
import sys
from pathlib import Path

import pytest

from fraud.decision import Decision, Outcome
from fraud.errors import ConflictError
from fraud.governor import token_for

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import governor_month


def test_four_days_of_drift_and_faults_keep_every_promise(capsys):
    assert governor_month.main(["--days", "4", "--seed", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("every promise held")
    assert int(lines[-1].split()[0].replace(",", "")) > 5000
    starts = [line for line in lines if "  start governor-" in line]
    told = [int(line.split(" calls failed; ")[1].split()[0]) for line in lines if " calls failed; " in line]
    assert len(told) == 6
    assert len(starts) == sum(told) > 40


@pytest.mark.parametrize("broken", ["naive", "never", "forgetful"])
def test_governors_that_break_a_promise_are_found(monkeypatch, capsys, broken):
    def naive(verdict, store, pipeline, policy, owner, clock, new_labels=None):
        """Look, then start: what most examples do."""
        state, _ = store.get()
        token = token_for(verdict["endpoint"], verdict["model_version"], verdict["window"])
        if broken == "never" or (state or {}).get("token") == token or pipeline.in_flight():
            return Outcome(Decision(False, ("DUPLICATE",)))
        execution = pipeline.start(token)
        if broken == "naive":
            with contextlib.suppress(ConflictError):
                store.put_if({"token": token}, store.get()[1])
        return Outcome(Decision(True, ("START",)), execution)

    monkeypatch.setattr(governor_month, "start_once", naive)
    assert governor_month.main(["--days", "2", "--every", "60", "--quiet"]) == 1
    said = capsys.readouterr().out
    assert ("stuck: only 0 starts" in said) is (broken == "never")
    assert ("starts, but 2 are allowed" in said) is (broken != "never")
