"""Classification: a label for a text or a pair of texts, by a new head on the base.

Shape suffixes: N rows, L labels.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import processes
from ..attached.labels import names_in
from ..bases.auto_class import AutoClass, labeller_class
from ..bases.base import Base, empty_classifier
from ..bases.vocabulary import check_ids
from ..batches.batch import LENGTH_STEP, Batch, documents_of, tokenize, tokenize_split
from ..batches.evaluated import of_texts
from ..core.attachment import Attachment
from ..data.alike_labels import alike_labels
from ..data.classification import Example, Learned, classification_in
from ..data.examples import Examples
from ..data.formats import OpenedData
from ..data.inputs import InputRows
from ..data.small_splits import small_splits
from ..errors import CheckpointError, DataError, SettingsError
from ..formats.peft_config import PeftConfig
from ..formats.seal import read_provenance
from ..formats.summary import Summary
from ..models import document_attention, weights
from ..models.modules import within
from ..models.sites import Sites
from ..models.tokenizer import Tokenizer
from ..outside import shown
from ..show.units import counted
from ..stats import Shares
from .causal import is_language_adapter
from .confusion import Prediction, classifier_section, naive_of
from .evaluation import Answer, Evaluation
from .facts import LABELS
from .gain import tiles, verdict
from .input_columns import input_columns
from .linear_head import FEWEST_ROWS, MOST_ROWS, FittedHead, features, fitted
from .metric import Scores, scores_of
from .naive import MOST_FREQUENT, NaiveBaseline
from .never_given import FEWEST
from .outcomes import LabelProbabilities
from .page import Judged, PredictionLine, Said, TaskPage, Verdict
from .task import Task, TaskSettings

_MOST_SHOWN = 3  # labels of an answer


@dataclass(kw_only=True)
class Classify(Task):
    name = "classify"
    formats = ("labelled-text",)
    main_score, expected = "accuracy", ("accuracy", "macro_f1", "loss")
    does = "gives labels"
    new_head = True
    facts, roles = {"labels": LABELS}, ("text",)
    peft_types = ("SEQ_CLS",)
    options = ("pair",)
    nothing_predicted = "no confusion matrix and no list of mistakes"

    @classmethod
    def prepare(cls, base: Base, opened: OpenedData, settings: TaskSettings) -> Self:
        data, tokenizer = classification_in(opened), base.tokenizer()
        config = base.classifier_config(data.labels, tokenizer.pad_token_id)
        return cls(base=base, data=data, tokenizer=tokenizer, config=config)

    @classmethod
    def of_adapter(cls, base: Base, tokenizer: Tokenizer | None, about: Mapping[str, Any]) -> Self:
        config = base.classifier_config(tuple(about["labels"]), getattr(tokenizer, "pad_token_id", None))
        return cls(base=base, tokenizer=tokenizer, config=config, about=about, max_length=about["max_length"])

    def examples(self, opened: OpenedData, whole: bool) -> Examples[Example]:
        names = tuple(map(str, self.about["labels"]))
        return classification_in(opened, Learned(names, list(names) == _unnamed(len(names)), whole))

    @classmethod
    def is_for(cls, adapter_config: PeftConfig, base: Base) -> bool:
        if _labels_already(base):
            return True
        return bool(adapter_config.get("modules_to_save")) and not is_language_adapter(adapter_config, base)

    @classmethod
    def assumed(
        cls,
        folder: Path,
        config: PeftConfig,
        tensors: Mapping[str, Tensor],
        base: Base,
        tokenizer: Tokenizer | None,
    ) -> tuple[dict[str, object], list[str]]:
        if names := names_in(read_provenance(folder)):
            return {"labels": list(names)}, []
        labels, source = _labels(folder, base, tensors)
        said = f"the labels are {', '.join(labels[:8])}{' …' if len(labels) > 8 else ''}, {source}"
        return {"labels": list(labels)}, [said]

    @property
    def auto_class(self) -> AutoClass:
        return labeller_class(self.config)

    @property
    def base_is_random(self) -> bool:
        return not (_labels_already(self.base) and self.base.config.num_labels == len(self.labels))

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.about["labels"]) if self.about else self.data.labels

    def start_head(self, adapter: Attachment, most_rows: int) -> str | None:
        """Let a new head begin as a linear classifier of the base's features (linear_head.py), or, where that tells no
        more, at the labels' shares in train, as logits in its biases, if it has some.

        Else the first steps learn the shares by moving the features of all rows alike, which can leave them all the
        same: the most frequent label is then all that is learned. Each label counts as one row more, as there may be
        none.
        """
        if not self.base_is_random:
            return None
        heads = [(host, delta) for name, host, delta in adapter.hosts() if within(name, adapter.heads)]
        linears = [(host, dict(delta.trained(host))) for host, delta in heads if weights.is_linear(host)]
        if not linears:
            return None
        host, trained = linears[-1]
        count, shares_L = len(self.data.splits["train"]), torch.tensor(self.data.label_shares("train"))
        shares_L = (count * shares_L + 1) / (count + len(shares_L))
        found = self._fitted_head(adapter.model, host, trained, shares_L, most_rows)
        with torch.no_grad():
            if "bias" in trained:
                trained["bias"].copy_(shares_L.log() if found is None else found.head.bias_L)
            if found is None:
                return None
            trained["weight"].copy_(found.head.weight_LF)
        return (
            f"the new head begins as a linear classifier of the base's features of {counted(found.rows, 'row')}: loss "
            f"{found.loss:.2f} on rows that it had not seen, {found.loss_of_shares:.2f} by the labels' shares"
        )

    def _fitted_head(
        self, model: nn.Module, host: nn.Module, trained: Mapping[str, Tensor], shares_L: Tensor, most_rows: int
    ) -> FittedHead | None:
        tokens = self.tokens["train"]
        count = min(MOST_ROWS, most_rows, len(tokens.rows))
        chosen = [i * len(tokens.rows) // count for i in range(count)]  # evenly, as rows may be sorted by label
        if count < FEWEST_ROWS or "weight" not in trained:
            return None
        x_NF = features(model, host, self.tokenizer, [tokens.rows[i] for i in chosen], self.length_step)
        if x_NF is None:
            return None
        labels_N = torch.tensor([tokens.labels[i] for i in chosen])
        weight_LF, with_bias = trained["weight"].detach().cpu(), "bias" in trained
        return processes.from_first(lambda: fitted(x_NF, labels_N, weight_LF, shares_L, with_bias=with_bias))

    def tokenize(self, max_length: int) -> None:
        self.max_length = max_length
        self.tokens = {s: tokenize_split(self.tokenizer, rows, max_length) for s, rows in self.data.splits.items()}
        if self.config.is_encoder_decoder:
            self._check_ends()

    def _check_ends(self) -> None:
        """Raise SettingsError if a row lacks the end-of-sequence token, which an encoder-decoder's classifier reads."""
        end, start = self.config.eos_token_id, getattr(self.config, "decoder_start_token_id", None)
        if end is None or start is None:
            raise SettingsError(
                f"the configuration of model {self.base.name!r} has no {'eos' if end is None else 'decoder_start'}_"
                "token_id, without which a classifier cannot be run on an encoder-decoder; add it to its config.json"
            )
        without = sum(end not in row["input_ids"] for tokens in self.tokens.values() for row in tokens.rows)
        if without:
            raise SettingsError(
                f"the tokenizer of model {self.base.name!r} does not end {without} of the texts with the token {end}, "
                "which the classifier of an encoder-decoder reads; let it add its eos_token"
            )

    def notes(self) -> list[str]:
        names = self.data.labels
        counts = {split: Counter(names[row.label] for row in rows) for split, rows in self.data.splits.items()}
        apart = (f"{sentence}, and each is learned as a label of its own" for sentence in alike_labels(names))
        small = (sentence for _, sentence in small_splits(counts, self.data.holds_out))
        return [*super().notes(), *apart, *small]

    def row(self, split: str, number: int) -> dict[str, list[int] | int]:
        tokens = self.tokens[split]
        return tokens.rows[number] | {"labels": tokens.labels[number]}

    def contents(self, split: str) -> Iterator[object]:
        return zip(self.tokens[split].rows, self.tokens[split].labels, strict=True)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        logits = document_attention.run(model, inputs, documents_of(batch)).logits
        return F.cross_entropy(logits.float(), batch["labels"])

    def provenance(self) -> dict[str, object]:
        return {"labels": list(self.labels), "columns": self.data.columns}

    def evaluate(self, model: nn.Module, split: str) -> Evaluation:
        """Evaluate a model; predictions are (rows, labels) log-probabilities, their spread is that of the log-odds."""
        tokens = self.tokens[split]
        found_NL = log_probabilities(model, self.tokenizer, tokens.rows, self.length_step)
        outcome = LabelProbabilities(found_NL, torch.tensor(tokens.labels))
        spread = (found_NL - found_NL.mean(dim=1, keepdim=True)).std(dim=0, correction=0).mean().item()
        return Evaluation(scores_of(outcome), Shares(outcome.predicted_N == outcome.labels_N), found_NL, spread)

    def naive(self, split: str, base: Scores | None = None) -> NaiveBaseline:
        """Score the labels' shares in the split as probabilities of every row: the most frequent label gets all."""
        shares_L = torch.tensor(self.data.label_shares(split))
        rows = self.data.splits[split]
        outcome = LabelProbabilities(
            shares_L.log().expand(len(rows), -1), torch.tensor([example.label for example in rows])
        )
        most = self.labels[int(shares_L.argmax())]
        return NaiveBaseline(name=MOST_FREQUENT, answer=str(most), scores=scores_of(outcome))

    def one_answer(self, split: str, found: Evaluation) -> str | None:
        predicted, wanted = found.predictions.argmax(dim=-1), {example.label for example in self.data.splits[split]}
        return str(self.labels[int(predicted[0])]) if len(wanted) > 1 and len(predicted.unique()) == 1 else None

    def never_given(self, split: str, found: Evaluation) -> dict[str, int]:
        given = set(found.predictions.argmax(dim=-1).tolist())
        rows = Counter(example.label for example in self.data.splits[split])
        if len(given) == 1:  # which is told as what it is
            return {}
        return {str(self.labels[k]): rows[k] for k in sorted(rows) if rows[k] >= FEWEST and k not in given}

    @property
    def _columns(self) -> Mapping[str, str] | None:
        """The column of each role in training; None for somebody else's adapter."""
        return self.about.get("columns") if self.about else self.data.columns

    @classmethod
    def example(cls, columns: Collection[str], format: str) -> str:
        return '"a text" --pair "another"' if "text_pair" in columns else '"a text"'

    def inputs_in(self, found: InputRows) -> list[tuple[str, str | None]]:
        known = {role: column for role, column in (self._columns or {"text": "text"}).items() if role != "label"}
        roles = ("text", "text_pair") if self._columns is None else tuple(known)
        return found.texts(input_columns(self, found, known, roles, ("text", "text_pair")))

    def check_inputs(self, inputs: Sequence[object], **options: object) -> None:
        pair = options.get("pair")
        for number, given in enumerate(inputs, 1):
            if isinstance(given, list | tuple) and len(given) != 2:
                raise DataError(f"input {number} has {counted(len(given), 'text')}; give one text, or a pair of two")
        takes_pairs = pair is not None if self._columns is None else "text_pair" in self._columns
        if takes_pairs != (pair is not None) and len(inputs) == 1:
            raise SettingsError(
                "this model was trained on pairs of texts; give the second with --pair"
                if takes_pairs
                else "this model was trained on single texts; leave --pair out"
            )

    def answer(  # pyright: ignore[reportIncompatibleMethodOverride]  # it names its options
        self, model: nn.Module, inputs: Sequence[str | tuple[str, str | None]], pair: str | None = None
    ) -> list[Answer]:
        """Label each text, or pair of texts: the second of a pair may be given apart."""
        texts = [(text, pair) if isinstance(text, str) else text for text in inputs]
        rows = tokenize(self.tokenizer, texts, self.max_length)
        check_ids(self.tokenizer, model, (row["input_ids"] for row in rows))
        found_NL = log_probabilities(model, self.tokenizer, rows, self.length_step).exp()
        return [self._answer(text, second, row_L) for (text, second), row_L in zip(texts, found_NL, strict=True)]

    def no_answer(self, given: object, **options: object) -> Answer:
        text, pair = given if isinstance(given, list | tuple) else (given, options.get("pair"))
        found = {"text": text or "", "pair": pair, "label": None, "probability": None, "probabilities": None}
        return Answer(found, "", "", {"predicted": None, "probability": None})

    def _answer(self, text: str, pair: str | None, probability_L: Tensor) -> Answer:
        order = probability_L.argsort(descending=True).tolist()
        ranked = [(self.labels[i], probability_L[i].item()) for i in order]
        label, probability = ranked[0]
        found = {"text": text, "pair": pair, "label": label, "probability": probability, "probabilities": dict(ranked)}
        bars = [f"{100 * p:>6.1f} %  {'█' * round(24 * p):<24}  {shown(name)}" for name, p in ranked[:_MOST_SHOWN]]
        line = f"{shown(label)}\t{probability:.3f}\t{' '.join(text.split())}"
        return Answer(found, "\n".join(bars), line, {"predicted": label, "probability": round(probability, 6)})

    def prediction_rows(self, split: str, tuned: Tensor, base: Tensor | None) -> Iterable[PredictionLine]:
        rows = self.data.splits[split]
        guessed = [None] * len(rows) if base is None else base.argmax(dim=-1).tolist()
        for example, tuned_L, guess in zip(rows, tuned.exp(), guessed, strict=True):
            predicted = int(tuned_L.argmax())
            yield {
                "text": example.text,
                "pair": example.pair,
                "label": self.labels[example.label],
                "predicted": self.labels[predicted],
                "probability": round(tuned_L[predicted].item(), 6),
                "label_probability": round(tuned_L[example.label].item(), 6),
                "base_predicted": None if guess is None else self.labels[guess],
            }

    @classmethod
    def said(cls, row: PredictionLine) -> Said:
        found = Prediction.from_row(row)
        return Said(
            prompt=found.text,
            pair=found.pair,
            wanted=found.label,
            answer=found.predicted,
            base_answer=found.base_predicted,
        )

    @classmethod
    def page(cls, summary: Summary, predictions: Sequence[PredictionLine]) -> TaskPage:
        found = [Prediction.from_row(row) for row in predictions]
        judged = Judged.from_summary(summary, naive_of(found))
        known = [str(label) for label in summary.get("labels") or []]  # a run that failed early has not written them
        seen = {p.label for p in found} | {p.predicted for p in found}
        labels = known + sorted(seen - set(known))
        return TaskPage(
            tiles=tiles(judged, cls.expected, found),
            verdict=verdict(judged, found),
            section=classifier_section(judged.split, labels, found, judged.base_is_random)
            if found
            else cls.section(judged.split, []),
            naive=judged.naive,
        )

    @classmethod
    def verdict(cls, judged: Judged, predictions: Sequence[PredictionLine]) -> Verdict:
        return verdict(judged, [Prediction.from_row(row) for row in predictions])


def log_probabilities(
    model: nn.Module,
    tokenizer: Tokenizer,
    rows: Sequence[dict[str, list[int]]],
    step: int = LENGTH_STEP,
) -> Tensor:
    """Return (rows, labels), in float32 on the CPU, in the rows' order. Leaves the model in evaluation mode."""

    def of_batch(batch: Batch) -> Tensor:
        return model(**batch).logits.float().log_softmax(dim=-1)

    return of_texts(model, tokenizer, rows, of_batch, step, what="scoring")


def _labels_already(base: Base) -> bool:
    return any(name.endswith("ForSequenceClassification") for name in base.config.architectures or ())


def _labels(folder: Path, base: Base, tensors: Mapping[str, Tensor]) -> tuple[list[str], str]:
    """Find the labels of somebody else's adapter, and say where they are from."""
    own = {int(i): str(name) for i, name in (base.config.id2label or {}).items()}
    named = [own[i] for i in sorted(own)]
    count = _outputs(empty_classifier(base.config), len(named), tensors)
    if count is None:
        if not _labels_already(base):
            raise CheckpointError(
                f"{folder} gives labels, but neither it nor {base.name} has a head that was trained; name with --model "
                "a base that has one"
            )
        count = len(named)
    if count == len(named) and named != _unnamed(count):
        return named, f"as {base.name} names them"
    return _unnamed(count), f"as nothing names the {count} of its head"


def _unnamed(count: int) -> list[str]:
    """Return what transformers calls labels without a name."""
    return [f"LABEL_{i}" for i in range(count)]


def _outputs(empty: nn.Module, count: int, tensors: Mapping[str, Tensor]) -> int | None:
    """Count the labels of the head among `tensors`, where one of `count` has its last layer; None if there is none."""
    for name, head in Sites(empty).head_hosts():
        weight = head._parameters.get("weight")
        if weight is not None and weight.ndim == 2 and weight.shape[0] == count:
            pattern = re.compile(rf"(.*\.)?{re.escape(name)}\.(.*\.)?weight")
            for key, tensor in tensors.items():
                if pattern.fullmatch(key) and tensor.ndim == 2 and tensor.shape[1] == weight.shape[1]:
                    return tensor.shape[0]
    return None
