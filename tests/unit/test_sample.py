"""The sample has IEEE-CIS's shape: facts published about that table, determinism, streaming, injected drift."""

import csv
import dataclasses
import errno
import gc
import hashlib
import json
import subprocess
import sys
import weakref
from pathlib import Path

import lightgbm
import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from fraud.demo import sample, sample_facts, sample_people
from fraud.demo.sample_shift import shift
from fraud.errors import DataError, ParameterError, PlatformError

FACTS = Path(__file__).parents[3] / "shared" / "data" / "ieee_cis_facts"
published = pytest.mark.skipif(not FACTS.is_dir(), reason="the published tables are not on this machine")
ROWS = 40_000


@pytest.fixture(scope="module")
def full():
    return sample.table(ROWS, seed=7)


@pytest.fixture(scope="module")
def core():
    return sample.table(24_000, seed=7, columns="core")


def rate(frame, *by):
    return {
        row[0]: row[1] for row in frame.group_by(*by).agg(pl.col("isFraud").mean()).select(*by, "isFraud").iter_rows()
    }


# --- shape ------------------------------------------------------------------------------------------------------------


@published
def test_names_and_order_are_those_of_the_merged_table(full):
    with (FACTS / "missing_ratio.csv").open() as file:
        assert full.columns == [row["column"] for row in csv.DictReader(file)]


@published
def test_types_are_those_of_the_published_schema(full):
    said = {}
    for name in ("bq_schema_train_identity.json", "bq_schema_train_transaction.json"):
        said |= {column["name"]: column["type"] for column in json.loads((FACTS / name).read_text())}
    for name, dtype in full.schema.items():
        assert (dtype == pl.String) == (said[name] in ("STRING", "BOOLEAN")), name
    counts = [sum(dtype == kind for dtype in full.dtypes) for kind in (pl.Float64, pl.Int64, pl.String)]
    assert counts == [399, 4, 31]


@published
def test_every_column_is_missing_as_often_as_published(full):
    with (FACTS / "missing_ratio.csv").open() as file:
        expected = {row["column"]: float(row["missing_percent"]) for row in csv.DictReader(file)}
    found = {name: 100 * full[name].null_count() / full.height for name in full.columns}
    wrong = {
        name: (round(found[name], 2), expected[name]) for name in expected if abs(found[name] - expected[name]) > 1.2
    }
    assert not wrong
    never = [name for name in expected if expected[name] == 0]
    assert all(found[name] == 0 for name in never)


def test_columns_of_a_block_share_one_exact_null_mask(full):
    blocks = [sample_facts.expand(names) for names, *_ in sample_facts.MASKS]
    for block in [block for block in blocks if len(block) > 1]:
        nulls = full.select(pl.col(block).is_null())
        first = nulls.to_series(0)
        assert all((nulls[name] == first).all() for name in block), block[0]
    covered = {name for block in blocks for name in block}
    assert {f"V{k}" for k in range(1, 340)} <= covered


def test_blocks_differ_from_each_other(full):
    masks = {full[name].is_null().to_numpy().tobytes() for name in ("V1", "V12", "V35", "V75", "V138", "V167", "V217")}
    assert len(masks) == 7


def test_v_columns_are_collinear_within_groups_and_not_across(full):
    present = full.filter(pl.col("V12").is_not_null()).select(f"V{k}" for k in range(12, 35)).to_numpy()
    correlation = np.corrcoef(present.T)
    neighbours = [correlation[k, k + 1] for k in range(0, 21, 3)]
    assert min(neighbours) > 0.75
    assert abs(correlation[0, 22]) < 0.6
    explained = np.sort(np.linalg.eigvalsh(correlation))[::-1]
    assert explained[:12].sum() / explained.sum() > 0.9


# --- distributions ----------------------------------------------------------------------------------------------------


def test_products_and_their_fraud_are_as_published(full):
    share = dict(full["ProductCD"].value_counts(normalize=True).iter_rows())
    fraud = rate(full, "ProductCD")
    for at, product in enumerate(sample_facts.PRODUCTS):
        assert share[product] == pytest.approx(sample_facts.PRODUCT_ROWS[at] / sample_facts.ROWS, abs=0.01)
        assert fraud[product] == pytest.approx(sample_facts.PRODUCT_FRAUD[at], rel=0.25)
    assert full["isFraud"].mean() == pytest.approx(sample_facts.FRAUDS / sample_facts.ROWS, rel=0.06)


def test_fraud_depends_on_hour_card_and_device_as_published(full):
    hour = full.with_columns((pl.col("TransactionDT") // 3600 % 24).alias("hour"))
    early, midday = (hour.filter(pl.col("hour").is_in(hours))["isFraud"].mean() for hours in ([6, 7, 8], [12, 13, 14]))
    assert early > 2.5 * midday
    card = rate(full, "card6")
    assert 1.8 < card["credit"] / card["debit"] < 4
    device = rate(full, "DeviceType")
    assert device["mobile"] > device["desktop"] > 1.8 * device[None]


def test_amounts_are_heavy_tailed_with_the_published_quartiles(full):
    amount = full.filter(pl.col("isFraud") == 0)["TransactionAmt"]
    assert [amount.quantile(q) for q in (0.25, 0.5, 0.75)] == pytest.approx([43.97, 68.5, 120], rel=0.12)
    assert amount.mean() == pytest.approx(134.51, rel=0.12)
    assert amount.quantile(0.99) == pytest.approx(1_104, rel=0.15)
    assert amount.std() > 1.5 * amount.mean()
    assert full["TransactionAmt"].min() >= 0.251


def test_time_is_sorted_and_spans_the_published_calendar(full):
    second = full["TransactionDT"]
    assert second.is_sorted()
    assert 86_400 <= second.min() < second.max() <= 15_811_131
    quartiles = [second.quantile(q) for q in (0.25, 0.5, 0.75)]
    assert quartiles == pytest.approx([3_027_058, 7_306_528, 11_246_620], rel=0.04)
    assert full["TransactionID"].to_list() == list(range(2_987_000, 2_987_000 + ROWS))


def test_columns_begin_to_be_collected_as_in_the_published_drift(full):
    early, late = full[: ROWS // 6], full[-ROWS // 6 :]
    for name, before, after in (("M7", 0.84, 0.39), ("M1", 0.69, 0.28), ("V12", 0.31, 0.08), ("id_31", 0.60, 0.80)):
        assert early[name].null_count() / early.height == pytest.approx(before, abs=0.09)
        assert late[name].null_count() / late.height == pytest.approx(after, abs=0.09)
    newer = set(late["id_31"].drop_nulls()) - set(early["id_31"].drop_nulls())
    assert newer  # browsers age


def test_cards_recur_and_frauds_come_in_bursts_on_a_few_of_them(full):
    assert full["card1"].n_unique() < ROWS / 4
    entity = full.with_columns(pl.concat_str("card1", "addr1", "card2", "card5", ignore_nulls=True).alias("entity"))
    fraud = entity.filter(pl.col("isFraud") == 1)
    repeated = fraud.with_columns(pl.len().over("entity").alias("n")).filter(pl.col("n") > 1)
    assert repeated.height / fraud.height > 0.6
    assert fraud["entity"].n_unique() > 0.25 * fraud.height
    again = repeated.sort("TransactionDT").with_columns(pl.col("TransactionDT").diff().over("entity").alias("gap"))
    assert again["gap"].drop_nulls().quantile(0.4) < 2 * 86_400


def test_a_known_client_has_a_constant_first_day(full):
    known = full.filter(
        (pl.col("D1") > 0) & (pl.col("D1") < 640) & (pl.col("isFraud") == 0) & pl.col("addr1").is_not_null()
    )
    day = known.with_columns((pl.col("TransactionDT") // 86_400 - pl.col("D1")).alias("first"))
    same = (
        day.group_by("card1", "addr1", "P_emaildomain")
        .agg(pl.len(), pl.col("first").n_unique())
        .filter(pl.col("len") > 2)
    )
    assert same["first"].median() == 1


# --- learning: not for claims, but a pattern must be learnable, and a new one must hurt -------------------------------


def learn(frame, rows):
    texts = [name for name in frame.columns if frame[name].dtype == pl.String]
    coded = frame.with_columns(pl.col(texts).cast(pl.Categorical).to_physical().cast(pl.Int32))
    table = coded.drop("TransactionID", "isFraud", "TransactionDT").to_pandas()
    truth = frame["isFraud"].to_numpy()
    settings = dict(
        objective="binary", num_leaves=15, learning_rate=0.1, min_child_samples=60, boost_from_average=False
    )
    settings |= dict(verbose=-1, num_threads=1, seed=1, deterministic=True, feature_fraction=0.5, lambda_l2=5)
    data = lightgbm.Dataset(table[rows], truth[rows], categorical_feature=texts)
    scores = lightgbm.train(settings, data, 90).predict(table)
    return lambda part: roc_auc_score(truth[part], scores[part])


def between(n, low, high):
    part = np.zeros(n, dtype=bool)
    part[low:high] = True
    return part


def test_a_model_is_good_but_not_perfect_on_the_next_days(core):
    auc = learn(core, between(24_000, 0, 19_200))
    assert 0.83 < auc(between(24_000, 19_200, 24_000)) < 0.95


def test_a_frozen_model_gets_worse_as_patterns_rotate(core):
    last = between(24_000, 20_000, 24_000)
    frozen, current = learn(core, between(24_000, 0, 8_000)), learn(core, between(24_000, 0, 20_000))
    assert current(last) > frozen(last) + 0.05


def test_a_new_pattern_hurts_until_it_is_learnt(core):
    past, live = core[:18_000], shift(core[18_000:], "pattern", share=0.06)
    both = pl.concat([past, live])
    newest = between(24_000, 22_000, 24_000)
    champion = learn(both, between(24_000, 0, 18_000))
    challenger = learn(both, between(24_000, 0, 22_000))
    assert champion(newest) < 0.82
    assert challenger(newest) > champion(newest) + 0.06


# --- determinism and streaming ----------------------------------------------------------------------------------------


def digest(frame):
    return hashlib.sha256(frame.write_csv().encode()).hexdigest()


def test_the_same_seed_gives_the_same_table_in_another_process():
    program = (
        "import hashlib; from fraud.demo import sample; "
        "print(hashlib.sha256(sample.table(3000, 11).write_csv().encode()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert other == digest(sample.table(3_000, 11))
    assert other != digest(sample.table(3_000, 12))


def test_what_a_seed_gives_does_not_change_by_accident():
    frame = sample.table(500, 7)
    assert frame["isFraud"].sum() == GOLDEN["frauds"]
    assert frame["card1"].sum() == GOLDEN["card1"]
    assert frame["TransactionDT"].sum() == GOLDEN["TransactionDT"]
    assert frame["TransactionAmt"].sum() == pytest.approx(GOLDEN["TransactionAmt"])


GOLDEN = {"frauds": 15, "card1": 5154463, "TransactionDT": 3698558337, "TransactionAmt": 71089.844}


def test_any_part_is_the_same_as_that_part_of_the_whole():
    whole = sample.table(20_000, 5, columns="core")
    for start, stop in ((0, 100), (8_191, 8_193), (8_192, 16_384), (15_000, 20_000), (19_999, 20_000)):
        part = sample.table(20_000, 5, start, stop_row=stop, columns="core")
        assert part.equals(whole[start:stop]), (start, stop)
    assert sample.table(20_000, 5, 7, stop_row=7, columns="core").height == 0


def test_chunks_are_small_and_add_up():
    frames = list(sample.generate(20_000, 5, columns="core"))
    assert [frame.height for frame in frames] == [8_192, 8_192, 3_616]
    assert pl.concat(frames).equals(sample.table(20_000, 5, columns="core"))


def test_in_a_steady_world_only_the_patterns_of_fraud_change():
    steady = sample.table(20_000, 5, columns="core", steady=True)
    early, late = steady[:6_000], steady[14_000:]
    for name in steady.columns:
        assert early[name].null_count() / 6_000 == pytest.approx(late[name].null_count() / 6_000, abs=0.035), name
    for name in ("D1", "D15", "C1", "V130", "id_02"):
        assert early[name].median() == pytest.approx(late[name].median(), rel=0.2, abs=8), name
    assert set(early["id_31"].drop_nulls()) == set(late["id_31"].drop_nulls())
    part = sample.table(20_000, 5, 9_000, stop_row=9_100, columns="core", steady=True)
    assert part.equals(steady[9_000:9_100])


def test_core_holds_the_same_values_as_full(full):
    core = sample.table(ROWS, seed=7, columns="core", stop_row=2_000)
    assert core.equals(full[:2_000].select(core.columns))
    assert 50 <= core.width <= 70


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["made.csv", "made.parquet"])
def test_a_file_holds_the_table(tmp_path, name):
    said = []
    path = sample.write(tmp_path / name, 10_000, 3, columns="core", echo=said.append)
    expected = sample.table(10_000, 3, columns="core")
    found = pl.read_parquet(path) if name.endswith("parquet") else pl.read_csv(path, schema=expected.schema)
    assert found.equals(expected)
    assert "10,000 rows" in said[-1]
    assert [item.name for item in tmp_path.iterdir()] == [name]


def test_a_file_is_never_overwritten_without_force(tmp_path):
    path = tmp_path / "made.csv"
    path.write_text("mine")
    with pytest.raises(DataError, match="exists already; --force"):
        sample.write(path, 100, 3, columns="core")
    assert path.read_text() == "mine"
    sample.write(path, 100, 3, columns="core", force=True)
    assert len(path.read_text().splitlines()) == 101


@pytest.mark.parametrize("name", ["made.csv", "made.parquet"])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, name, monkeypatch):
    real = sample._progress

    def full_disk(done, more, echo):
        if done:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(done, more, echo)

    monkeypatch.setattr(sample, "_progress", full_disk)
    (tmp_path / name).write_text("mine")
    with pytest.raises(PlatformError, match="the disk is full"):
        sample.write(tmp_path / name, 20_000, 3, columns="core", force=True)
    assert [item.name for item in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PlatformError, match=r"nowhere/made\.csv could not be written: No such file"):
        sample.write(tmp_path / "nowhere" / "made.csv", 10, columns="core")


@pytest.mark.parametrize(
    "call",
    [
        lambda: sample.generate(0),
        lambda: sample.generate(10, -1),
        lambda: sample.generate(10, 1, 11),
        lambda: sample.generate(10, 1, 5, stop_row=4),
        lambda: sample.generate(10, columns="some"),
        lambda: sample.write("made.xlsx", 10),
    ],
)
def test_senseless_parameters_are_refused_before_anything_is_made(call):
    with pytest.raises(ParameterError):
        call()


# --- labels and drift -------------------------------------------------------------------------------------------------


def test_labels_of_fraud_arrive_late_and_those_of_the_rest_at_maturity():
    fraud = np.arange(20_000) % 4 == 0
    days = sample.label_delay(fraud, 7)
    assert (days[~fraud] == sample.MATURITY_DAYS).all()
    assert np.median(days[fraud]) == pytest.approx(18, rel=0.05)
    assert days[fraud].min() >= 0.5
    assert days[fraud].max() <= sample.MATURITY_DAYS
    assert (sample.label_delay(fraud[9_000:9_100], 7, start_row=9_000) == days[9_000:9_100]).all()


def test_shifts_do_what_they_say(core):
    frame = core[:4_000]
    more = shift(frame, "amount", factor=1.6)
    assert more["TransactionAmt"].to_list() == pytest.approx((frame["TransactionAmt"] * 1.6).to_list())
    assert more.drop("TransactionAmt").equals(frame.drop("TransactionAmt"))
    gone = shift(frame, "missing", columns="C1", share=0.6)
    assert gone["C1"].null_count() / 4_000 == pytest.approx(0.6, abs=0.03)
    strange = shift(frame, "category", columns="card6", value="prepaid", share=0.2)
    assert (strange["card6"] == "prepaid").mean() == pytest.approx(0.2, abs=0.03)
    tested = shift(frame, "card_testing", share=0.3)
    assert (tested["TransactionAmt"] == 1.0).mean() == pytest.approx(0.3, abs=0.04)
    for changed in (more, gone, strange, tested):
        assert changed.schema == frame.schema


def test_a_pattern_rewrites_some_rows_as_fraud_and_leaves_the_others(core):
    frame = core[:4_000]
    changed = shift(frame, "pattern", share=0.1)
    assert changed.schema == frame.schema
    keep = ["TransactionID", "TransactionDT", "ProductCD"]
    assert changed.select(keep).equals(frame.select(keep))
    touched = (changed.hash_rows() != frame.hash_rows()).to_numpy()
    assert touched.mean() == pytest.approx(0.1, abs=0.02)
    assert (changed["isFraud"].to_numpy()[touched] == 1).all()
    assert changed.equals(shift(frame, "pattern", share=0.1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(kind="amounts"), "must be one of"),
        (dict(kind="missing", columns="C99"), "no column 'C99'"),
        (dict(kind="missing", share=1.5), "at most 1"),
        (dict(kind="amount", columns="card6"), "holds no numbers"),
    ],
)
def test_a_senseless_shift_is_refused(core, change, words):
    with pytest.raises(ParameterError, match=words):
        shift(core[:10], **change)


def test_a_pattern_needs_a_table_of_the_sample():
    with pytest.raises(ParameterError, match="made by `fraud sample`"):
        shift(pl.DataFrame({"TransactionDT": [1], "amount": [2.0]}), "pattern")


def test_shares_do_not_outlive_their_clients():
    """Kept by the clients' address in memory they would be given to whoever comes there next: another world."""
    people = dataclasses.replace(sample_people.population(5), kept={})
    shares = people.shares(0, None)
    assert people.shares(0, None) is shares and len(shares) == len(people.pools[0])
    gone = weakref.ref(shares)
    del people, shares
    gc.collect()
    assert gone() is None
