"""Read a LightGBM text model as strictly as LightGBM writes it.

LightGBM trusts its own text: it reads past the end of a short one, counts the numbers of few arrays, follows children
without looking where they lead and looks categories up at any address. So nothing passes here but what
``Booster.model_to_string()`` writes for a binary model: the same lines in the same order, in each array as many numbers
as the tree needs, each number within its bounds. Such a text LightGBM can load, every row ends in a leaf, and every
score is a probability. Whether it is the right one, only the golden rows tell.

What this product does not grow is refused too: random forests, linear trees, monotone constraints, and texts that begin
after the first tree.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

import numpy as np

from fraud.errors import QualityGateError

HEADER = {
    "tree": "tree",
    "version": "version=v4",
    "num_class": "num_class=1",
    "num_tree_per_iteration": "num_tree_per_iteration=1",
    "label_index": r"label_index=\d{1,9}",
    "max_feature_idx": r"max_feature_idx=(\d{1,9})",
    "objective": r"objective=binary sigmoid:(\d+(?:\.\d+)?(?:e[-+]\d{2,3})?)",
    "feature_names": "feature_names=(.+)",
    "feature_infos": r"feature_infos=((?: ?(?:none|\[[-+.\deinf]+:[-+.\deinf]+\]|-?\d+(?::-?\d+)*)(?![^ ]))+)",
    "tree_sizes": r"tree_sizes=(\d{1,9}(?: \d{1,9})*)",
}
ONE, NODES, LEAVES = "one", "nodes", "leaves"  # how many numbers an array has
TREE = {  # in the order of the file
    "num_leaves": ONE,
    "num_cat": ONE,
    "split_feature": NODES,
    "split_gain": NODES,
    "threshold": NODES,
    "decision_type": NODES,
    "left_child": NODES,
    "right_child": NODES,
    "leaf_value": LEAVES,
    "leaf_weight": LEAVES,
    "leaf_count": LEAVES,
    "internal_value": NODES,
    "internal_weight": NODES,
    "internal_count": NODES,
    "is_linear": ONE,
    "shrinkage": ONE,
}
REALS = ["split_gain", "leaf_value", "leaf_weight", "internal_value", "internal_weight", "shrinkage"]
# A threshold is infinite where missing values part from all others.
ALPHABET = dict.fromkeys(REALS, b"0123456789- .e+") | {"threshold": b"0123456789- .e+inf"}
PLAIN = [name.encode() for name in TREE]
WITH_CATEGORIES = [*PLAIN[:-2], b"cat_boundaries", b"cat_threshold", *PLAIN[-2:]]

MAX_LEAVES = 131_072  # LightGBM's own limit of num_leaves
MAX_DEPTH = 1_000  # LightGBM descends recursively, and reasons take memory that grows with the depth's square
MAX_SCORE = 1e100  # gradients over LightGBM's least hessian, 1e-15, stay far below, and sums below infinity
CATEGORICAL = 1
DECISION_TYPES = [0, 2, 4, 6, 8, 10, 1, 5, 9]  # bits 2 and 3: missing is none, zero or NaN; categories have no default

PRINTABLE = bytes(range(32, 127)) + b"\n"
PARAMETER = re.compile(r"\[([a-z_0-9]+): (.*)\]")
NUMBER = r"-?(?:0|[1-9]\d{0,19})(?:\.\d{1,20})?(?:e[-+]\d{2,3})?"
NUMBERS = re.compile(f"(?:{NUMBER}(?:,{NUMBER})*)?")
# LightGBM makes JSON of the parameters when it loads them: these in quotes, all others as they are.
TEXTS = {
    "objective", "boosting", "data_sample_strategy", "data", "valid", "tree_learner", "device_type", "metric",
    "monotone_constraints_method", "forcedsplits_filename", "forcedbins_filename", "parser_config_file",
    "label_column", "weight_column", "group_column", "machine_list_filename", "machines", "gpu_device_id_list",
}  # fmt: skip


def check(model: bytes, n_features: int | None = None) -> None:
    """Refuse a text that is not a whole, sound LightGBM model for two classes.

    Parameters
    ----------
    model : bytes
        What ``Booster.model_to_string()`` wrote.
    n_features : int, optional
        How many features it must take; by default any number.

    Raises
    ------
    QualityGateError
        With the first thing that is wrong.
    """
    if model.translate(None, PRINTABLE):
        _refuse("it holds bytes that are no text")
    head, _, _ = model.partition(b"\n\n")
    max_feature_idx, sigmoid, names, infos, sizes = _header(head.decode())
    features = names.split(" ")
    if not len(set(features) - {""}) == len(features) == len(infos.split(" ")) == int(max_feature_idx) + 1:
        _refuse("max_feature_idx, feature_names and feature_infos do not agree")
    if n_features is not None and len(features) != n_features:
        raise QualityGateError(f"The model takes {len(features)} features, not {n_features}.")
    if not 0 < float(sigmoid) <= MAX_SCORE:
        _refuse("its objective has no usable sigmoid")
    begin = len(head) + 2
    tree_sizes = [int(size) for size in sizes.split(" ")]
    trees = _Trees(model, begin, tree_sizes)
    used = _check_trees(trees, len(features), float(sigmoid))
    _check_rest(model[begin + sum(tree_sizes) :].decode(), features, used)


def _refuse(reason: str) -> NoReturn:
    raise QualityGateError(f"The model file is not a whole LightGBM text model: {reason}.")


def _header(head: str) -> list[str]:
    lines = head.split("\n")
    found: list[str] = []
    for k, (name, pattern) in enumerate(HEADER.items()):
        match = re.fullmatch(pattern, lines[k]) if k < len(lines) else None
        if not match:
            _refuse(f"its header has no proper {name}")
        found.extend(match.groups())
    if len(lines) > len(HEADER):
        _refuse("its header has a line too many")
    return found


class _Trees:
    """The arrays of all trees, one after the other: a single pass is quicker than one per tree."""

    def __init__(self, model: bytes, begin: int, sizes: list[int]) -> None:
        self.lines: dict[bytes, list[bytes]] = {name: [] for name in WITH_CATEGORIES}
        self.with_categories: list[int] = []
        for k, size in enumerate(sizes):
            block = model[begin : begin + size]
            begin += size
            mark = b"Tree=%d\n" % k
            if not (block.startswith(mark) and block.endswith(b"\n\n\n")):
                _refuse(f"tree {k} is not where tree_sizes says")
            parts = [line.partition(b"=") for line in block[len(mark) : -3].split(b"\n")]
            keys = [key for key, _, _ in parts]
            if keys == WITH_CATEGORIES:
                self.with_categories.append(k)
            elif keys != PLAIN:
                _refuse(f"tree {k} has other lines than LightGBM writes")
            for key, _, value in parts:
                self.lines[key].append(value)

    def numbers(self, name: str, counts: np.ndarray, owners: np.ndarray | None = None) -> np.ndarray:
        """Numbers of one array of all trees, as float64, once each tree has as many as it must."""
        values = self.lines[name.encode()]
        found = np.array([value.count(b" ") + 1 if value else 0 for value in values], dtype=np.int64)
        every(found == counts, np.ones_like(found), f"has another number of {name}", owners)
        text = b" ".join(value for value in values if value)
        if text.translate(None, ALPHABET.get(name, b"0123456789- ")):  # Python reads 1_0 and nan as numbers
            _refuse(f"{name} holds something else than numbers")
        try:
            numbers = np.fromiter(map(float, text.split(b" ") if text else []), np.float64)
        except ValueError:
            _refuse(f"{name} holds something else than numbers")
        every(
            np.isfinite(numbers) | ((numbers > 0) & (name == "threshold")),
            counts,
            f"has an infinite number in {name}",
            owners,
        )
        return numbers


def every(good: np.ndarray, counts: np.ndarray, problem: str, owners: np.ndarray | None = None) -> None:
    """Refuse the model when something is not good, and name its tree.

    Parameters
    ----------
    good : ndarray of bool
        Of all trees, one after the other.
    counts : ndarray of int
        How many belong to each tree.
    problem : str
        Ends the sentence.
    owners : ndarray of int, optional
        Which trees these are; by default all.
    """
    if not good.all():
        tree = int(np.searchsorted(np.cumsum(counts), np.argmin(good), side="right"))
        _refuse(f"tree {tree if owners is None else owners[tree]} {problem}")


def _check_trees(trees: _Trees, n_features: int, sigmoid: float) -> np.ndarray:
    """Check all trees; gives how often each feature splits, as LightGBM counts it."""
    one = np.ones(len(trees.lines[b"num_leaves"]), dtype=np.int64)
    num_leaves = trees.numbers("num_leaves", one)
    every((num_leaves >= 1) & (num_leaves <= MAX_LEAVES), one, "has an impossible num_leaves")
    leaves = num_leaves.astype(np.int64)
    nodes = leaves - 1
    for name in ("leaf_weight", "leaf_count"):  # LightGBM leaves them out where nothing was split
        lines = trees.lines[name.encode()]
        trees.lines[name.encode()] = [line or b"0" if n == 1 else line for line, n in zip(lines, leaves, strict=True)]
    counts = {ONE: one, NODES: nodes, LEAVES: leaves}
    a = {name: trees.numbers(name, counts[length]) for name, length in TREE.items()}

    every(a["is_linear"] == 0, one, "is linear")
    every((a["split_feature"] >= 0) & (a["split_feature"] < n_features), nodes, "splits a feature that does not exist")
    every(np.isin(a["decision_type"], DECISION_TYPES), nodes, "has an unknown decision_type")
    largest = np.maximum.reduceat(np.abs(a["leaf_value"]), np.cumsum(leaves) - leaves)
    if largest.sum() * sigmoid > MAX_SCORE:
        _refuse("its leaf values add up to no score")
    slots = _check_shape(a, nodes, leaves)
    _check_counts(a, nodes, leaves, slots)
    _check_categories(trees, a, nodes)
    splits: np.ndarray = np.bincount(a["split_feature"][a["split_gain"] > 0].astype(np.int64), minlength=n_features)
    return splits


def _check_shape(a: dict[str, np.ndarray], nodes: np.ndarray, leaves: np.ndarray) -> np.ndarray:
    """Each node and leaf hangs below one other; gives the places of left and right children among all of them."""
    tree = np.repeat(np.arange(len(nodes)), nodes)
    first_node, first_slot = np.cumsum(nodes) - nodes, np.cumsum(nodes + leaves) - (nodes + leaves)
    own = np.arange(len(tree)) - first_node[tree]
    below = np.array([a["left_child"], a["right_child"]])
    # LightGBM numbers nodes as it splits them, parents first; that leaves no room for a circle.
    inside = np.where(below < 0, below >= -leaves[tree], (below > own) & (below < nodes[tree])).all(axis=0)
    every(np.asarray(inside), nodes, "has a child where none can be")
    below = below.astype(np.int64)
    slots = first_slot[tree] + np.where(below < 0, nodes[tree] - 1 - below, below)
    reached = np.bincount(slots.ravel(), minlength=int((nodes + leaves).sum()))
    reached[first_slot] += 1  # the root, or the only leaf
    every(reached == 1, nodes + leaves, "has a node or leaf with no parent or two")
    for k in np.flatnonzero(nodes > MAX_DEPTH):
        depth = [1] * int(nodes[k])
        for j, children in enumerate(below[:, first_node[k] : first_node[k] + nodes[k]].T.tolist()):
            for child in children:
                if child > 0:
                    depth[child] = depth[j] + 1
        if max(depth) > MAX_DEPTH:
            _refuse(f"tree {k} is deeper than {MAX_DEPTH}")
    return np.asarray(slots)


def _check_counts(a: dict[str, np.ndarray], nodes: np.ndarray, leaves: np.ndarray, slots: np.ndarray) -> None:
    """Rows of a node are those of its children; reasons divide by them."""
    fewest = np.repeat(leaves > 1, leaves)  # a tree that never split may know of no rows
    every(a["leaf_count"] >= fewest, leaves, "has a leaf without rows")
    ends = np.cumsum(np.stack([nodes, leaves], axis=1).ravel())  # nodes and leaves of each tree take turns
    is_leaf = np.repeat(np.arange(len(ends)) % 2 == 1, np.diff(ends, prepend=0))
    rows = np.empty(len(is_leaf))
    rows[~is_leaf], rows[is_leaf] = a["internal_count"], a["leaf_count"]
    every(rows[slots].sum(axis=0) == a["internal_count"], nodes, "has an internal_count unlike its children's")
    every(a["internal_count"] < 2**31, nodes, "has an impossible internal_count")


def _check_categories(trees: _Trees, a: dict[str, np.ndarray], nodes: np.ndarray) -> None:
    """A split by category finds its bits, and each set of bits has its split."""
    one, tree = np.ones_like(nodes), np.repeat(np.arange(len(nodes)), nodes)
    split = np.flatnonzero(a["decision_type"].astype(np.int64) & CATEGORICAL)
    splits = np.bincount(tree[split], minlength=len(nodes))
    every(a["num_cat"] == splits, one, "has another number of categorical splits than num_cat")
    owners = np.flatnonzero(splits)
    if owners.tolist() != trees.with_categories:
        _refuse("cat_boundaries stand in a tree without categorical splits, or lack in one that has some")
    every(
        a["threshold"][split] == np.arange(len(split)) - np.repeat(np.cumsum(splits) - splits, splits),
        splits,
        "has a categorical threshold out of turn",
    )
    counts = splits[owners] + 1
    boundaries = trees.numbers("cat_boundaries", counts, owners)
    last = np.cumsum(counts) - 1
    first = last - counts + 1
    rising = np.diff(boundaries, prepend=-1) > 0
    rising[first] = boundaries[first] == 0
    every(rising, counts, "has cat_boundaries that do not rise from 0", owners)
    bits = trees.numbers("cat_threshold", boundaries[last], owners)
    every((bits >= 0) & (bits < 2**32), boundaries[last], "has an impossible cat_threshold", owners)


def _check_rest(rest: str, features: list[str], used: np.ndarray) -> None:
    """What stands behind the trees: importances, parameters and pandas' categories."""
    if not rest.startswith("end of trees\n"):
        _refuse("its trees do not end where tree_sizes says")
    order = [j for j in np.argsort(-used, kind="stable") if used[j]]
    importances = "".join(f"{features[j]}={used[j]}\n" for j in order)
    begin = f"end of trees\n\nfeature_importances:\n{importances}\nparameters:\n"
    if not rest.startswith(begin):
        _refuse("its feature_importances do not follow from its trees")
    parameters, _, categories = rest[len(begin) :].partition("\n\nend of parameters\n\npandas_categorical:")
    seen = set()
    for line in parameters.split("\n"):
        match = PARAMETER.fullmatch(line)
        name, value = match.groups() if match else ("", "")
        proper = value.isprintable() and not set(value) & set('"\\') if name in TEXTS else NUMBERS.fullmatch(value)
        if not name or not proper or name in seen or (name == "linear_tree" and value != "0"):
            _refuse("its parameters are not as LightGBM writes them")
        seen.add(name)
    try:
        found = json.loads(categories) if categories.find("\n") == len(categories) - 1 else 0
    except (ValueError, RecursionError):
        found = 0
    if not (found is None or (isinstance(found, list) and all(isinstance(item, list) for item in found))):
        _refuse("it does not end with pandas_categorical")
