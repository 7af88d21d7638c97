"""Check the built-in data set ``builtin:captions`` and print what there is to know about it.

python scripts/check_captions.py

The exit status is 1 if a reference does not fill every slot of its prompt, a prompt or a text comes twice, or the files
are not what scripts/make_captions.py makes. BLEU is that of Papineni et al. (2002), four-grams, one brevity penalty for
all rows, on lower-cased words and marks: good for comparing the lines here, not for comparing with other tools.
"""

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import combinations
from typing import Any

import make_captions
from caption_scenes import FOLDER, GRAMMAR, Scene

from inlay.data.slots import parse_slots, slot_accuracy

Row = dict[str, Any]
Told = dict[str, list[tuple[Scene, list[make_captions.Telling]]]]


def main() -> int:
    splits = {split: _rows(split) for split in make_captions.ROWS}
    train, test = splits["train"], splits["test"]
    told = make_captions.tell_scenes()
    problems = [*_problems(splits), *_not_as_made(told)]
    print(
        f"{'split':<8}{'rows':>6}{'texts':>7}{'slots':>7}{'words: min':>12}{'mean':>6}{'max':>5}{'two sentences':>15}"
    )
    for split, rows in splits.items():
        print(_describe(split, rows))
    _report_words(splits)
    _report_frames(told)
    _report_combinations(train, test)
    print(f"\n{'on test':<44}{'all slots':>10}{'slots':>8}{'BLEU':>8}")
    _score("a reference, against the others", test, lambda row: row["references"][0], lambda row: row["references"][1:])
    _score("the prompt, copied", test, lambda row: row["prompt"])
    _score("the values of the prompt, listed", test, lambda row: ", ".join(value for _, value in _slots(row)) + ".")
    _score("the caption of the nearest prompt in train", test, lambda row: _nearest(row, train)["completion"])
    _score("a reference of the next row", test, lambda row: test[(test.index(row) + 1) % len(test)]["references"][0])
    print("\n" + ("\n".join(problems) or "no problem found"))
    return 1 if problems else 0


def _rows(split: str) -> list[Row]:
    text = (FOLDER / f"{split}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _texts(row: Row) -> list[str]:
    return [row["completion"]] if "completion" in row else row["references"]


def _slots(row: Row) -> tuple[tuple[str, str], ...]:
    slots = parse_slots(row["prompt"])
    assert slots is not None
    return slots


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


def _problems(splits: dict[str, list[Row]]) -> list[str]:
    problems = []
    scenes: dict[frozenset[tuple[str, str]], str] = {}
    texts: dict[str, str] = {}
    for split, rows in splits.items():
        for number, row in enumerate(rows, 1):
            place = f"{split}.jsonl:{number}"
            problems += [f"{place}: misses a slot: {t}" for t in _texts(row) if slot_accuracy(row["prompt"], t) != 1]
            for known, new in [(scenes, frozenset(_slots(row))), *((texts, text) for text in _texts(row))]:
                if new in known:
                    problems.append(f"{place}: the same as {known[new]}: {new}")
                known[new] = place
    return problems


def _not_as_made(told: Told) -> list[str]:
    made = make_captions.as_files(told)
    there = {name: (FOLDER / name).read_text(encoding="utf-8") for name in made}
    return [f"{name} is not what scripts/make_captions.py makes" for name in made if made[name] != there[name]]


def _describe(split: str, rows: list[Row]) -> str:
    texts = [text for row in rows for text in _texts(row)]
    slots = sum(len(_slots(row)) for row in rows) / len(rows)
    lengths = [len(text.split()) for text in texts]
    two = sum(bool(re.search(r"[.?!] ", text)) for text in texts) / len(texts)
    mean = sum(lengths) / len(lengths)
    counts = f"{split:<8}{len(rows):>6}{len(texts):>7}{slots:>7.2f}"
    return f"{counts}{min(lengths):>12}{mean:>6.1f}{max(lengths):>5}{two:>15.0%}"


def _report_words(splits: dict[str, list[Row]]) -> None:
    used = {
        split: Counter(word for row in rows for text in _texts(row) for word in _words(text) if word[0].isalpha())
        for split, rows in splits.items()
    }
    unseen = [word for word in used["test"] if word not in used["train"]]
    print(f"\ndistinct words in train {len(used['train'])}, in test {len(used['test'])}")
    print(f"words of test that train lacks: {len(unseen)} ({len(unseen) / len(used['test']):.1%}) {unseen}")
    values = {split: Counter(value for row in rows for value in _slots(row)) for split, rows in splits.items()}
    rare = min(values["train"][value] for value in values["test"])
    print(f"values in train {len(values['train'])}; each of test is in at least {rare} rows of train")


def _report_frames(splits: Told) -> None:
    written = [frame for part in ("main", "late") for frames in GRAMMAR[part].values() for frame in frames]
    for split, told in splits.items():
        used = Counter(frame.text for _, tellings in told for telling in tellings for frame in telling.frames)
        most, count = used.most_common(1)[0]
        print(f"frames used in {split}: {len(used)} of {len(written)}, most often {count} times: {most}")


def _report_combinations(train: list[Row], test: list[Row]) -> None:
    together = _pairs(train)
    new = [pair for pair in _pairs(test) if pair not in together]
    rows = sum(any(pair not in together for pair in _pairs([row])) for row in test)
    print(f"pairs of values in test {len(_pairs(test))}, of which train never has together {len(new)}")
    print(f"rows of test with such a pair: {rows / len(test):.0%}")


def _pairs(rows: Iterable[Row]) -> set[tuple[tuple[str, str], ...]]:
    return {pair for row in rows for pair in combinations(sorted(_slots(row)), 2)}


def _nearest(row: Row, train: list[Row]) -> Row:
    return max(train, key=lambda other: len(set(_slots(row)) & set(_slots(other))) - len(_slots(other)) / 100)


def _score(
    name: str,
    rows: list[Row],
    write: Callable[[Row], str],
    references: Callable[[Row], list[str]] = lambda row: row["references"],
) -> None:
    shares = [slot_accuracy(row["prompt"], write(row)) or 0.0 for row in rows]
    bleu = _bleu([write(row) for row in rows], [references(row) for row in rows])
    every = sum(share == 1 for share in shares) / len(rows)
    print(f"{name:<44}{every:>10.1%}{sum(shares) / len(rows):>8.1%}{100 * bleu:>8.1f}")


def _bleu(texts: list[str], references: list[list[str]]) -> float:
    length = closest = 0
    matches, totals = [0] * 4, [0] * 4
    for text, right in zip(texts, references, strict=True):
        words, others = _words(text), [_words(reference) for reference in right]
        length += len(words)
        closest += min((len(other) for other in others), key=lambda n: (abs(n - len(words)), n))
        for n in range(4):
            grams = _grams(words, n + 1)
            most = Counter[tuple[str, ...]]()
            for other in others:
                most |= _grams(other, n + 1)
            matches[n] += (grams & most).total()
            totals[n] += grams.total()
    if not all(matches):
        return 0.0
    precision = sum(math.log(match / total) for match, total in zip(matches, totals, strict=True)) / 4
    return math.exp(precision + min(0.0, 1 - closest / length))


def _grams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


if __name__ == "__main__":
    sys.exit(main())
