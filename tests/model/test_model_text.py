"""A damaged text model is refused by sight, or else LightGBM can load it: nothing else."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter

import model_text_kit as kit
import numpy as np
import pytest
import training_kit

from fraud.errors import QualityGateError
from fraud.serving import model_file, model_text

WHOLE = "The model file is not a whole LightGBM text model: "


@pytest.fixture(scope="module")
def models():
    """Texts to damage: with categories, without, with a single leaf, with larger trees."""
    boosters = [
        kit.train(),
        kit.train(categorical=False),
        kit.train(2, min_child_samples=2000),
        kit.train(5, num_leaves=15, min_data_per_group=5),
    ]
    return [booster.model_to_string() for booster in boosters]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A training job of the product."""
    channel = training_kit.put(tmp_path_factory.mktemp("channel"), training_kit.history(training_kit.table()))
    with pytest.MonkeyPatch.context() as patch:
        job = training_kit.run(patch, tmp_path_factory.mktemp("job"), channel)
    assert job.exit_code == 0, job.reason
    return job.model_dir


def reason(text: str | bytes, n_features: int | None = None) -> str:
    """Why a text is refused; empty when it is not."""
    try:
        model_text.check(text if isinstance(text, bytes) else text.encode(), n_features)
    except QualityGateError as error:
        assert "\n" not in str(error) and str(error).endswith("."), str(error)
        return str(error)
    return ""


# -- sound models


@pytest.mark.parametrize(
    "settings",
    [
        {"n_trees": 1},
        {"n_trees": 1, "num_leaves": 2},
        {"n_trees": 200},
        {"n_trees": 200, "categorical": False, "learning_rate": 1.0},
        {"n_trees": 20, "num_leaves": 200, "min_child_samples": 1, "min_child_weight": 0},
        {"n_trees": 20, "min_data_per_group": 1, "cat_smooth": 0, "max_cat_to_onehot": 1},
        {"n_trees": 20, "zero_as_missing": True},
        {"n_trees": 20, "use_missing": False},
        {"n_trees": 20, "boosting": "dart"},
        {"n_trees": 20, "bagging_fraction": 0.5, "bagging_freq": 1, "feature_fraction": 0.5, "max_bin": 7},
        {"n_trees": 20, "boost_from_average": False, "metric": ["auc", "average_precision", "binary_logloss"]},
        {"n_trees": 20, "sigmoid": 0.3, "scale_pos_weight": 7.5, "extra_trees": True, "max_depth": 3},
    ],
    ids=lambda settings: ",".join(f"{name}={value}" for name, value in settings.items()),
)
def test_what_lightgbm_writes_is_accepted(settings):
    booster = kit.train(**settings)
    for rounds in (None, 1, max(1, booster.num_trees() // 2)):
        assert reason(booster.model_to_string(num_iteration=rounds), kit.N_FEATURES) == ""
    again = model_file.booster_of(booster.model_to_string().encode())
    assert reason(again.model_to_string()) == ""


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
@pytest.mark.parametrize("gap", [np.nan, 0, np.inf, -np.inf])
def test_models_of_strange_columns_are_accepted(scale, gap):
    x = kit.rows(400, seed=5)
    y = kit.label(x)
    x[:, 0] *= scale
    x[:, 3] = 7  # says nothing
    x[np.random.default_rng(6).random(len(x)) < 0.3, 1] = gap
    assert reason(kit.train(10, x=x, y=y, min_child_samples=2).model_to_string()) == ""


def test_models_of_a_single_leaf_are_accepted():
    text = kit.train(3, min_child_samples=2000).model_to_string()
    assert "num_leaves=1\n" in text and reason(text) == ""
    assert reason(kit.seal(swap("leaf_count=1500", "leaf_count=")(text))) == ""  # as LightGBM wrote before 4.6
    text = kit.train(30, x=kit.rows(60), min_gain_to_split=1.5).model_to_string()  # trees at first, then only leaves
    assert reason(text) == ""


def test_a_continued_model_is_accepted():
    lightgbm, x = kit.libgomp.lightgbm(), kit.rows(seed=8)
    settings = {"objective": "binary", "num_threads": 1, "verbosity": -1}
    more = lightgbm.train(settings, lightgbm.Dataset(x, kit.label(x)), 3, init_model=kit.train(categorical=False))
    assert reason(more.model_to_string()) == ""


def test_names_may_hold_equal_signs(models):
    assert reason(models[0].replace("Column_0", "a=b")) == ""


def test_the_number_of_features_is_compared(models):
    assert reason(models[0], 4) == ""
    assert reason(models[0], 5) == "The model takes 4 features, not 5."


# -- one thing wrong


def put(key, values):
    """Write another line in the first tree that has more than one leaf; gives a function of the text."""

    def damage(text):
        line = re.search(rf"^{key}=(.*)$", text[text.index("Tree=0") :], flags=re.MULTILINE)
        start = text.index("Tree=0")
        new = values(line[1].split(" ")) if callable(values) else values.split(" ")
        return text[: start + line.start(1)] + " ".join(str(value) for value in new) + text[start + line.end(1) :]

    return damage


def at(k, value):
    """Another number at a place."""
    return lambda numbers: [*numbers[:k], value, *numbers[k + 1 :]]


def both(*damages):
    def damage(text):
        for one in damages:
            text = one(text)
        return text

    return damage


def swap(old, new):
    """Another text, which must be there."""

    def damage(text):
        assert old in text, old
        return text.replace(old, new, 1)

    return damage


def split_by_category(text):
    """Place of the first categorical split."""
    types = re.search("decision_type=(.*)", text)[1].split(" ")
    return next(k for k, value in enumerate(types) if int(value) & model_text.CATEGORICAL)


def grown(text):
    """A million times the rows, which LightGBM counts in 32 bits."""

    def larger(numbers):
        return [int(number) * 1_500_000 for number in numbers]

    return both(put("leaf_count", larger), put("internal_count", larger))(text)


ONE_THING = {
    "empty": (lambda text: "", "its header has no proper tree"),
    "null byte": (swap("Tree=1", "Tree=1\0"), "it holds bytes that are no text"),
    "not ASCII": (swap("Column_0", "Colümn_0"), "it holds bytes that are no text"),
    "carriage return": (swap("tree\n", "tree\r\n"), "it holds bytes that are no text"),
    "version": (swap("version=v4", "version=v5"), "its header has no proper version"),
    "classes": (swap("num_class=1", "num_class=2"), "its header has no proper num_class"),
    "trees per round": (swap("iteration=1", "iteration=2"), "its header has no proper num_tree_per_iteration"),
    "objective": (swap("objective=binary", "objective=regression"), "its header has no proper objective"),
    "sigmoid": (swap("sigmoid:1", "sigmoid:0"), "its objective has no usable sigmoid"),
    "header line twice": (
        swap("num_class=1\n", "num_class=1\n" * 2),
        "its header has no proper num_tree_per_iteration",
    ),
    "header line more": (swap("\n\nTree=0", "\naverage_output\n\nTree=0"), "its header has a line too many"),
    "max_feature_idx": (swap("max_feature_idx=3", "max_feature_idx=4"), "do not agree"),
    "a name less": (swap("feature_names=Column_0 ", "feature_names="), "do not agree"),
    "a name twice": (swap("names=Column_0 Column_1", "names=Column_0 Column_0"), "do not agree"),
    "equal sign in an info": (swap("feature_infos=[", "feature_infos=[="), "its header has no proper feature_infos"),
    "an info less": (swap("feature_infos=[", "feature_infos=none ["), "do not agree"),
    "tree_sizes": (lambda text: re.sub("tree_sizes=.", "tree_sizes=9", text), "is not where tree_sizes says"),
    "tree number": (swap("Tree=1\n", "Tree=2\n"), "tree 1 is not where tree_sizes says"),
    "line twice": (swap("num_cat=", "num_cat=0\nnum_cat="), "tree 0 has other lines than LightGBM writes"),
    "line missing": (lambda text: re.sub("leaf_value=.*\n", "", text, count=1), "tree 0 has other lines"),
    "one more leaf": (put("num_leaves", at(0, 8)), "tree 0 has another number of split_feature"),
    "no leaf": (put("num_leaves", "0"), "tree 0 has an impossible num_leaves"),
    "many leaves": (put("num_leaves", "999999999"), "tree 0 has an impossible num_leaves"),
    "feature too high": (put("split_feature", at(2, 4)), "tree 0 splits a feature that does not exist"),
    "feature below 0": (put("split_feature", at(0, -1)), "tree 0 splits a feature that does not exist"),
    "decision_type bits": (put("decision_type", at(0, 16)), "tree 0 has an unknown decision_type"),
    "decision_type 3": (put("decision_type", at(0, 12)), "tree 0 has an unknown decision_type"),
    "threshold nan": (put("threshold", at(0, "nan")), "threshold holds something else than numbers"),
    "threshold -inf": (put("threshold", at(0, "-inf")), "has an infinite number in threshold"),
    "a number in two": (put("split_gain", at(0, "1 1")), "tree 0 has another number of split_gain"),
    "leaf nan": (put("leaf_value", at(0, "nan")), "leaf_value holds something else than numbers"),
    "leaf infinite": (put("leaf_value", at(6, "1e999")), "tree 0 has an infinite number in leaf_value"),
    "leaf huge": (put("leaf_value", at(6, "1e300")), "its leaf values add up to no score"),
    "a leaf less": (put("leaf_value", lambda numbers: numbers[:-1]), "tree 0 has another number of leaf_value"),
    "a leaf more": (put("leaf_value", lambda numbers: [*numbers, "0"]), "tree 0 has another number of leaf_value"),
    "underscore": (put("leaf_count", at(0, "1_0")), "leaf_count holds something else than numbers"),
    "no number": (put("leaf_value", at(0, "1e-")), "leaf_value holds something else than numbers"),
    "circle": (put("left_child", at(3, 0)), "tree 0 has a child where none can be"),
    "own child": (put("left_child", at(2, 2)), "tree 0 has a child where none can be"),
    "node too high": (put("left_child", at(0, 6)), "tree 0 has a child where none can be"),
    "leaf too high": (put("right_child", at(0, -8)), "tree 0 has a child where none can be"),
    "leaf twice": (put("right_child", at(5, -1)), "tree 0 has a node or leaf with no parent or two"),
    "a leaf without rows": (put("leaf_count", at(0, 0)), "tree 0 has a leaf without rows"),
    "rows appear": (put("internal_count", at(0, 9999)), "tree 0 has an internal_count unlike its children's"),
    "rows past counting": (grown, "tree 0 has an impossible internal_count"),
    "num_cat": (put("num_cat", "9"), "tree 0 has another number of categorical splits than num_cat"),
    "categorical unknown": (
        both(put("num_cat", "0"), put("decision_type", lambda n: [2] * len(n))),
        "cat_boundaries stand in a tree without categorical splits",
    ),
    "categories of another split": (
        lambda text: put("threshold", at(split_by_category(text), 1))(text),
        "tree 0 has a categorical threshold out of turn",
    ),
    "category elsewhere": (put("cat_boundaries", at(0, 1)), "has cat_boundaries that do not rise from 0"),
    "category past the end": (put("cat_boundaries", at(-1, 9999)), "tree 0 has another number of cat_"),
    "category too large": (put("cat_threshold", at(0, 2**32)), "tree 0 has an impossible cat_threshold"),
    "category below 0": (put("cat_threshold", at(0, -1)), "tree 0 has an impossible cat_threshold"),
    "linear": (put("is_linear", "1"), "tree 0 is linear"),
    "shrinkage": (put("shrinkage", "nan"), "shrinkage holds something else than numbers"),
    "deep": (kit.deep, "tree 0 is deeper than 1000"),
    "no end": (swap("\nend of trees\n", "\nend of tree\n"), "its trees do not end where tree_sizes says"),
    "another tree behind": (swap("end of trees\n", "end of trees\n\nTree=3\n"), "feature_importances"),
    "importances": (lambda text: re.sub(r"(\nColumn_\d=)\d+", r"\g<1>99", text), "feature_importances"),
    "parameter twice": (swap("[verbosity", "[boosting: gbdt]\n[verbosity"), "its parameters are not as"),
    "parameter quoted": (swap("[boosting: gbdt]", '[boosting: "gbdt]'), "its parameters are not as"),
    "parameter no number": (swap("[verbosity: ", "[verbosity: x"), "its parameters are not as"),
    "linear parameter": (swap("[linear_tree: 0]", "[linear_tree: 1]"), "its parameters are not as"),
    "pandas": (swap("pandas_categorical:", "pandas_categorical:{}"), "it does not end with pandas_categorical"),
    "nested": (
        lambda text: text.partition("pandas_cat")[0] + "pandas_categorical:" + "[" * 100_000 + "\n",
        "it does not end with pandas_categorical",
    ),
    "more behind": (lambda text: text + "\n", "it does not end with pandas_categorical"),
}
UNSEALED = {"tree_sizes", "importances", "tree number", "no end", "another tree behind"}


@pytest.mark.parametrize("name", ONE_THING)
def test_one_thing_wrong_is_named(models, name):
    damage, expected = ONE_THING[name]
    text = damage(models[0])
    assert text != models[0]
    found = reason(text if name in UNSEALED else kit.seal(text))
    assert found.startswith(WHOLE) and expected in found


def test_sealing_changes_no_sound_model(models):
    assert [kit.seal(text) for text in models] == models


def test_every_line_is_needed(models):
    """Neither a line less nor one twice is accepted, wherever it stands; a parameter less does no harm."""
    for text in models:
        lines = text.split("\n")
        for k, line in enumerate(lines):
            # Unsealed where sealing would mend it.
            seal = (lambda text: text) if line.startswith("Column_") else kit.seal
            assert reason(seal("\n".join(lines[:k] + [line] + lines[k:]))), f"twice: {line}"
            if not line.startswith("["):
                assert reason(seal("\n".join(lines[:k] + lines[k + 1 :]))), f"without: {line}"


def test_no_beginning_is_accepted(models):
    """Wherever it was cut."""
    for text in models:
        for end in range(0, len(text), 7):
            assert reason(text[:end])
        for end in range(len(text) - 50, len(text)):
            assert reason(text[:end])


# -- anything wrong


def survive(models, n: int, seed: int) -> Counter:
    """Damage models n times; what is accepted must load and give probabilities."""
    counts: Counter = Counter()
    with kit.Scorer() as scorer:
        for text in models:
            assert reason(text) == "" and scorer(text.encode()) == "fine"
        for k, (what, content) in enumerate(kit.mutants(models, n, seed)):
            if reason(content):
                counts[what, "refused"] += 1
                continue
            found = scorer(content)
            assert found == "fine", f"mutant {k} of seed {seed} ({what}) is accepted, but LightGBM: {found}"
            counts[what, "accepted"] += 1
    return counts


def test_thousands_of_damaged_models_end_nobody(models):
    counts = survive(models, 3200, seed=20)
    assert counts.total() == 3200
    assert {what for what, how in counts if how == "refused"} == {damage.__name__ for damage in kit.DAMAGE}
    accepted = sum(count for (_, how), count in counts.items() if how == "accepted")
    assert 200 < accepted < 1600, counts  # else the mutants are too harmless, or too rough to reach LightGBM


@pytest.mark.slow
def test_many_thousands_of_damaged_models_end_nobody(models):
    larger = kit.train(40, num_leaves=31, min_data_per_group=5, min_child_samples=3, max_cat_to_onehot=1)
    assert survive([*models, larger.model_to_string()], 20_000, seed=21).total() == 20_000


def test_lightgbm_itself_does_not_survive_what_is_refused(models):
    """Or nobody would need this."""
    with kit.Scorer() as scorer:
        assert scorer(models[0][: len(models[0]) // 2].encode()).startswith("dies")
        assert scorer(kit.seal(ONE_THING["a leaf less"][0](models[0])).encode()).startswith("dies")
        assert scorer(models[0].encode()) == "fine"


# -- the whole door


def test_a_sound_model_is_loaded(served):
    loaded = model_file.load(served, model_file.sha256((served / "model.txt").read_bytes()))
    assert loaded.booster.num_feature() == len(loaded.schema.features)


@pytest.mark.parametrize(
    ("damage", "promise", "expected"),
    [
        (lambda text: text, "0" * 64, "model.txt has SHA-256 {digest}…, but 000000000000… was released."),
        (put("left_child", at(0, 0)), "", f"{WHOLE}tree 0 "),
        (lambda text: text[: len(text) // 2], "", f"{WHOLE}tree "),
        (put("shrinkage", "nan"), "0" * 64, "model.txt has SHA-256 {digest}…, but 000000000000… was released."),
    ],
    ids=["other hash", "damaged", "truncated", "other hash and damaged"],
)
def test_no_child_is_asked_about_a_file_that_cannot_be_right(served, tmp_path, monkeypatch, damage, promise, expected):
    folder = shutil.copytree(served, tmp_path / "model")
    text = damage((folder / "model.txt").read_text())
    (folder / "model.txt").write_text(text)
    monkeypatch.setattr(model_file.sys, "executable", str(tmp_path / "no python"))
    with pytest.raises(QualityGateError) as refused:
        model_file.load(folder, promise)
    assert str(refused.value).startswith(expected.format(digest=model_file.sha256(text.encode())[:12]))
    assert "\n" not in str(refused.value)


def test_other_scores_than_at_training_are_refused(served, tmp_path):
    folder = shutil.copytree(served, tmp_path / "model")
    golden = json.loads((folder / "golden.json").read_text())
    golden["scores"][0] += 1e-9
    (folder / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(QualityGateError) as refused:
        model_file.load(folder)
    expected = f"1 of {len(golden['scores'])} golden rows score differently than at training."
    assert str(refused.value) == expected


def test_what_lightgbm_prints_does_not_hide_the_scores(served, tmp_path):
    """It warns of parameters that it does not know, as those of a later version."""
    folder = shutil.copytree(served, tmp_path / "model")
    text = (folder / "model.txt").read_text()
    (folder / "model.txt").write_text(swap("[num_gpu: 1]", "[num_gpu: 1]\n[num_stars: 1]")(text))
    assert model_file.load(folder).booster.num_trees() == text.count("Tree=")


def test_a_child_that_dies_is_refused(served, tmp_path, monkeypatch):
    """Should the check ever miss something."""
    folder = shutil.copytree(served, tmp_path / "model")
    (folder / "model.txt").write_text("tree\n\nTree=0\nnothing\nend of trees\n")
    monkeypatch.setattr(model_text, "check", lambda model: None)
    with pytest.raises(QualityGateError, match=r"^The model cannot be loaded \(exit code 1\): .+$"):
        model_file.load(folder)
