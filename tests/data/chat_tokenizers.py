"""Tokenizers made on the spot, of the kinds that models have, and chat templates in the style of common families."""

from collections.abc import Sequence
from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

TEXT = [
    "User: Hello there, how are you?\nAssistant: I am fine, thank you. The answer is 42.",
    "system user assistant tool [INST] [/INST] model",
    "You are a friendly helper.\n\nName the capital of France.\n\nParis is the capital of France.  Is it?",
    "The Vaults pub near Café Adriatic has a 5 star rating . Prices start at £ 30 .",
]
MARKS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
)

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% if m.tool_calls %}{% for c in m.tool_calls %}{{ '<call>' + (c.function | tojson) }}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% set first = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
    "{% for m in (messages[1:] if first else messages) %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + (first if loop.first else '') + m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim }}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# No marks of its own, and an end-of-sequence token after answers alone.
VICUNA = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}"
    "{% elif m.role == 'assistant' %}{{ 'ASSISTANT: ' + m.content + eos_token }}"
    "{% else %}{{ m.content + '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
# Writes the last answer with an empty thought before it, and leaves that out of earlier ones.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Writes the end-of-sequence token where a conversation ends, be it with a question.
CLOSED = CHATML.replace("{% if add_generation_prompt %}", "{% if not add_generation_prompt %}{{ eos_token }}{% else %}")
# Ends a turn with two special tokens, of which the second is the end-of-sequence token.
TWO_ENDS = CHATML.replace("'<|im_end|>\n'", "'<|im_end|>' + eos_token + '\n'")
# Ends the last answer with the end-of-sequence token in place of the mark that ends the other turns.
OTHER_END = CHATML.replace(
    "'<|im_end|>\n'", "(eos_token if loop.last and m.role == 'assistant' else '<|im_end|>') + '\n'"
)
# Opens a thought for the model to generate, which given answers do not have.
OPENED = CHATML.replace("'<|im_start|>assistant\n' }}{% endif", "'<|im_start|>assistant\n<think>\n' }}{% endif")
ENDLESS = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)

# As Hermes, Qwen 2.5 and Llama 3.1 write tools and calls: arguments are an object, encoded here.
HERMES = (
    "{% if tools %}{{ '<|im_start|>system\n' + (tools | map('tojson') | join('\n')) + '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}{% for c in m.tool_calls or [] %}"
    "{{ '<call>{\"name\": \"' + c.function.name + '\", \"arguments\": ' + (c.function.arguments | tojson) + '}' }}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As DeepSeek writes calls: arguments are a text, put in as it is.
DEEPSEEK = HERMES.replace("(c.function.arguments | tojson)", "c.function.arguments")
# As Kimi K2 and Qwen 3 write them: either.
EITHER = HERMES.replace(
    "(c.function.arguments | tojson)",
    "(c.function.arguments if c.function.arguments is string else c.function.arguments | tojson)",
)
# As some write them by mistake: an object comes out as Python has it.
AS_PYTHON = HERMES.replace("(c.function.arguments | tojson)", "(c.function.arguments | string)")
# As GLM writes them: key by key of an object.
BY_KEY = HERMES.replace(
    "(c.function.arguments | tojson)", "'{' + (c.function.arguments.items() | map('tojson') | join)"
)
CALLING = {"hermes": HERMES, "deepseek": DEEPSEEK, "either": EITHER, "as python": AS_PYTHON}
# As Qwen 3 writes thoughts: of the answers after the last question.
REASONING = CHATML.replace(
    "'\n' + m.content",
    "'\n' + ('<think>' + m.reasoning_content + '</think>' if m.reasoning_content and loop.last else '') + m.content",
)

TEMPLATES = {"chatml": CHATML, "llama": LLAMA, "mistral": MISTRAL, "gemma": GEMMA, "vicuna": VICUNA}
ENDS = {"chatml": "<|im_end|>", "llama": "<|eot_id|>", "mistral": "</s>", "gemma": "<end_of_turn>", "vicuna": "</s>"}


def byte_level(template: str | None = None, bos: bool = True, texts: Sequence[str] = TEXT) -> Any:
    """As GPT-2's and Llama 3's; with `bos`, it puts <s> before a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(tokenizer, texts, template, bos, initial_alphabet=alphabet)


def sentencepiece(template: str | None = None, bos: bool = True, texts: Sequence[str] = TEXT) -> Any:
    """As Llama 2's: a space is put before a text and after each special token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return _trained(tokenizer, texts, template, bos, unk="<unk>")


def unsplit(template: str | None = None, bos: bool = True, texts: Sequence[str] = TEXT) -> Any:
    """A byte-level tokenizer that does not part words, so a token may reach across anything."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, texts, template, bos, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


KINDS = {"byte-level": byte_level, "sentencepiece": sentencepiece, "unsplit": unsplit}


def _trained(
    tokenizer: Any, texts: Sequence[str], template: str | None, bos: bool, unk: str | None = None, **alphabet: Any
) -> Any:
    special = ["<s>", "</s>", *([unk] if unk else []), *MARKS]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False, **alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    if bos:
        tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token=unk,
        extra_special_tokens=list(MARKS),
    )
    made.chat_template = template
    return made
