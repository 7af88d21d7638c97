"""The one place where text from outside (rows, labels, file names, what a model wrote) becomes text that is shown.

A terminal obeys escape codes, and readers are misled by letters that they cannot see or that turn the reading order
round. Here each such letter becomes its number, as Python writes it: `\\x1b`, `\\u202e`.
"""

import json
import re
import unicodedata
from functools import cache

NO_TEXT = re.compile("[\ud800-\udfff]")  # bytes that were not UTF-8, and halves of a letter
_NOT_ASCII = re.compile("[^ -~]")
_NOT_ASCII_NOR_LAYOUT = re.compile("[^ -~\n\t]")
# Controls, marks without a width (of direction, of joining, of tags), halves of a letter, ends of lines and paragraphs.
_UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")
# A page has no terminal: letters without a width stay, which many scripts need, and what turns a page round does not.
_NOT_IN_A_PAGE = re.compile("[^\t\n\r -\x7e\xa0-\u2029\u202f-\u2065\u206a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def shown(text: object) -> str:
    """Write the text as part of a line: line ends and tabs become numbers too."""
    return _NOT_ASCII.sub(_visible, str(text))


def shown_lines(text: object) -> str:
    """Write the text as lines of its own: line ends and tabs stay."""
    return _NOT_ASCII_NOR_LAYOUT.sub(_visible, str(text).replace("\r\n", "\n"))


def shown_json(text: str, encoding: str) -> str:
    """Write JSON so that it means the same, with JSON's own escapes for unsafe letters and those the encoding lacks."""
    return _NOT_ASCII_NOR_LAYOUT.sub(lambda letter: _as_json_has_it(letter[0], encoding), text)


def printable(page: str) -> str:
    """Put the sign for an unknown letter in place of each that no page can have, or that turns a page round."""
    return _NOT_IN_A_PAGE.sub("\ufffd", page)


def _visible(letter: re.Match[str]) -> str:
    return _as_python_has_it(letter[0])


@cache
def _as_python_has_it(letter: str) -> str:
    return ascii(letter)[1:-1] if unicodedata.category(letter) in _UNSAFE else letter


@cache
def _as_json_has_it(letter: str, encoding: str) -> str:
    safe = unicodedata.category(letter) not in _UNSAFE and letter.encode(encoding, "ignore")
    return letter if safe else json.dumps(letter)[1:-1]
