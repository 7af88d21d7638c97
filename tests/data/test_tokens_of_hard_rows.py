"""Rows that a limit cuts, and templates and tokenizers with ways of their own."""

import pytest

from inlay.data.generation import GenerationExample
from inlay.data.tokens import tokenize_generation, tokenize_prompt
from inlay.errors import DataError

from .chat_tokenizers import (
    CHATML,
    CLOSED,
    ENDLESS,
    GEMMA,
    KINDS,
    LLAMA,
    MISTRAL,
    OPENED,
    OTHER_END,
    THINKING,
    TWO_ENDS,
    byte_level,
    sentencepiece,
)
from .conversations import (
    ANSWERS,
    FINE,
    HELLO,
    NAME,
    PARIS,
    SYSTEM,
    chat,
    complaint,
    completion,
    learned,
    one,
    talk,
    text,
    warnings,
    words,
)


def test_an_answer_that_the_limit_cuts_keeps_its_prompt_and_does_not_learn_to_end():
    tokenizer = byte_level(CHATML)
    full = tokenize_generation(tokenizer, [chat(HELLO, FINE)], 512)
    length = full.lengths[0] - 3
    tokens, found = one(tokenizer, chat(HELLO, FINE, place="a.jsonl:7"), length)
    assert tokens.rows[0]["input_ids"] == full.rows[0]["input_ids"][:length]
    assert tokens.prompts == full.prompts
    assert len(found) == 1
    assert FINE[1].startswith(found[0])
    assert (tokens.cut, tokens.left_out, tokens.lengths, tokens.full_lengths) == (1, 0, [length], [length + 3])
    assert warnings(tokens) == [
        f"a.jsonl:7: the row has {length + 3} tokens and the limit is {length}: the answer's end is not learned"
    ]
    at_limit, _ = one(tokenizer, chat(HELLO, FINE), full.lengths[0])
    assert (at_limit.cut, at_limit.rows, at_limit.problems) == (0, full.rows, ())
    one_less, _ = one(tokenizer, chat(HELLO, FINE), full.lengths[0] - 1)
    assert one_less.cut == 1


def test_a_row_of_which_no_answer_is_left_is_left_out_and_counted():
    tokenizer = byte_level(CHATML)
    long = chat(("user", "Name the capital. " * 9), PARIS, place="a.jsonl:2")
    tokens = tokenize_generation(tokenizer, [chat(HELLO, FINE), long, long, chat(NAME, FINE)], 40)
    assert [example.texts[0] for example in tokens.examples] == [HELLO[1], NAME[1]]
    assert len(tokens.rows) == len(tokens.prompts) == len(tokens.references) == 2
    assert (tokens.cut, tokens.left_out, len(tokens.full_lengths)) == (0, 2, 2)
    (message,) = warnings(tokens)
    assert message.startswith("a.jsonl:2: ")
    assert message.endswith(" tokens come before the answer and the limit is 40: none of it is left (2 rows have this)")


def test_where_the_limit_cuts_off_the_last_answer_the_one_before_is_the_last():
    tokenizer = byte_level(CHATML)
    one_answer = tokenize_generation(tokenizer, [chat(HELLO, FINE)], 512)
    tokens, found = one(tokenizer, chat(HELLO, FINE, NAME, PARIS), one_answer.lengths[0] + 5)
    assert found == [FINE[1] + "<|im_end|>"]
    assert tokens.rows == one_answer.rows
    assert tokens.prompts == one_answer.prompts
    assert tokens.references == [(FINE[1],)]
    assert (tokens.cut, tokens.left_out) == (1, 0)


def test_data_of_which_no_token_would_be_learned_is_an_error():
    assert complaint(byte_level(CHATML), chat(NAME, FINE), chat(HELLO, FINE), max_length=8) == (
        "a.jsonl:1: no token of the 2 rows would be learned within the limit of 8 tokens; raise --max-length, or "
        "shorten what comes before answers\n"
        "a.jsonl:1: 16 tokens come before the answer and the limit is 8: none of it is left (2 rows have this)"
    )


def test_two_assistant_turns_in_a_row_are_both_learned_where_the_template_takes_them():
    assert one(byte_level(CHATML), chat(HELLO, FINE, PARIS))[1] == [answer + "<|im_end|>" for answer in ANSWERS]


def test_a_conversation_that_the_template_refuses_is_an_error_with_its_line():
    good, two = chat(HELLO, FINE), chat(HELLO, FINE, PARIS, place="a.jsonl:2")
    assert complaint(byte_level(MISTRAL), good, two, two) == (
        "a.jsonl:2: the chat template refuses the conversation: roles must alternate; change the row, or the model's "
        "template (2 rows have this)"
    )
    assert complaint(byte_level(GEMMA), good, chat(SYSTEM, HELLO, FINE, place="a.jsonl:3")) == (
        "a.jsonl:3: the chat template refuses the conversation: System role not supported; change the row, or the "
        "model's template"
    )
    with pytest.raises(DataError, match="the chat template refuses the conversation: System role not supported"):
        tokenize_prompt(byte_level(GEMMA), chat(SYSTEM, HELLO).messages, "chat")


def test_an_assistant_turn_that_opens_a_conversation_is_read_and_not_learned():
    assert one(byte_level(CHATML), chat(PARIS, HELLO, FINE))[1] == [FINE[1] + "<|im_end|>"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_that_ends_turns_with_no_special_token_is_an_error(kind):
    assert complaint(KINDS[kind](ENDLESS), chat(HELLO, ("assistant", "Fine."))) == (
        'a.jsonl:1: the chat template ends an assistant\'s turn with "Fine.\\n", in which the tokenizer has no special '
        "token at which the model could learn to stop; let the template write </s> after what the assistant says, or "
        "remove it to use a plain form"
    )


def test_a_special_token_within_an_answer_does_not_end_it():
    assert "no special token at which" in complaint(byte_level(ENDLESS), chat(HELLO, ("assistant", "Well</s> then")))
    assert one(byte_level(CHATML), chat(HELLO, ("assistant", "Well</s> then")))[1] == ["Well</s> then<|im_end|>"]


def test_an_unknown_word_does_not_end_an_answer():
    tokenizer = words("user:", "assistant:", "a", eos_token="</s>")
    tokenizer.chat_template = ENDLESS
    assert "no special token at which" in complaint(tokenizer, chat(("user", "a"), ("assistant", "unknown")))


def test_nothing_of_an_answer_is_lost_where_a_token_reaches_into_it_from_everything():
    tokenizer = sentencepiece(texts=["\nNa", "aNa", ".Na"] * 9)
    assert all(len(tokenizer(before + "Na", add_special_tokens=False)["input_ids"]) < 3 for before in "\na.")
    assert one(tokenizer, completion("a", "Na"))[1][0].strip() == "Na</s>"


def test_marks_that_the_tokenizer_does_not_know_end_nothing():
    assert "no special token at which" in complaint(
        byte_level(CHATML.replace("<|im_end|>", "<|done|>")), talk("chatml")
    )


def test_a_tokenizer_without_an_end_of_sequence_is_an_error_where_no_template_ends_answers():
    tokenizer = words("a", "b", bos_token="<s>")
    for example in (completion("a", "b"), text("a b"), chat(("user", "a"), ("assistant", "b"))):
        assert complaint(tokenizer, example) == (
            f"{example.place}: the tokenizer has no end-of-sequence token, so nothing would tell the model where an "
            "answer ends; set eos_token in its tokenizer_config.json"
        )
    tokenizer.chat_template = ENDLESS
    assert "let the template write an eos_token after" in complaint(tokenizer, chat(("user", "a"), ("assistant", "b")))


def test_an_answer_that_the_template_leaves_empty_is_an_error():
    call = {"role": "assistant", "content": " ", "tool_calls": [{"function": {"name": "add"}}]}
    example = GenerationExample(({"role": "user", "content": "Add."}, call), "chat", "a.jsonl:1")
    assert "a.jsonl:1: the chat template writes nothing of the row's tool_calls" in complaint(
        byte_level(LLAMA), example
    )
    assert one(byte_level(CHATML), example)[1] == [' <call>{"name": "add"}<|im_end|>']
    blank = chat(HELLO, ("assistant", " "))
    assert complaint(byte_level(LLAMA), blank) == (
        'a.jsonl:1: the answer is empty as the chat template writes it: "<|eot_id|>"; change the row, or the template'
    )


def test_a_template_that_refuses_a_row_without_its_calls_has_written_them():
    check = "{% for m in messages %}{% if m.role == 'assistant' and not m.tool_calls %}{{ raise_exception('no call') }}"
    tokenizer = byte_level(check + "{% endif %}{% endfor %}" + CHATML)
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add"}}]}
    example = GenerationExample(({"role": "user", "content": "Add."}, call), "chat", "a.jsonl:1")
    assert one(tokenizer, example)[1] == ['<call>{"name": "add"}<|im_end|>']


def test_tools_that_the_template_does_not_write_are_an_error():
    example = chat(HELLO, FINE, tools=({"name": "add"},))
    assert complaint(byte_level(CHATML), example, example) == (
        "a.jsonl:1: the chat template writes nothing of the row's tools; use one that does, or rows without "
        "(2 rows have this)"
    )
    with_tools = "{{ tools | tojson if tools else '' }}" + CHATML
    tokenizer = byte_level(with_tools)
    assert tokenizer.decode(one(tokenizer, example)[0].prompts[0]).startswith('<s>[{"name": "add"}]<|im_start|>')


def test_an_answer_that_the_template_rewrites_later_is_learned_as_it_is_generated():
    tokenizer = byte_level(THINKING)
    tokens = tokenize_generation(tokenizer, [chat(HELLO, FINE, NAME, PARIS), chat(NAME, PARIS)], 512)
    thought = "<think>\n\n</think>\n\n"
    assert [learned(tokenizer, row) for row in tokens.rows] == [
        [f"{thought}{FINE[1]}<|im_end|>"],
        [f"{thought}{PARIS[1]}<|im_end|>"],
        [f"{thought}{PARIS[1]}<|im_end|>"],
    ]
    assert thought not in tokenizer.decode(tokens.prompts[1])
    assert [example.texts[0] for example in tokens.examples] == [HELLO[1], HELLO[1], NAME[1]]
    assert tokens.references == [(FINE[1],), (PARIS[1],), (PARIS[1],)]
    assert warnings(tokens) == [
        "a.jsonl:1: the chat template writes an answer otherwise once the conversation goes on; each such answer is "
        "learned in a row of its own, as it is generated"
    ]


def test_an_end_that_a_template_puts_after_the_last_turn_alone_is_no_part_of_it():
    tokenizer = byte_level(CLOSED)
    whole = tokenizer.apply_chat_template(list(talk("closed").messages), tokenize=False)
    assert whole.endswith("<|im_end|>\n</s>")
    tokens, found = one(tokenizer, talk("closed"))
    assert found == [answer + "<|im_end|>" for answer in ANSWERS]
    assert tokens.rows == tokenize_generation(byte_level(CHATML), [talk("closed")], 512).rows
    assert tokens.problems == ()
    assert one(byte_level(TWO_ENDS), talk("two"))[1] == [answer + "<|im_end|></s>" for answer in ANSWERS]
    assert one(byte_level(LLAMA.replace("<|eot_id|>", "</s>")), talk("llama"))[1] == [a + "</s>" for a in ANSWERS]


def test_an_end_that_the_last_answer_has_in_place_of_the_others_is_learned_for_each():
    tokenizer = byte_level(OTHER_END)
    tokens = tokenize_generation(tokenizer, [talk("other")], 512)
    assert [learned(tokenizer, row) for row in tokens.rows] == [[answer + "</s>"] for answer in ANSWERS]
    assert tokens.stop == (tokenizer.eos_token_id,)


def test_an_answer_is_generated_from_where_it_was_learned_even_if_the_template_opens_it_otherwise():
    tokenizer = byte_level(OPENED)
    tokens, found = one(tokenizer, chat(HELLO, FINE))
    assert found == [FINE[1] + "<|im_end|>"]
    assert tokenizer.decode(tokens.prompts[0]).endswith("<|im_start|>assistant\n")
    assert tokens.prompts[0] == tokenize_prompt(tokenizer, chat(HELLO, FINE).messages[:1], "chat")
    assert warnings(tokens) == [
        'a.jsonl:1: the chat template opens an answer to generate with "<think>\\n", but a given one with '
        '"I am fine, thank you…": the model is trained to answer without the former'
    ]


def test_a_sentencepiece_tokenizer_has_no_second_space_where_an_answer_starts():
    tokenizer = sentencepiece(CHATML)
    (row,) = tokenize_generation(tokenizer, [chat(HELLO, ("assistant", "Paris"))], 512).rows
    answer = tokenizer.convert_ids_to_tokens([i for i, t in zip(row["input_ids"], row["trained"], strict=True) if t])
    assert "".join(answer) == "Paris<|im_end|>"


def test_a_tokenizer_of_words_that_ends_texts_of_its_own_accord_does_not_end_prompts():
    from tokenizers.processors import TemplateProcessing

    tokenizer = words("a", "b", eos_token="</s>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    assert tokenizer("a")["input_ids"] == [2, 1]
    tokens, _ = one(tokenizer, completion("a", "b"))
    assert tokens.rows == [{"input_ids": [2, 3, 1], "trained": [False, True, True]}]
    assert tokens.prompts == [[2]]
