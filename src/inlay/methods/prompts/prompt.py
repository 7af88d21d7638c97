"""Prompt tuning.   https://arxiv.org/abs/2104.08691"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from ...core.method import Rates
from ...errors import SettingsError
from ...models.modules import has_config
from ...models.sites import Sites
from .input_prompt import KNOWN, InputPrompt, PromptFormat
from .soft_prompt import LearnedPrompt
from .starts import from_labels, from_noise, from_padding, from_text, from_vocabulary, own_start, padding_token

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PromptTuningFormat(PromptFormat["PromptTuning"]):
    def config(self, method: "PromptTuning", sites: Sites, hosts: list[str]) -> dict[str, object]:
        return super().config(method, sites, hosts) | {"prompt_tuning_init": "RANDOM"}


@dataclass(frozen=True, kw_only=True)
class PromptTuning(InputPrompt):
    """Puts a few trained vectors before the embeddings of every input.

        ╔════╗╔════╗     ╔════╗┌────┐┌────┐     ┌────┐
        ║ p1 ║║ p2 ║ ... ║ pP ║│ e1 ││ e2 │ ... │ eT │     eT: embedding of token T
        ╚═╤══╝╚═╤══╝     ╚═╤══╝└─┬──┘└─┬──┘     └─┬──┘
        ┌─┴─────┴──────────┴─────┴─────┴──────────┴──┐
        │            transformer, frozen             │
        └────────────────────────────────────────────┘

        input = [P; E(text)]        P (tokens, D) is trained

    When: With a large model and many tasks: the paper closes the gap to full fine-tuning only with models of billions
    of parameters. Not on small models, where prefix or lora do better, and not in a hurry: it needs many steps.

    Cost: Nothing for the optimizer to keep; the activations remain, and the backward pass goes through every layer, two
    thirds of full fine-tuning's arithmetic. At inference every sequence is longer by the prompt; it cannot be merged.
    """

    name, paper = "prompt", "https://arxiv.org/abs/2104.08691"
    summary = "a few embeddings that come before every input"
    learning_rate = Rates(reading=2e-1, writing=5e-2)
    format = PromptTuningFormat(
        peft_type="PROMPT_TUNING",
        known=KNOWN
        | {*("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs")},
    )

    initialization: Literal["auto", "padding", "vocabulary", "random", "text", "labels"] = "auto"
    """Start from the embedding of the padding token, from those of distinct tokens drawn from the vocabulary, from
    noise of their spread, from the embeddings of a text, or from those of the labels' names. auto: padding where a new
    head reads the text, else vocabulary."""
    text: str = ""
    """The text to start from, repeated or cut to the number of tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.initialization == "text" and not self.text:
            raise SettingsError("method.initialization is text; say in method.text which")
        if self.text and self.initialization != "text":
            raise SettingsError(f"method.text is {self.text!r}; to start from it, set method.initialization to text")

    def prompt(self, sites: Sites, embedding: nn.Embedding, keep: bool) -> LearnedPrompt:
        assert has_config(sites.model)  # else nothing in it reads text
        return LearnedPrompt(self._start(embedding, sites, sites.model), keep)

    def _start(self, embedding: nn.Embedding, sites: Sites, model: "PreTrainedModel") -> Tensor:
        match self.initialization:
            case "auto":
                return own_start(sites, embedding, self.tokens)
            case "padding":
                if (padding := padding_token(sites, embedding)) is None:
                    raise SettingsError(
                        "method.initialization is padding, but the model's configuration names no such token"
                    )
                return from_padding(embedding, self.tokens, padding)
            case "vocabulary":
                return from_vocabulary(embedding, self.tokens)
            case "random":
                return from_noise(embedding, self.tokens)
            case "text":
                return from_text(embedding, self.tokens, model, self.text)
            case "labels":
                return from_labels(embedding, self.tokens, model)
