"""What generated texts are worth beside the texts that were wanted: exact match, BLEU, chrF, ROUGE-L, filled slots.

BLEU (https://aclanthology.org/P02-1040) and chrF (https://aclanthology.org/W15-3049) are sacrebleu's, of the whole
corpus, from 0 to 100; ROUGE-L (https://aclanthology.org/W04-1013) is rouge-score's F1 with stemming, the mean over the
rows, each with the reference that fits best. Slots are data/slots.py's.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from ..data.slots import slot_accuracy


@dataclass(frozen=True)
class TextScores:
    exact_match: float  # share of the rows whose text is one of the references, but for white space
    bleu: float
    chrf: float
    rouge_l: float
    slots: float | None  # share of the rows with slots whose every slot is filled

    def as_dict(self) -> dict[str, float | None]:
        return asdict(self)


def text_scores(prompts: Sequence[str], texts: Sequence[str], references: Sequence[Sequence[str]]) -> TextScores:
    """Of each prompt's text, which any of its references could have been. Rows may have different numbers of them."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    texts = [" ".join(text.split()) for text in texts]
    references = [[" ".join(text.split()) for text in of_row] for of_row in references]
    most = max(len(of_row) for of_row in references)
    # sacrebleu takes the first reference of every row, then the second, and so on; None where a row has no more
    streams: Any = [[of_row[i] if i < len(of_row) else None for of_row in references] for i in range(most)]
    shares = [slot_accuracy(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    filled = [share == 1 for share in shares if share is not None]
    return TextScores(
        exact_match=mean(text in of_row for text, of_row in zip(texts, references, strict=True)),
        bleu=BLEU().corpus_score(texts, streams).score,
        chrf=CHRF().corpus_score(texts, streams).score,
        rouge_l=_rouge_l(texts, references),
        slots=mean(filled) if filled else None,
    )


def _rouge_l(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return mean(
        max(scorer.score(reference, text)["rougeL"].fmeasure for reference in of_row)
        for text, of_row in zip(texts, references, strict=True)
    )
