"""Small LightGBM models, ways to damage them, and a process that loads what may end it.

``python model_text_kit.py`` is that process: it forks for each model that it reads, because a fork costs a hundredth of
a start. It runs no OpenMP region itself, which forks would not survive.
"""

from __future__ import annotations

import itertools
import os
import re
import resource
import signal
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from fraud.serving import libgomp, model_file, model_text

SECONDS = 20
N_FEATURES = 4
SPECIAL = (
    "nan -nan inf -inf 1e400 1e308 -1e308 1e-400 1e99 1e5 2147483647 2147483648 4294967295 4294967296 -2147483648 "
    "99999999999999999999 -1 -2 -3 0 -0 1 2 3 7 8 16 -7 -8 + - . e 1e 1.5 0x10 1_0 1,2 null 1.2.3 --1 007"
).split()


def rows(n: int = 1500, seed: int = 0) -> np.ndarray:
    """Two numeric columns, one of them with gaps, a category and a column of few values."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, N_FEATURES))
    x[rng.random(n) < 0.2, 1] = np.nan
    x[:, 2] = rng.integers(0, 70, n)
    x[:, 3] = rng.integers(0, 3, n)
    return x


def label(x: np.ndarray, seed: int = 0) -> np.ndarray:
    """Fraud follows the first column, the gaps and some categories."""
    risk = x[:, 0] + 0.7 * np.isnan(x[:, 1]) + (x[:, 2] % 3 == 0) - 2
    return (np.random.default_rng(seed).random(len(x)) < 1 / (1 + np.exp(-2 * risk))).astype(int)


def train(n_trees: int = 3, *, categorical: bool = True, x=None, y=None, **settings):
    """Train a small model; gives the Booster."""
    lightgbm = libgomp.lightgbm()
    x = rows() if x is None else x
    settings = {"objective": "binary", "num_threads": 1, "verbosity": -1, "num_leaves": 7, "seed": 1} | settings
    y = label(x) if y is None else y
    data = lightgbm.Dataset(x, y, categorical_feature=[2] if categorical else [], params=settings)
    return lightgbm.train(settings, data, n_trees)


def deep(text: str) -> str:
    """A tree that is a single long branch."""
    n = model_text.MAX_DEPTH + 2
    tree = {
        "num_leaves": [n + 1],
        "num_cat": [0],
        "split_feature": [0] * n,
        "split_gain": [1] * n,
        "threshold": [0.5] * n,
        "decision_type": [2] * n,
        "left_child": [*range(1, n), -(n + 1)],
        "right_child": [-(k + 1) for k in range(n)],
        "leaf_value": [0.1] * (n + 1),
        "leaf_weight": [1] * (n + 1),
        "leaf_count": [1] * (n + 1),
        "internal_value": [0] * n,
        "internal_weight": [1] * n,
        "internal_count": range(n + 1, 1, -1),
        "is_linear": [0],
        "shrinkage": [1],
    }
    lines = "".join(f"{key}={' '.join(map(str, values))}\n" for key, values in tree.items())
    end = text.index("end of trees")
    return f"{text[: text.index('Tree=0')]}Tree=0\n{lines}\n\n{text[end:]}"


def seal(text: str) -> str:
    """Write tree_sizes and feature_importances anew, so that damage to a tree is not found by these alone."""
    head, first, rest = text.partition("\n\nTree=0\n")
    trees, last, rest = (first[2:] + rest).partition("end of trees\n")
    if not first or not last:
        return text
    blocks = re.split(r"(?<=\n)(?=Tree=\d)", trees)
    head = re.sub(r"tree_sizes=.*", lambda _: f"tree_sizes={' '.join(str(len(block)) for block in blocks)}", head)
    names = re.search(r"feature_names=(.*)", head)
    used: Counter = Counter()
    for block in blocks:
        fields = dict(re.findall(r"^(\w+)=(.*)$", block, flags=re.MULTILINE))
        pairs = zip(fields.get("split_feature", "").split(), fields.get("split_gain", "").split(), strict=False)
        used.update(int(j) for j, gain in pairs if j.isdecimal() and len(j) < 4 and re.match(r"[\d.]*[1-9]", gain))
    names = dict(enumerate(names[1].split(" "))) if names else {}
    order = sorted((j for j in used if j in names), key=lambda j: (-used[j], j))
    lines = "".join(f"{names[j]}={used[j]}\n" for j in order)
    rest = re.sub(r"(feature_importances:\n)(?:.*=.*\n)*", lambda match: match[1] + lines, rest, count=1)
    return f"{head}\n\n{trees}{last}{rest}"


# -- damage: each takes a random generator and the text, and gives bytes or text


def truncated(rng, text):
    ends = [
        rng.integers(len(text)),
        rng.choice([match.start() for match in re.finditer("\n", text)]) + rng.integers(2),
        rng.choice([match.start() for match in re.finditer("Tree=|end of|feature_imp|parameters:|pandas", text)]),
    ]
    tail = ["", "\n", "\nend of trees\n", text[text.index("end of trees") :]]
    return text[: int(rng.choice(ends))] + str(rng.choice(tail))


def flipped(rng, text):
    content = bytearray(text.encode())
    for _ in range(rng.integers(1, 4)):
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    return bytes(content)


def replaced_byte(rng, text):
    content, k = text.encode(), int(rng.integers(len(text)))
    new = [b"\0", b"\xff", b"\xc3\x28", b"", b"\r", b"\t", b" ", b"\n", b"=", bytes([rng.integers(256)])]
    return content[:k] + new[rng.integers(len(new))] + content[k + int(rng.integers(2)) :]


def moved_slice(rng, text):
    a, b = sorted(int(k) for k in rng.integers(len(text), size=2))
    b, c = min(b, a + int(rng.choice([3, 30, 300]))), int(rng.integers(len(text)))
    return [text[:a] + text[b:], text[:b] + text[a:b] + text[b:], text[:c] + text[a:b] + text[c:]][rng.integers(3)]


def changed_lines(rng, text):
    lines = text.split("\n")
    j, k = (int(i) for i in rng.integers(len(lines), size=2))
    if rng.random() < 0.6:  # inside a tree
        j = int(
            rng.choice([i for i, line in enumerate(lines) if re.match(r"[a-z_]+=.* |num_|is_lin|shrink|Tree", line)])
        )
    how = rng.integers(6)
    if how == 0:
        del lines[j]
    elif how == 1:
        lines.insert(j, lines[j])
    elif how == 2:
        lines[j], lines[k] = lines[k], lines[j]
    elif how == 3:
        lines[j] = lines[j].partition("=")[0] + "="
    elif how == 4:
        lines[j] = "x" + lines[j]
    else:
        lines.insert(k, lines[j])
    return "\n".join(lines)


def moved_trees(rng, text):
    parts = re.split(r"(?<=\n)(?=Tree=\d|end of trees)", text)
    j, k = (int(i) for i in rng.integers(len(parts), size=2))
    how = rng.integers(3)
    if how == 0:
        del parts[j]
    elif how == 1:
        parts.insert(k, parts[j])
    else:
        parts[j], parts[k] = parts[k], parts[j]
    return "".join(parts)


def changed_numbers(rng, text, pattern=r"^[a-z_]+=.+$"):
    """Change one line of numbers, all kinds of lines alike."""
    keys = sorted({match[0].partition("=")[0] for match in re.finditer(pattern, text, flags=re.MULTILINE)})
    key = str(rng.choice(keys))
    line = [match for match in re.finditer(rf"^{key}=(.+)$", text, flags=re.MULTILINE)]
    line = line[rng.integers(len(line))]
    numbers = line[1].split(" ")
    j, k = (int(i) for i in rng.integers(len(numbers), size=2))
    how = rng.integers(8)
    if how == 0:
        numbers[j], numbers[k] = numbers[k], numbers[j]
    elif how == 1:
        numbers[j] = re.sub(r"\d", lambda match: str(rng.integers(10)) if rng.random() < 0.5 else match[0], numbers[j])
    elif how == 2:
        del numbers[j]
    elif how == 3:
        numbers.insert(j, numbers[k])
    elif how == 4:
        numbers = numbers[: j + 1]
    elif how == 5 and re.fullmatch(r"-?\d+", numbers[j]):
        numbers[j] = str(int(numbers[j]) + int(rng.choice([-100, -2, -1, 1, 2, 100, 256, 2**31, 2**32])))
    elif how == 6:
        numbers[j] += str(rng.choice(["0", "e9", " ", "-", ".", "1" * 400]))
    else:
        numbers[j] = str(rng.choice(SPECIAL))
    return text[: line.start(1)] + " ".join(numbers) + text[line.end(1) :]


def redirected(rng, text):
    """Send children elsewhere within the tree, or let two change places."""
    block = [match for match in re.finditer(r"num_leaves=(\d+)\n(?:.*\n)*?right_child=.+", text) if int(match[1]) > 1]
    if not block:
        return changed_numbers(rng, text)
    block = block[rng.integers(len(block))]
    lines = block[0].split("\n")
    places = [(i, j) for i, line in enumerate(lines) if "_child=" in line for j in range(line.count(" ") + 1)]
    values = {(i, j): lines[i].partition("=")[2].split(" ")[j] for i, j in places}
    a, b = places[rng.integers(len(places))], places[rng.integers(len(places))]
    if rng.random() < 0.5:
        values[a], values[b] = values[b], values[a]
    else:
        values[a] = str(rng.integers(-int(block[1]) - 2, int(block[1]) + 2))
    for i in {i for i, _ in places}:
        lines[i] = lines[i].partition("=")[0] + "=" + " ".join(value for (k, _), value in values.items() if k == i)
    return text[: block.start()] + "\n".join(lines) + text[block.end() :]


def changed_parameters(rng, text):
    lines = [match for match in re.finditer(r"^\[.*\]$|^pandas.*$|^Column.*$", text, flags=re.MULTILINE)]
    line = lines[rng.integers(len(lines))]
    new = [
        re.sub(r": .*", lambda _: f": {rng.choice(SPECIAL)}]", line[0]), line[0][:-1], line[0][1:], "[x]", "[:]", "[",
        line[0].replace(": ", ":"), line[0].replace("]", '"]'), line[0].replace(":", ": \\"), line[0] + "\n" + line[0],
        line[0].replace(": ", ": 1,"), "", "[a: ]", line[0] + "]", "pandas_categorical:" + "[" * 5000,
    ][rng.integers(15)]  # fmt: skip
    return text[: line.start()] + new + text[line.end() :]


DAMAGE = {
    truncated: 1, flipped: 2, replaced_byte: 1, moved_slice: 1, changed_lines: 2, moved_trees: 1, changed_numbers: 6,
    redirected: 3, changed_parameters: 1,
}  # fmt: skip


def mutants(models: list[str], n: int, seed: int):
    """Yield ``(what was done, bytes)`` n times, never a model as it was; the same for the same seed."""
    kinds, weights = list(DAMAGE), np.array(list(DAMAGE.values())) / sum(DAMAGE.values())
    sound = {text.encode() for text in models}
    for k in itertools.count():
        rng = np.random.default_rng([seed, k])
        damage = kinds[rng.choice(len(kinds), p=weights)]
        text = damage(rng, models[rng.integers(len(models))])
        if isinstance(text, str) and rng.random() < 0.7:
            text = seal(text)
        content = text if isinstance(text, bytes) else text.encode()
        if content not in sound:
            yield damage.__name__, content
            n -= 1
        if not n:
            return


# -- a process that may end


class Scorer:
    """Loads models in forks of a process of its own."""

    def __enter__(self) -> Scorer:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(model_file.__file__).parents[2])},
        )
        return self

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def __call__(self, model: bytes) -> str:
        """Return ``fine``, ``refused`` by LightGBM or Python, ``no probability``, ``hangs`` or ``dies``."""
        self.process.stdin.write(struct.pack("<I", len(model)) + model)
        self.process.stdin.flush()
        return self.process.stdout.readline().decode().strip()


def score(model: bytes) -> int:
    """Load and score all that a service asks of a model; gives the exit code."""
    try:
        booster = model_file.booster_of(model)
    except Exception:
        return 1
    x = np.concatenate([rows(40, seed=3), rows(40, seed=4) * 1e6, np.full((1, N_FEATURES), np.nan)])
    x = np.concatenate([x, -x, np.eye(N_FEATURES) * 1e300, np.zeros((1, N_FEATURES))])
    x = x[:, np.arange(booster.num_feature()) % N_FEATURES]
    try:
        model_file.probabilities(booster, x)
        shares = booster.predict(x, pred_contrib=True, num_threads=1)
    except Exception:
        return 2
    return 0 if np.isfinite(shares).all() else 2


def main() -> None:
    """Answer for each model on standard input, a line each."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libgomp.lightgbm()
    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # LightGBM writes there
    while header := source.read(4):
        model = source.read(struct.unpack("<I", header)[0])
        child = os.fork()
        if not child:
            signal.alarm(SECONDS)
            resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
            os._exit(score(model))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answer = {0: "fine", 1: "refused", 2: "no probability", -signal.SIGALRM: "hangs"}.get(code, f"dies ({code})")
        answers.write(answer + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
