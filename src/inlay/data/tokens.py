"""Examples as token ids, with a mark on each token that is learned.

A row is tokenized piece by piece (rendering.py), so what stands before an answer has the very tokens that it has when
the model generates: a token that would reach across, such as one of a prompt's last space and the answer's first word,
is never made. Rows are built so that each of these holds, whatever the tokenizer and its template do:

- The beginning-of-sequence token is there once if the tokenizer puts it before a text, or the template writes it.
- Each answer ends with a token at which generation can stop: the last special one that the template puts there, or the
  end-of-sequence token; it is learned, and what follows it is not.
- A row is no longer than the limit: an answer is cut at its end, a row of which no answer is left is left out, and a
  text that is learned as a whole goes on in further rows.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from ..models.tokenizer import Tokenizer
from .chat_template import ChatTemplate, special_tokens
from .generation import Form, GenerationExample
from .message import Message, Tool
from .problems import Problem, Problems, shown
from .rendering import Piece, pieces_of, prompt_text
from .unwritten import UnwrittenParts

_LONGEST_OPENING = 32  # tokens of a text from which it is generated, to be looked at
_ANCHORS = ("\n", "a", ".")


TokenRow = dict[str, list[int] | list[bool]]
"""`input_ids`, and `trained`: whether the loss at each of them counts."""


@dataclass(frozen=True)
class GenerationTokens:
    """One split, tokenized. The lists `rows`, `prompts`, `references` and `examples` belong together."""

    rows: list[TokenRow]
    prompts: list[list[int]]
    """The ids from which the row's last answer is generated; of a text, those that it starts with."""
    references: list[tuple[str, ...]]
    """The right answers to each prompt; none for a text."""
    examples: list[GenerationExample]
    """The example of each row: one may have several rows, or none."""
    full_lengths: list[int]
    """The tokens of every row that is used, and of every text, before the limit."""
    cut: int
    """Rows of which an answer's end is missing."""
    left_out: int
    """Rows of which no answer was left, and which are not among `rows`."""
    faulty: int
    """Examples that cannot be written or ended, of which no row is among `rows`."""
    unused: frozenset[str]
    """The places of the examples that have no row."""
    stop: tuple[int, ...]
    """The ids that end answers."""
    problems: tuple[Problem, ...]

    @cached_property
    def lengths(self) -> list[int]:
        return [len(row["input_ids"]) for row in self.rows]

    @property
    def trained(self) -> int:
        """Tokens that carry loss."""
        return sum(sum(row["trained"]) for row in self.rows)


def tokenize_generation(
    tokenizer: Tokenizer,
    rows: Sequence[GenerationExample],
    max_length: int,
    split: str = "rows",
    skip: float | None = None,
) -> GenerationTokens:
    """Tokenize the rows of a split. Raises DataError if a row cannot be written or ended, and is not one of the few
    that may be skipped (Problems), or if no token would be learned."""
    problems = Problems(skip)
    tokens = tokens_of(tokenizer, rows, max_length, problems, split)
    problems.raise_errors()
    return tokens


def tokenize_prompt(
    tokenizer: Tokenizer, messages: Sequence[Message], form: Form, tools: Sequence[Tool] = ()
) -> list[int]:
    """Return the ids from which an answer is generated, as rows of this form have them before theirs.

    Raises DataError if the chat template refuses the turns.
    """
    return _Encoder(tokenizer).first([prompt_text(ChatTemplate(tokenizer), messages, form, tools)])[0]


def tokens_of(
    tokenizer: Tokenizer,
    examples: Sequence[GenerationExample],
    max_length: int,
    problems: Problems,
    split: str = "rows",
) -> GenerationTokens:
    """Do what `tokenize_generation` does, but add what is wrong to `problems`, and return the rows that
    have no fault.
    """
    encoder, template = _Encoder(tokenizer), ChatTemplate(tokenizer)
    _warn_of_special_tokens(encoder.special, examples, problems)
    if encoder.end is None and not (template.own and all(template.writes(example.form) for example in examples)):
        message = "the tokenizer has no end-of-sequence token, so nothing would tell the model where an answer ends"
        problems.add("no end", examples[0].place, f"{message}; set eos_token in its tokenizer_config.json")
        return _collected(examples, [], [], 0, 0, 0, problems)
    before = problems.faulty
    encoded = [
        row
        for example, pieces, ids in _encoded(encoder, template, examples, problems)
        if (row := _row(encoder, template, example, pieces, ids, problems)) is not None
    ]
    faulty = problems.faulty - before
    problems.weigh(split, faulty, len(examples))
    rows: list[_Row] = []
    full_lengths: list[int] = []
    cut = left_out = 0
    for row in encoded:
        if row.example.form == "text":
            rows += _windows(row, max_length)
            full_lengths.append(len(row.ids))
            continue
        kept = row.cut(max_length)
        if kept is None:
            left_out += 1
            message = f"{row.starts[0]} tokens come before the answer and the limit is {max_length}: none of it is left"
            problems.add("left out", row.example.place, message, severity="skipped")
            continue
        if len(row.ids) > max_length:
            cut += 1
            message = (
                f"the row has {len(row.ids)} tokens and the limit is {max_length}: the answer's end is not learned"
            )
            problems.add("cut", row.example.place, message, severity="warning")
        rows.append(kept)
        full_lengths.append(len(row.ids))
    if encoded and not any(any(row.trained) for row in rows):
        message = f"no token of the {len(examples)} rows would be learned within the limit of {max_length} tokens"
        problems.add(
            "nothing", examples[0].place, f"{message}; raise --max-length, or shorten what comes before answers"
        )
    return _collected(examples, rows, full_lengths, cut, left_out, faulty, problems)


def _collected(
    examples: Sequence[GenerationExample],
    rows: "list[_Row]",
    full_lengths: list[int],
    cut: int,
    left_out: int,
    faulty: int,
    problems: Problems,
) -> GenerationTokens:
    return GenerationTokens(
        rows=[{"input_ids": row.ids, "trained": row.trained} for row in rows],
        prompts=[row.ids[: row.starts[-1]] for row in rows],
        references=[row.references for row in rows],
        examples=[row.example for row in rows],
        full_lengths=full_lengths,
        cut=cut,
        left_out=left_out,
        faulty=faulty,
        unused=frozenset(example.place for example in examples) - {row.example.place for row in rows},
        stop=tuple(sorted({id for row in rows for id in row.ends})),
        problems=tuple(problems.found()),
    )


@dataclass(frozen=True)
class _Row:
    example: GenerationExample
    ids: list[int]
    trained: list[bool]
    starts: list[int]
    """Where each answer starts."""
    turns: list[int]
    """The turn that each answer is."""
    ends: list[int]
    """The token that ends each answer."""

    @property
    def references(self) -> tuple[str, ...]:
        turn = self.turns[-1]
        if turn == len(self.example.messages) - 1:
            return self.example.references
        return (self.example.messages[turn]["content"],)

    def cut(self, length: int) -> "_Row | None":
        """Return the row within the limit, without what follows its last learned token; None if it learns nothing."""
        last = next((i for i in reversed(range(min(length, len(self.ids)))) if self.trained[i]), None)
        if last is None:
            return None
        answers = sum(start <= last for start in self.starts)
        parts = (self.starts[:answers], self.turns[:answers], self.ends[:answers])
        return _Row(self.example, self.ids[: last + 1], self.trained[: last + 1], *parts)


def _encoded(
    encoder: "_Encoder", template: ChatTemplate, examples: Sequence[GenerationExample], problems: Problems
) -> Iterator[tuple[GenerationExample, list[Piece], list[list[int]]]]:
    """Yield the pieces of each row and their ids; all rows are tokenized at once, which is several times as fast."""
    parts = UnwrittenParts(template)
    written = [(example, pieces) for example in examples for pieces in pieces_of(template, example, parts, problems)]
    first = iter(encoder.first([pieces[0].text for _, pieces in written]))
    further = iter(encoder.further([(a.text, b.text) for _, pieces in written for a, b in pairwise(pieces)]))
    for example, pieces in written:
        yield example, pieces, [next(first), *(next(further) for _ in pieces[1:])]


def _row(
    encoder: "_Encoder",
    template: ChatTemplate,
    example: GenerationExample,
    pieces: list[Piece],
    encoded: list[list[int]],
    problems: Problems,
) -> _Row | None:
    """Return the whole row; None and a problem if an answer is empty or does not end."""
    row = _Row(example, [], [], [], [], [])
    for piece, ids in zip(pieces, encoded, strict=True):
        length = 0
        if piece.answer is not None:
            written = template.writes(example.form)
            ids = ids if written else encoder.ended(ids)
            length = encoder.length_to_end(ids)
            if length == 0:
                problems.fault("no end", example.place, _endless(encoder.tokenizer, piece.text))
                return None
            if written and not piece.text.rpartition(encoder.special[ids[length - 1]])[0].strip():
                message = f"the answer is empty as the chat template writes it: {shown(piece.text)}"
                problems.fault("empty", example.place, f"{message}; change the row, or the template")
                return None
            row.starts.append(len(row.ids))
            row.turns.append(piece.answer)
            row.ends.append(ids[length - 1])
        row.trained.extend(i < length for i in range(len(ids)))
        row.ids.extend(ids)
    return row.cut(len(row.ids))


def _warn_of_special_tokens(special: dict[int, str], examples: Sequence[GenerationExample], problems: Problems) -> None:
    longest_first = sorted(special.values(), key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
    for example in examples:
        found = next((match[0] for text in example.texts if (match := pattern.search(text))), None)
        if found is not None:
            message = f"the text holds {found}, which the tokenizer reads as its special token and not as these letters"
            problems.add(("special", found), example.place, message, severity="warning")


def _windows(row: _Row, length: int) -> Iterator[_Row]:
    """Yield the text in rows of at most `length` tokens; the last of each is in the next as well, so that all are
    learned.

    But for the text's first: nothing comes before it from which it could be told.
    """
    for start in range(0, max(len(row.ids) - 1, 1), length - 1):
        ids = row.ids[start : start + length]
        opening = min(_LONGEST_OPENING, (len(ids) + 1) // 2)
        yield _Row(row.example, ids, [False] + [True] * (len(ids) - 1), [opening], row.turns, row.ends)


def _endless(tokenizer: Tokenizer, text: str) -> str:
    return (
        f"the chat template ends an assistant's turn with {shown(text[-20:])}, in which the tokenizer has no special "
        "token at which the model could learn to stop; let the template write "
        f"{tokenizer.eos_token or 'an eos_token'} after what the assistant says, or remove it to use a plain form"
    )


class _Encoder:
    """A tokenizer without what it adds of its own, but for the beginning-of-sequence token."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.end: int | None = tokenizer.eos_token_id
        self.special = special_tokens(tokenizer)

    def first(self, texts: list[str]) -> list[list[int]]:
        """Tokenize texts that start a row."""
        begin = self.tokenizer.bos_token_id
        wanted = begin is not None and self.tokenizer("a")["input_ids"][:1] == [begin]
        rows = []
        for ids in self._plain(texts):
            there = next((i for i, id in enumerate(ids) if id != begin), len(ids))
            rows.append([begin] * (wanted or there > 0) + ids[there:])
        return rows

    def further(self, texts: list[tuple[str, str]]) -> list[list[int]]:
        """Return the ids of the second text of each pair, as it has them after the first."""
        rows = self._plain([text for _, text in texts])
        if self._plain(["\na"])[0] == [*self._plain(["\n"])[0], *self._plain(["a"])[0]]:
            return rows
        # The tokenizer puts a space before a text, or after a special token, that is not to be there within one.
        left = list(range(len(texts)))
        for anchor in _ANCHORS:  # a token may reach from an anchor into the text, but hardly from each
            anchors = [next((s for s in self.special.values() if texts[i][0].endswith(s)), anchor) for i in left]
            before = self._plain(anchors)
            whole = self._plain([anchor + texts[i][1] for anchor, i in zip(anchors, left, strict=True)])
            apart = [ids[: len(start)] == start for start, ids in zip(before, whole, strict=True)]
            for i, start, ids, fits in zip(left, before, whole, apart, strict=True):
                rows[i] = ids[len(start) :] if fits else rows[i]
            left = [i for i, fits in zip(left, apart, strict=True) if not fits]
        return rows

    def ended(self, ids: list[int]) -> list[int]:
        return ids if self.end is None or self.end in ids[-1:] else [*ids, self.end]

    def length_to_end(self, ids: list[int]) -> int:
        """Count the tokens up to the special one that ends the answer, with only white space behind it, or 0."""
        length = next((i + 1 for i in reversed(range(len(ids))) if ids[i] in self.special), 0)
        return 0 if self.tokenizer.decode(ids[length:]).strip() else length

    def _plain(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
