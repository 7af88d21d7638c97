"""Which tokens of a row are learned: the answers and their ends, and nothing else."""

import pytest

from inlay.data.generation import GenerationExample
from inlay.data.tokens import tokenize_generation, tokenize_prompt

from .chat_tokenizers import (
    CHATML,
    ENDS,
    KINDS,
    LLAMA,
    TEMPLATES,
    byte_level,
    unsplit,
)
from .conversations import ANSWERS, FINE, HELLO, NAME, PARIS, SYSTEM, chat, completion, one, talk, text, warnings


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_answers_and_their_ends_are_learned_and_nothing_else(name, kind):
    tokenizer = KINDS[kind](TEMPLATES[name])
    tokens, found = one(tokenizer, talk(name))
    space = " " if name in ("mistral", "vicuna") else ""  # which the template puts before an answer
    if (name, kind) == ("mistral", "sentencepiece"):
        space += " "  # the tokenizer's own, after the special token that ends the question
    assert found == [space + answer + ENDS[name] for answer in ANSWERS]
    assert tokens.stop == (tokenizer.convert_tokens_to_ids(ENDS[name]),)
    assert tokens.problems == ()
    assert tokens.references == [(PARIS[1],)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_row_is_what_the_template_writes(name, kind):
    if name == "vicuna" and kind != "byte-level":
        pytest.skip("a token would reach from the question into the answer")
    tokenizer = KINDS[kind](TEMPLATES[name], bos=name not in ("chatml", "vicuna"))
    (row,) = tokenize_generation(tokenizer, [talk(name)], 512).rows
    whole = tokenizer.apply_chat_template(list(talk(name).messages), tokenize=True, return_dict=False)
    end = len(row["input_ids"])
    assert row["input_ids"] == whole[:end]
    assert not tokenizer.decode(whole[end:]).strip()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_prompt_is_what_the_template_writes_to_be_answered(name, kind):
    tokenizer = KINDS[kind](TEMPLATES[name])
    example = chat(*talk(name).texts and [(m["role"], m["content"]) for m in talk(name).messages[:-2]])
    tokens = tokenize_generation(tokenizer, [example], 512)
    asked = tokenizer.apply_chat_template(list(example.messages[:-1]), add_generation_prompt=True, tokenize=False)
    ids = tokenizer(asked, add_special_tokens=False)["input_ids"]
    assert tokens.prompts[0] == ids if ids[0] == 0 else [0, *ids]
    assert tokens.prompts[0] == tokenize_prompt(tokenizer, example.messages[:-1], "chat")
    assert tokens.rows[0]["input_ids"][: len(tokens.prompts[0])] == tokens.prompts[0]


def test_a_template_that_strips_what_is_said_is_followed():
    tokens, found = one(byte_level(LLAMA), chat(HELLO, ("assistant", "\n\n I am fine. \n")))
    assert found == ["I am fine.<|eot_id|>"]
    assert tokens.references == [("\n\n I am fine. \n",)]
    assert one(byte_level(CHATML), chat(HELLO, ("assistant", "\n I am fine. \n")))[1] == ["\n I am fine. \n<|im_end|>"]


def test_an_answer_is_found_where_a_question_has_the_same_words():
    assert one(byte_level(CHATML), chat(("user", "Paris"), ("assistant", "Paris")))[1] == ["Paris<|im_end|>"]
    _, found = one(byte_level(CHATML), chat(HELLO, FINE, HELLO, FINE))
    assert found == [FINE[1] + "<|im_end|>"] * 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*TEMPLATES, None])
@pytest.mark.parametrize("bos", [True, False])
def test_the_beginning_of_sequence_is_there_once_or_not_at_all(name, kind, bos):
    tokenizer = KINDS[kind](TEMPLATES[name] if name else None, bos=bos)
    tokens = tokenize_generation(tokenizer, [talk(name), completion("1 + 1 =", "2"), text("Once.")], 512)
    writes_it = name in ("llama", "mistral", "gemma")
    for row, example in zip(tokens.rows, tokens.examples, strict=True):
        wanted = bos or (writes_it and example.form != "text")
        assert row["input_ids"].count(tokenizer.bos_token_id) == wanted
        assert (row["input_ids"][0] == tokenizer.bos_token_id) == wanted
        assert not row["trained"][0]


@pytest.mark.parametrize("form", ["text", "completion"])
def test_a_beginning_of_sequence_in_the_text_is_not_doubled(form):
    example = text("<s>Once upon") if form == "text" else completion("<s>1 + 1", "2")
    tokens, _ = one(byte_level(), example)
    assert tokens.rows[0]["input_ids"].count(0) == 1
    assert warnings(tokens) == [
        f"{example.place}: the text holds <s>, which the tokenizer reads as its special token and not as these letters"
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_template_a_prompt_a_line_break_its_completion_and_the_end(kind):
    tokenizer = KINDS[kind]()
    tokens, found = one(tokenizer, completion("Name the capital.", "Paris"))
    assert tokenizer.decode(tokens.prompts[0]).replace("<s> ", "<s>") == "<s>Name the capital.\n"
    assert found == ["Paris</s>"]
    assert tokens.references == [("Paris", "another answer")]
    tokens, found = one(tokenizer, completion("Name the capital: ", "Paris"))
    assert tokenizer.decode(tokens.prompts[0]).replace("<s> ", "<s>") == "<s>Name the capital: "
    assert found == ["Paris</s>"]
    assert tokens.prompts[0] == tokenize_prompt(
        tokenizer, completion("Name the capital: ", "").messages[:1], "completion"
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompt", ["Name", "Name ", "Name\n", "Name\n\n", "Na"])
@pytest.mark.parametrize("answer", ["me the capital", " the capital", "\n\nthe capital", "the capital"])
def test_no_token_reaches_from_a_prompt_into_its_completion(kind, prompt, answer):
    tokenizer = KINDS[kind](texts=["Name the capital\n\nthe capital of Name"] * 9)
    tokens, found = one(tokenizer, completion(prompt, answer))
    assert found == [answer + "</s>"]
    asked = tokenizer(prompt if prompt[-1].isspace() else prompt + "\n")["input_ids"]
    assert tokens.prompts[0] == asked


def test_a_token_would_reach_across_if_it_were_let():
    tokenizer = unsplit(texts=["Name the capital\n\nthe capital of Name"] * 9)
    asked, whole = tokenizer("Name ")["input_ids"], tokenizer("Name the capital")["input_ids"]
    assert whole[: len(asked)] != asked


def test_without_a_template_a_conversation_has_a_plain_form():
    tokenizer = byte_level()
    tokens, found = one(tokenizer, chat(SYSTEM, HELLO, FINE, NAME, PARIS))
    assert found == [f" {FINE[1]}</s>", f" {PARIS[1]}</s>"]
    assert tokenizer.decode(tokens.rows[0]["input_ids"]) == (
        f"<s>System: {SYSTEM[1]}\nUser: {HELLO[1]}\nAssistant: {FINE[1]}</s>\n"
        f"User: {NAME[1]}\nAssistant: {PARIS[1]}</s>"
    )


def test_the_plain_form_writes_tools_and_their_calls():
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "add"}]}
    turns = (
        {"role": "user", "content": "Add."},
        call,
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "2"},
    )
    example = GenerationExample(turns, "chat", "a.jsonl:1", ("2",), ({"name": "add"},))
    tokenizer = byte_level()
    tokens, found = one(tokenizer, example)
    assert found == [' [{"name": "add"}]</s>', " 2</s>"]
    assert tokenizer.decode(tokens.prompts[0]) == (
        '<s>Tools: [{"name": "add"}]\nUser: Add.\nAssistant: [{"name": "add"}]</s>\nTool: 2\nAssistant:'
    )


def test_a_template_writes_prompts_and_completions_too():
    tokenizer = byte_level(CHATML)
    tokens, found = one(tokenizer, completion("1 + 1 =", " 2"))
    assert tokenizer.decode(tokens.prompts[0]) == "<s><|im_start|>user\n1 + 1 =<|im_end|>\n<|im_start|>assistant\n"
    assert found == [" 2<|im_end|>"]


def test_a_text_is_learned_from_its_first_token_that_something_stands_before():
    tokenizer = byte_level(CHATML)
    tokens, found = one(tokenizer, text("Once upon a time."))
    assert found == ["Once upon a time.</s>"]
    assert tokens.references == [()]
    assert tokens.prompts[0] == tokens.rows[0]["input_ids"][: len(tokens.prompts[0])]
    without = byte_level(bos=False)
    row = tokenize_generation(without, [text("Once upon a time.")], 512).rows[0]
    assert row["trained"] == [False] + [True] * (len(row["input_ids"]) - 1)


def test_a_special_token_at_the_start_of_a_completion_does_not_make_it_empty():
    assert one(byte_level(), completion("1 + 1 =", "</s>2"))[1] == ["</s>2</s>"]


def test_an_end_that_the_data_has_is_not_doubled():
    assert one(byte_level(), completion("1 + 1 =", "2</s>"))[1] == ["2</s>"]


@pytest.mark.parametrize("length", [8, 9, 16, 50])
def test_a_long_text_goes_on_in_further_rows_and_every_token_is_learned_once(length):
    tokenizer = byte_level()
    tokens = tokenize_generation(tokenizer, [text("Name the capital of France. " * 20), text("Paris")], length)
    whole = [0, *tokenizer("Name the capital of France. " * 20, add_special_tokens=False)["input_ids"], 1]
    rows = [row for row, example in zip(tokens.rows, tokens.examples, strict=True) if example.texts[0] != "Paris"]
    seen = [id for row in rows for id, trained in zip(row["input_ids"], row["trained"], strict=True) if trained]
    assert seen == whole[1:]
    assert max(tokens.lengths) == length
    assert all(a["input_ids"][-1] == b["input_ids"][0] for a, b in zip(rows, rows[1:], strict=False))
    assert tokens.full_lengths[0] == len(whole)
    assert (tokens.cut, tokens.left_out, tokens.problems) == (0, 0, ())
    assert all(
        0 < len(prompt) < len(row)
        for prompt, row in zip(tokens.prompts, (r["input_ids"] for r in tokens.rows), strict=True)
    )


def test_a_tokenizer_without_a_padding_token_and_one_that_pads_with_the_end_learn_the_end_alike():
    plain, padded = byte_level(CHATML), byte_level(CHATML)
    assert plain.pad_token is None
    padded.pad_token = "<|im_end|>"
    assert one(plain, talk("chatml"))[0].rows == one(padded, talk("chatml"))[0].rows
    assert one(padded, talk("chatml"))[1][-1].endswith("<|im_end|>")
    plain, padded = byte_level(), byte_level()
    padded.pad_token = padded.eos_token
    assert one(plain, completion("a", "b"))[0].rows == one(padded, completion("a", "b"))[0].rows


def test_one_token_for_begin_end_and_unknown_ends_answers_as_well():
    tokenizer = byte_level(bos=False)
    tokenizer.bos_token = tokenizer.unk_token = "</s>"
    assert one(tokenizer, completion("1 + 1 =", "2"))[1] == ["2</s>"]
    assert one(tokenizer, chat(HELLO, FINE))[1] == [f" {FINE[1]}</s>"]
