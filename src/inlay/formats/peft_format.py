"""How a method's adapters are written: as Hugging Face PEFT does, adapter_config.json and adapter_model.safetensors.

A method that PEFT lacks uses the same two files with a type of its own. Beside them provenance.json names the base
model by the fingerprint of its weights. Where the tensors are the result of a reparameterization, which PEFT drops,
what they are computed from has a file of its own, so that training can go on. methods/loading.py reads these files.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from safetensors.torch import save_file
from torch import Tensor, nn

from .. import __version__
from ..attached.adapter import Adapter
from ..attached.labels import label_names
from ..core.attachment import Attachment
from ..core.method import Method
from ..errors import CheckpointError, unknown_names
from ..models.heads import task_heads
from ..models.listed_classes import classes_for
from ..models.sites import Sites
from ..models.tokenizer import SavesFiles
from . import seal
from .files import digest_of, write_json, write_whole
from .peft_config import COMMON_KEYS, CONFIG, PeftConfig
from .peft_names import PREFIX
from .peft_plain import PLAIN, plain_form
from .peft_tensors import SOURCES, TENSORS

OWN = "INLAY_"  # begins the types of files that PEFT does not have
METHOD_CLASS = "method_class"
OWN_PROVENANCE = (
    "inlay_version",
    "method",
    METHOD_CLASS,
    "base_fingerprint",
    seal.CAME_PACKED,
    "base_rows",
    *seal.KEYS,
)
_PEFT_VERSION = "0.18.0"  # the oldest release whose reading of these files is the one written here

_TASKS = {  # in PEFT's words, and in those of transformers; a base without a head is for none
    "CAUSAL_LM": "CAUSAL_LM",
    "SEQ_CLS": "SEQUENCE_CLASSIFICATION",
    "SEQ_2_SEQ_LM": "SEQ_TO_SEQ_CAUSAL_LM",
    "TOKEN_CLS": "TOKEN_CLASSIFICATION",
    "QUESTION_ANS": "QUESTION_ANSWERING",
    "FEATURE_EXTRACTION": None,
}

MethodT = TypeVar("MethodT", bound=Method)


@dataclass(frozen=True, kw_only=True)
class PeftFormat(Generic[MethodT]):
    """The form of one method's adapters in PEFT's files.

    As it is, settings stand in the file under their own names and tensors in their own shapes. A subclass translates a
    method that PEFT has.
    """

    peft_type: str
    """What adapter_config.json calls it: PEFT's where it has the method, else one that it does not have."""
    read_by_peft: bool = False
    """Whether Hugging Face PEFT can load what is saved."""
    names: Mapping[str, str] = field(default_factory=dict)
    """The names in the file of a delta's parameters, where they differ."""
    known: frozenset[str] | None = None
    """The keys of PEFT's settings that are read, or that change nothing; None if the settings are in our own words."""
    head_prefix: str = PREFIX
    """What stands before the names of a head's tensors."""

    def key(self, host: str, parameter: str) -> str:
        """Name the tensor in adapter_model.safetensors."""
        return f"{PREFIX}{host}.{self.names.get(parameter, parameter)}"

    def config(self, method: MethodT, sites: Sites, hosts: list[str]) -> dict[str, object]:
        """Write the method's settings, under their names in adapter_config.json."""
        return dataclasses.asdict(method)

    def write(
        self, adapter: Adapter, method: MethodT, sites: Sites, tensors: dict[str, Tensor]
    ) -> tuple[dict[str, object], dict[str, Tensor]]:
        """Return settings and tensors as they are written; `tensors` has the adapter's by `key`."""
        return self.config(method, sites, [host for host in adapter.deltas if not sites.in_head(host)]), tensors

    def reads(self, config: PeftConfig) -> bool:
        """Tell whether the settings in a file are of this form."""
        return config["peft_type"] == self.peft_type

    def in_own_words(self, peft_type: str) -> bool:
        """Tell whether settings in a file of this type are in our own words, not in PEFT's."""
        return self.known is None or peft_type.startswith(OWN)

    def read(self, kind: type[MethodT], config: PeftConfig) -> MethodT:
        """Build the method, of the class `kind`, that `config` describes. Raises CheckpointError for a variant that the
        class cannot compute."""
        fields = {f.name for f in dataclasses.fields(kind)}
        settings = {k: v for k, v in config.items() if k not in COMMON_KEYS}
        if unknown := [key for key in settings if key not in fields]:
            raise CheckpointError(unknown_names(f"{CONFIG}: unknown setting", unknown, fields))
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})

    def in_own_form(
        self, model: nn.Module, config: PeftConfig, tensors: dict[str, Tensor], asked: PeftConfig
    ) -> tuple[PeftConfig, dict[str, Tensor]]:
        """Rewrite what a file says in terms of the model; `asked` is the file's config, which may name modules
        otherwise."""
        return config, tensors

    def of_tensors(self, method: MethodT, tensors: dict[str, Tensor]) -> Method:
        """Correct the method by its tensors, if a file's settings alone do not tell which one it is."""
        return method

    def read_tensors(self, method: MethodT, config: PeftConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Bring a file's tensors, by its keys, into the shapes that the deltas have."""
        return tensors

    def from_base(self, method: MethodT, adapter: Adapter) -> dict[str, Tensor]:
        """Compute what a file leaves out because it follows from the base's weights, by the adapter's own names."""
        return {}

    def save(
        self,
        adapter: Attachment,
        folder: Path,
        *,
        plain: bool = False,
        provenance: Mapping[str, object] | None = None,
        tokenizer: SavesFiles | None = None,
    ) -> None:
        """Write the adapter's files into `folder`, and the tokenizer's; `Adapter.save` says the rest."""
        assert isinstance(adapter, Adapter)
        sites = Sites(adapter.model, adapter.heads, adapter.part)
        from_sources: dict[str, Tensor] = {}
        if plain:
            settings, tensors = plain_form(adapter)
        else:
            tensors = {key: tensor.detach() for key, (_, tensor) in placed(adapter).items()}
            shown, sources = computed(adapter)
            from_sources = {key: tensors.pop(key).contiguous() for key in sources}
            settings, tensors = self.write(adapter, self._method(adapter), sites, tensors | shown)
        config = self._common(adapter) | settings
        if (
            adapter.part is not None and not plain and self.in_own_words(str(config["peft_type"]))
        ):  # PEFT's types list the hosts themselves
            config["part"] = adapter.part
        tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
        write_whole(folder / TENSORS, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
        written = [TENSORS, CONFIG]
        if from_sources:
            of = {"of": digest_of(folder / TENSORS)}  # alone: several entries are written in any order
            write_whole(folder / SOURCES, lambda path: save_file(from_sources, path, metadata=of))
            written.append(SOURCES)
        else:
            (folder / SOURCES).unlink(missing_ok=True)
        write_json(folder / CONFIG, config)
        if tokenizer is not None:
            written += [Path(path).name for path in tokenizer.save_pretrained(folder) if Path(path).parent == folder]
        about = _about(adapter, plain) | dict(provenance or {})
        if (
            "labels" not in about
            and config["task_type"] == "SEQ_CLS"
            and (names := adapter.labels or label_names(adapter.model))
        ):
            about["labels"] = list(names)
        write_json(folder / seal.PROVENANCE, seal.sealed(about, folder, written))

    def _common(self, adapter: Adapter) -> dict[str, object]:
        """Write the settings that every adapter's file has."""
        model = adapter.model
        # A task makes PEFT expect the head in the file; without one it leaves the base's head alone.
        return {
            "peft_type": self.peft_type,
            "task_type": _task_type(model) if _has_heads(adapter) else None,
            "base_model_name_or_path": getattr(getattr(model, "config", None), "_name_or_path", "") or None,
            "inference_mode": True,
            "peft_version": _PEFT_VERSION,
            "modules_to_save": [head for head in adapter.heads if head] or None,
        }

    def _method(self, adapter: Adapter) -> MethodT:
        return cast(MethodT, adapter.method)  # an adapter is written by its own method's format


def format_of(method: Method | type[Method]) -> PeftFormat[Any]:
    """Return the form of the method's files, whole."""
    form = method.format
    assert isinstance(form, PeftFormat)
    return form


def placed(adapter: Adapter) -> dict[str, tuple[str, Tensor]]:
    """Map each key in a file to the adapter's own key and its tensor."""
    form, sites = format_of(adapter.method), Sites(adapter.model, adapter.heads)
    found = {}
    for host, name, tensor in adapter.tensors():
        own = f"{host}.{name}" if host else name
        key = f"{form.head_prefix}{own}" if sites.in_head(host) else form.key(host, name)
        found[key] = (own, tensor)
    return found


def computed(adapter: Adapter) -> tuple[dict[str, Tensor], set[str]]:
    """Return the tensors that a file shows in place of those that compute them, and the keys of the latter."""
    shown, sources, form = {}, set(), format_of(adapter.method)
    for host, module, delta in adapter.hosts():
        if results := delta.computed(module):
            shown |= {form.key(host, name): tensor.detach() for name, tensor in results.items()}
            sources |= {form.key(host, name) for name in delta.saved(module)}
    return shown, sources


def _about(adapter: Adapter, plain: bool) -> dict[str, object]:
    """Return what provenance.json says by itself. A method that is not Inlay's own says where it is defined."""
    kind = type(adapter.method)
    foreign = kind.__module__.partition(".")[0] != __name__.partition(".")[0] and not plain
    return {
        "inlay_version": __version__,
        "method": PLAIN if plain else kind.name,
        **({METHOD_CLASS: f"{kind.__module__}:{kind.__qualname__}"} if foreign else {}),
        "base_fingerprint": adapter.base_fingerprint,
        **({seal.CAME_PACKED: True} if adapter.base_came_packed else {}),
        "base_rows": adapter.base_rows,
    }


def _has_heads(adapter: Adapter) -> bool:
    """Tell whether what the model has for its task is in the adapter."""
    return set(task_heads(adapter.model)) <= set(adapter.heads)


def _task_type(model: nn.Module) -> str | None:
    kind = type(model).__name__
    if task := next((task for task, listed in _TASKS.items() if kind in classes_for(listed)), None):
        return task
    if kind not in classes_for("IMAGE_TEXT_TO_TEXT"):
        return None
    return "SEQ_2_SEQ_LM" if getattr(model.config, "is_encoder_decoder", False) else "CAUSAL_LM"  # it writes text
