"""Conversations, completions and texts as rows, and what of their tokens is learned."""

from itertools import groupby
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from inlay.data.generation import GenerationExample
from inlay.data.tokens import GenerationTokens, tokenize_generation
from inlay.errors import DataError

SYSTEM = ("system", "You are a friendly helper.")
HELLO = ("user", "Hello there, how are you?")
FINE = ("assistant", "I am fine, thank you.")
NAME = ("user", "Name the capital of France.")
PARIS = ("assistant", "Paris is the capital\n\nof France")
ANSWERS = [FINE[1], PARIS[1]]


def chat(*turns: tuple[str, str], place: str = "a.jsonl:1", **more: Any) -> GenerationExample:
    messages = tuple({"role": role, "content": text} for role, text in turns)
    return GenerationExample(messages, "chat", place, (messages[-1]["content"],), **more)


def completion(prompt: str, answer: str, place: str = "a.jsonl:1") -> GenerationExample:
    messages = ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
    return GenerationExample(messages, "completion", place, (answer, "another answer"))


def text(words: str) -> GenerationExample:
    return GenerationExample(({"role": "assistant", "content": words},), "text", "a.txt:1")


def talk(name: str) -> GenerationExample:
    return chat(*([] if name == "gemma" else [SYSTEM]), HELLO, FINE, NAME, PARIS)


def learned(tokenizer: Any, row: dict[str, list[Any]]) -> list[str]:
    """What each run of trained tokens adds to the text before it."""
    found, end = [], 0
    for trained, run in groupby(row["trained"]):
        start, end = end, end + len(list(run))
        if trained:
            before = tokenizer.decode(row["input_ids"][:start])
            found.append(tokenizer.decode(row["input_ids"][:end])[len(before) :])
    return found


def one(tokenizer: Any, example: GenerationExample, max_length: int = 512) -> tuple[GenerationTokens, list[str]]:
    tokens = tokenize_generation(tokenizer, [example], max_length)
    (row,) = tokens.rows
    assert len(row["input_ids"]) == len(row["trained"])
    return tokens, learned(tokenizer, row)


def complaint(tokenizer: Any, *examples: GenerationExample, max_length: int = 512) -> str:
    with pytest.raises(DataError) as caught:
        tokenize_generation(tokenizer, examples, max_length)
    return str(caught.value)


def warnings(tokens: GenerationTokens) -> list[str]:
    return [str(problem) for problem in tokens.problems]


def words(*names: str, **special: str) -> Any:
    """A tokenizer with one token for each word."""
    known = ["[UNK]", *special.values(), *names]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(dict.fromkeys(known))}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", **special)
