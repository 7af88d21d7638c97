"""What `inlay data` says of the tokens that a model makes of the data: lengths, what is cut, and what is learned."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..models.tokenizer import Tokenizer
from .chat_template import ChatTemplate, special_tokens
from .classification import Example
from .describe import Lengths
from .examples import Examples
from .generation import GenerationExample
from .problems import Problem, Problems
from .tokens import GenerationTokens, tokens_of

_BARS = 10


@dataclass(frozen=True, kw_only=True)
class SplitTokens:
    rows: int
    """Rows that a run takes; a long text is several, a conversation may be."""
    lengths: Lengths | None
    """Tokens of a row before the limit; of a text as a whole."""
    histogram: tuple[tuple[int, int, int], ...]
    """How many rows have at least and at most so many tokens."""
    over_limit: int
    """Rows that are longer than the limit."""
    cut: int
    """Of these, rows that lose their end; texts to learn as a whole go on in further rows."""
    left_out: int
    """Rows of which no answer is left within the limit; no other figure counts them."""
    faulty: int
    """Rows that the model's template cannot write, or end; no other figure counts them."""
    tokens: int
    """Of all rows within the limit."""
    learned: int
    """Of these, those that carry loss; none for classification, which learns labels."""


@dataclass(frozen=True, kw_only=True)
class Token:
    id: int
    text: str
    """What it adds to the text before it; empty for a part of a character that the next token completes."""
    learned: bool
    special: bool


@dataclass(frozen=True, kw_only=True)
class Sample:
    place: str
    tokens: tuple[Token, ...]


@dataclass(frozen=True, kw_only=True)
class TokenReport:
    limit: int
    written: str
    """How rows are written for the model."""
    stop: tuple[str, ...]
    """The tokens at which answers end."""
    splits: dict[str, SplitTokens]
    samples: tuple[Sample, ...]
    problems: tuple[Problem, ...]
    unused: tuple[str, ...] = ()
    """The places of the rows of which the model can make none that is used."""


def report_generation(tokenizer: Tokenizer, data: Examples[GenerationExample], limit: int, samples: int) -> TokenReport:
    """Return the tokens of every split, and those of the first `samples` rows of train. Problems are
    told, not raised.
    """
    problems = Problems(data.skip_faulty)
    tokens = {split: tokens_of(tokenizer, rows, limit, problems, split) for split, rows in data.splits.items()}
    train, form = tokens["train"], data.splits["train"][0].form
    written = {
        "text": "each text, and the end-of-sequence token",
        "completion": "prompt, a line break unless it ends with white space, completion, the end-of-sequence token",
        "chat": "a plain form, as the model has no chat template: User: …, Assistant: …, the end-of-sequence token",
    }[form]
    template = ChatTemplate(tokenizer)
    if template.own and template.writes(form):
        written = "by the model's chat template"
    return TokenReport(
        limit=limit,
        written=written,
        stop=tuple(tokenizer.convert_ids_to_tokens(list(train.stop))),
        splits={split: _split(made, limit) for split, made in tokens.items()},
        samples=tuple(_samples(tokenizer, train, samples)),
        problems=tuple(problems.found()),
        unused=tuple(sorted(place for made in tokens.values() for place in made.unused)),
    )


def report_classification(tokenizer: Tokenizer, data: Examples[Example], limit: int, samples: int = 0) -> TokenReport:
    """Count the tokens of every split, and return those of the first `samples` rows of train, which are all read."""
    splits = {}
    for split, rows in data.splits.items():
        pairs = [row.pair or "" for row in rows] if rows[0].pair is not None else None
        lengths = list(map(len, tokenizer([row.text for row in rows], pairs, verbose=False)["input_ids"]))
        over = sum(length > limit for length in lengths)
        splits[split] = SplitTokens(
            rows=len(rows),
            lengths=Lengths.of(lengths),
            histogram=_histogram(lengths, limit),
            over_limit=over,
            cut=over,
            left_out=0,
            faulty=0,
            tokens=sum(min(length, limit) for length in lengths),
            learned=0,
        )
    written = "as the tokenizer writes a text" + (" pair" if "text_pair" in data.columns else "")
    return TokenReport(
        limit=limit,
        written=written,
        stop=(),
        splits=splits,
        samples=tuple(_read_samples(tokenizer, data.splits["train"][:samples], limit)),
        problems=(),
    )


def _split(tokens: GenerationTokens, limit: int) -> SplitTokens:
    return SplitTokens(
        rows=len(tokens.rows),
        lengths=Lengths.of(tokens.full_lengths),
        histogram=_histogram(tokens.full_lengths, limit),
        over_limit=sum(length > limit for length in tokens.full_lengths),
        cut=tokens.cut,
        left_out=tokens.left_out,
        faulty=tokens.faulty,
        tokens=sum(tokens.lengths),
        learned=tokens.trained,
    )


def _histogram(lengths: Sequence[int], limit: int) -> tuple[tuple[int, int, int], ...]:
    """Return bars of one width, a power of two, from the shortest row to the longest; all rows above the limit share
    the last.

    Where no row is within the limit, there is that bar alone.
    """
    within = [length for length in lengths if length <= limit]
    bars: list[tuple[int, int, int]] = []
    if within:
        width = 1
        while (max(within) - 1) // width - (min(within) - 1) // width >= _BARS:
            width *= 2
        counts = Counter((length - 1) // width for length in within)
        for bar in range(min(counts), max(counts) + 1):
            bars.append((bar * width + 1, min((bar + 1) * width, limit), counts[bar]))
    if len(within) < len(lengths):
        bars.append((limit + 1, max(lengths), len(lengths) - len(within)))
    return tuple(bars)


def _samples(tokenizer: Tokenizer, tokens: GenerationTokens, count: int) -> Iterator[Sample]:
    for row, example in zip(tokens.rows[:count], tokens.examples, strict=False):
        yield _sample(tokenizer, example.place, row["input_ids"], row["trained"])


def _read_samples(tokenizer: Tokenizer, rows: Sequence[Example], limit: int) -> Iterator[Sample]:
    for row in rows:
        ids = tokenizer(row.text, row.pair, truncation=True, max_length=limit)["input_ids"]
        yield _sample(tokenizer, row.place, ids, [False] * len(ids))


def _sample(tokenizer: Tokenizer, place: str, ids: Sequence[int], trained: Sequence[bool | int]) -> Sample:
    special = special_tokens(tokenizer)
    shown = zip(ids, _texts(tokenizer, ids), trained, strict=True)
    made = (Token(id=id, text=text, learned=bool(learned), special=id in special) for id, text, learned in shown)
    return Sample(place=place, tokens=tuple(made))


def _texts(tokenizer: Tokenizer, ids: Sequence[int]) -> Iterator[str]:
    """Yield what each token adds to the text: that of a token alone would lack its space, or be half of a character."""
    start, before = 0, ""
    for i, id in enumerate(ids):
        text = tokenizer.decode(list(ids[start : i + 1]), clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd") and i - start < 8:
            yield ""
            continue
        yield text[len(before) :] if text.startswith(before) else tokenizer.convert_ids_to_tokens(id)
        # The last token stays in sight, since what comes first in a text may lose its space.
        start, before = i, tokenizer.decode([id], clean_up_tokenization_spaces=False)
