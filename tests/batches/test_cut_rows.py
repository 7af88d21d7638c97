"""Which rows of a classifier are counted as cut."""

from inlay.bases.base import find_base
from inlay.batches.batch import tokenize_split
from inlay.data.classification import Example


def test_a_row_that_ends_at_the_limit_is_not_cut(tiny_bert: str) -> None:
    tokenizer = find_base(tiny_bert).tokenizer()
    words = ["the film", "the film was", "the film was good", "the film was good and great"]
    split = tokenize_split(tokenizer, [Example(text, None, 0, "row") for text in words], 5)  # with [CLS] and [SEP]
    assert split.lengths == [4, 5, 5, 5]
    assert split.cut == 2
    assert tokenize_split(tokenizer, [Example("the film", None, 0, "row")], 5).cut == 0
    pairs = [Example("the film", "was", 0, "row"), Example("the film", "was good", 0, "row")]
    assert tokenize_split(tokenizer, pairs, 6).cut == 1
