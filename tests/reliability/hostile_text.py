"""A text with whatever a terminal must not get, and how to see that it did not."""

import re
import unicodedata

EVIL = (
    "\x1b[2J\x1b]0;evil\x07\x9b31m\x1bc\x08\x7f\x0b\u202e\u2066\u200b\u2028"
    "[red]x[/red][link=http://e]y[/link]:bomb:<b onload=x>"
)
NAME = EVIL.replace("/", "")  # what a file can have
OURS = re.compile(r"\x1b\[(\d*(;\d+)*m|1A|2K|\?25[lh])|\r|\n|\t")


def unsafe(text: str) -> set[str]:
    """The letters that a screen must not get, besides our own controls."""
    left = OURS.sub("", text)
    return {repr(letter) for letter in left if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
