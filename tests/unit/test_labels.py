"""Ground truth: how a statement is written, and which statement counts."""

from hypothesis import given
from hypothesis import strategies as st

from fraud.label_files import read_label_file
from fraud.labels import GroundTruth, LabelColumns, hour_folder, in_hour_folder, render_label_line, resolve

DAY = 86_400.0

TRUTHS = st.builds(
    GroundTruth,
    st.sampled_from("abc"),
    st.integers(0, 1),
    st.integers(0, 5).map(float),
    st.sampled_from(["k1", "k2"]),
)


@given(TRUTHS)
def test_reading_is_the_inverse_of_writing(truth):
    line = render_label_line(truth).encode()
    assert read_label_file(line, truth.source_key, LabelColumns(), DAY).labels == [truth]


@given(st.lists(TRUTHS), st.randoms())
def test_the_newest_truth_wins_in_any_order(truths, random):
    shuffled = random.sample(truths, len(truths))
    found = resolve(truths)
    assert found == resolve(shuffled)
    assert set(found) == {truth.inference_id for truth in truths}
    for truth in truths:
        kept = found[truth.inference_id]
        assert (kept.time, kept.source_key, kept.label) >= (truth.time, truth.source_key, truth.label)


def test_later_truth_is_not_known_before():
    truths = [GroundTruth("a", 0, 10.0), GroundTruth("a", 1, 20.0)]
    assert resolve(truths)["a"].label == 1
    assert resolve(truths, as_of=19.0)["a"].label == 0
    assert resolve(truths, as_of=9.0) == {}


def test_the_folder_of_an_hour_is_known_by_its_name():
    assert hour_folder(1_767_357_296.0) == "labels/2026/01/02/12/"
    assert in_hour_folder("labels/2026/01/02/12/a.jsonl")
    for name in ("labels/2026/01/02/12.csv", "labels/2026/01/bank.csv", "labels/bank.csv", "labels/2026/1/2/3/x"):
        assert not in_hour_folder(name)
