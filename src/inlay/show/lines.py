"""Text in lines that a terminal shows whole."""

import textwrap


def fitted(text: str, columns: int | None, indent: str = "") -> str:
    """Break lines between words, where a terminal of so many columns would break them within one. A word that is too
    long for it, such as a path, stays whole, so that it can be copied; a number and its percent sign stay together."""
    if columns is None:
        return text
    wrapper = textwrap.TextWrapper(columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    lines = (wrapper.fill(line) for line in text.replace(" %", "\u00a0%").split("\n"))
    return "\n".join(lines).replace("\u00a0%", " %")
