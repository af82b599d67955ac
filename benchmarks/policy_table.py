"""The figures of `pseudo_labels.py` as Markdown, and what follows from them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from policy_data import TITLES

OFF, CONTROL, NEVER_RETRAINED = "off", "off, other seed", "never retrained"
MEAN, EACH = 0.002, 0.005  # a policy may be worse than `off` by so much on average, and by so much with any one seed
TRUTHS = {
    "both": "both classes after 7 days",
    "reports": "frauds only, after 10 days on average; silence counts after 30",
    "none": "none ever",
}
WAYS = {
    "product": "The product's split: the newest true fifth and the week before teach nothing, opinions always",
    "all": "All labelled rows teach; the newest true fifth told how many trees",
}
Key = tuple[str, str, str, str]  # training, dataset, regime, policy


def by_key(found: list[dict[str, Any]]) -> dict[Key, list[dict[str, Any]]]:
    """Figures of the seeds, in the order they were measured."""
    groups: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    for one in found:
        groups[one["training"], one["dataset"], one["regime"], one["policy"]].append(one)
    return groups


def versus_off(groups: dict[Key, list[dict[str, Any]]], key: Key, metric: str) -> np.ndarray:
    """Difference to `off`, seed by seed."""
    off = {one["seed"]: one[metric] for one in groups[(*key[:3], OFF)]}
    return np.array([one[metric] - off[one["seed"]] for one in groups[key]])


def failures(groups: dict[Key, list[dict[str, Any]]], training: str, policy: str) -> tuple[list[str], int]:
    """Where a policy is worse than `off` by more than the margin, the worst first; and how often it was compared."""
    bad, n = [], 0
    for key in groups:
        if key[0] != training or key[3] != policy:
            continue
        for metric in ("auc", "ap"):
            n += 1
            d = versus_off(groups, key, metric)
            if d.mean() < -MEAN or d.min() < -EACH:
                what = f"{TITLES[key[1]]} / {key[2]}: {metric.upper()} {d.mean():+.4f}, worst seed {d.min():+.4f}"
                bad.append((d.mean(), what))
    return [what for _, what in sorted(bad)], n


def table(groups: dict[Key, list[dict[str, Any]]], training: str) -> str:
    lines = [
        "| data | truth | policy | AUC | AP | AUC − off | AP − off | AP worse | pseudo-labels | wrong |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key, seeds in groups.items():
        if key[0] != training:
            continue
        cells = [TITLES[key[1]], key[2], key[3]]
        for metric in ("auc", "ap"):
            values = np.array([one[metric] for one in seeds])
            spread = f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.4f}{spread}")
        if key[3] == OFF:
            cells += ["", "", "", "", ""]
        else:
            d = {metric: versus_off(groups, key, metric) for metric in ("auc", "ap")}
            cells += [f"{d[metric].mean():+.4f}" for metric in ("auc", "ap")]
            cells.append(f"{int((d['ap'] < 0).sum())} of {len(seeds)}")
            pseudo, wrong = (np.mean([one[name] for one in seeds]) for name in ("pseudo", "wrong"))
            cells += [f"{pseudo:,.0f}", f"{wrong / pseudo:.1%}"] if pseudo else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdict(groups: dict[Key, list[dict[str, Any]]]) -> str:
    """Say which policies are never worse than `off`, and so may be the default."""
    trainings = list(dict.fromkeys(key[0] for key in groups))
    policies = [p for p in dict.fromkeys(key[3] for key in groups) if p not in (OFF, NEVER_RETRAINED)]
    lines = [
        f"Never worse than `off` means: on every set, with every kind of truth, AUC and AP lower by at most {MEAN} on "
        f"average and {EACH} with any one seed."
    ]
    passed = {policy for policy in policies if policy != CONTROL}
    for training in trainings:
        lines.append(f"\n{WAYS[training]}:\n")
        for policy in policies:
            bad, n = failures(groups, training, policy)
            if bad:
                passed.discard(policy)
            what = f"is worse in {len(bad)} of {n} comparisons, most in {bad[0]}" if bad else "is never worse"
            lines.append(f"* `{policy}` {what}.")
    names = ", ".join(f"`{name}`" for name in sorted(passed))
    lines.append("\n`off, other seed` is `off` with other random draws in training: what it shows is chance.")
    lines.append(
        f"\nNever worse than `off` throughout: {names}; the default may be `off` or that."
        if names
        else "\nNo policy is never worse than `off`: the default is `off`."
    )
    return "\n".join(lines)


def report(found: list[dict[str, Any]]) -> str:
    """Tables, one for each way to train, and the verdict; nothing measured gives nothing."""
    if not found:
        return "Nothing was measured."
    groups = by_key(found)
    parts = ["Truth: " + "; ".join(f"*{name}*: {what}" for name, what in TRUTHS.items()) + ".\n"]
    for training in dict.fromkeys(key[0] for key in groups):
        parts += [f"{WAYS[training]}:\n", table(groups, training), ""]
    return "\n".join([*parts, verdict(groups)])
