"""The benchmark of false alarms: it loses no payment, keeps the time of day, and counts alarms as people get them."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import drift_month as month


def test_hours_hold_every_payment_and_keep_their_time_of_day():
    seconds = np.sort(np.random.default_rng(1).integers(86_400, 86_400 * 5, 2000))
    frame = pl.DataFrame({month.TIME: seconds, month.AMOUNT: np.arange(2000.0)})
    hours = month.by_hour(frame)
    assert pl.concat(hours).equals(frame)
    hours = hours[: len(hours) // 24 * 24]
    begin = int(seconds[0])
    for factor in (0.25, 1.0, 3.0):
        made = list(month.again(hours, factor, 60, np.random.default_rng(2)))
        assert len(made) == 60
        assert sum(map(len, made)) / 60 == pytest.approx(factor * 2000 / 96, rel=0.3)
        for k, hour in enumerate(made):
            assert {(second - begin) // 3600 % 24 for second in hour[month.TIME].to_list()} <= {k % 24}


def test_a_verdict_is_one_alarm_until_it_has_been_another_for_a_day(monkeypatch):
    said = iter("....DDDD..DD.sD" + 23 * "." + "D" + 24 * "." + "D")
    rule = {"rule": "psi", "feature": "x", "fired": True}
    given = []

    def judge(baseline, sketch, policy, window, endpoint, now, previous):
        given.append(list(previous))
        letter = next(said)
        verdict = "DRIFT" if letter == "D" else "OK"
        return {"verdict": verdict, "signal": letter in "Ds", "rules": [rule]}

    class Counted:
        n = 10

        def __init__(self, *_):
            pass

        def merge(self, other):
            pass

    monkeypatch.setattr(month, "judge", judge)
    monkeypatch.setattr(month, "Sketch", Counted)
    monkeypatch.setattr(month, "counted", lambda world, frame: (Counted(), frame, 1))
    world = SimpleNamespace(baseline=None, schema=None, history={month.AMOUNT: pl.Series([10.0])})
    seen = month.Seen()
    amounts = [10.0] * 26 + [400.0] + [10.0] * 60  # of the windows of a day the third to the last but none
    month.live_through(world, iter(amounts), seen)
    assert (seen.checks, seen.signals, seen.drift, seen.alarms) == (64, 10, 9, 2)
    assert seen.why == {"psi x": 2} and seen.payments == 640
    assert given[5] == [True, False] and given[8] == [True, True]
    assert seen.simple == 1  # it stays in the window, so it is one
