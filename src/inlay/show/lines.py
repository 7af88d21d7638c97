"""Text in lines that a terminal shows whole."""

import textwrap

_WHOLE = {mark: mark.replace(" ", "\u00a0") for mark in (" %", " ± ")}  # not to be broken


def fitted(text: str, columns: int | None, indent: str = "") -> str:
    """Break lines between words, where a terminal of so many columns would break them within one. A word that is too
    long for it, such as a path, stays whole, so that it can be copied; a number, its percent sign and its interval stay
    together."""
    if columns is None:
        return text
    wrapper = textwrap.TextWrapper(columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    for mark, whole in _WHOLE.items():
        text = text.replace(mark, whole)
    text = "\n".join(wrapper.fill(line) for line in text.split("\n"))
    for mark, whole in _WHOLE.items():
        text = text.replace(whole, mark)
    return text
