"""What of a tokenizer of transformers is used here."""

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol, overload

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend
    from transformers import AddedToken


class SavesFiles(Protocol):
    """What writes files of its own beside an adapter's."""

    def save_pretrained(self, save_directory: str | PathLike[str], /) -> Iterable[str]:
        """Write them into the folder and return their paths."""
        ...


class Tokenizer(SavesFiles, Protocol):
    """What turns texts into the ids of tokens, and ids into texts."""

    name_or_path: str
    chat_template: str | dict[str, str] | None
    model_max_length: int
    pad_token: str | None
    pad_token_id: int  # a base's tokenizer always has one
    bos_token_id: int | None
    eos_token: str | None
    eos_token_id: int | None
    unk_token: str | None
    unk_token_id: int | None

    @property
    def vocab_size(self) -> int: ...
    @property
    def all_special_ids(self) -> list[int]: ...
    @property
    def added_tokens_decoder(self) -> "Mapping[int, AddedToken]": ...
    def __len__(self) -> int: ...
    def __call__(
        self, text: str | list[str], text_pair: str | Sequence[str | None] | None = None, /, **how: object
    ) -> Mapping[str, Any]:
        """Return the model's arguments: lists of ids, of such lists or tensors, by what is given and asked."""
        ...

    def pad(
        self, rows: Mapping[str, Sequence[list[int]]] | Sequence[Mapping[str, object]], /, **how: object
    ) -> Mapping[str, Any]: ...
    @overload
    def convert_ids_to_tokens(self, ids: int, /) -> str: ...
    @overload
    def convert_ids_to_tokens(self, ids: list[int], /) -> list[str]: ...
    def decode(self, token_ids: list[int], /, **how: object) -> str: ...
    def apply_chat_template(self, conversation: Sequence[Mapping[str, object]], /, **how: object) -> str: ...


def cut_in_files(tokenizer: "Tokenizer", length: int | None) -> None:
    """Let the files that the tokenizer writes from now on cut at so many tokens, or nowhere.

    Its fast form keeps how it cut and padded last, and writes that: transformers never reads it, others do.
    """
    backend: Backend | None = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return
    backend.no_padding()
    if length is None:
        backend.no_truncation()
    else:
        backend.enable_truncation(length)
