"""The adapters that scripts/peft_files.py has PEFT make: its methods, their settings, and models for each."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

NAMES = {  # query, value, the feed-forward's end, the token embedding, one layer by its whole name
    "llama": ("q_proj", "v_proj", "down_proj", "embed_tokens", "model.layers.1.self_attn.k_proj"),
    "gpt2": ("c_attn", "c_fc", "mlp.c_proj", "wte", "transformer.h.1.attn.c_attn"),
    "bert": ("query", "value", "output.dense", "word_embeddings", "bert.encoder.layer.1.attention.self.key"),
    "roberta": ("query", "value", "output.dense", "word_embeddings", "roberta.encoder.layer.1.attention.self.key"),
    "distilbert": ("q_lin", "v_lin", "lin2", "word_embeddings", "distilbert.transformer.layer.1.attention.k_lin"),
    "t5": ("q", "v", "wo", "shared", "decoder.block.1.layer.0.SelfAttention.k"),
    "bart": ("q_proj", "v_proj", "fc2", "shared", "model.decoder.layers.1.self_attn.k_proj"),
    "vit": ("q_proj", "v_proj", "fc2", "projection", "vit.layers.1.attention.k_proj"),
    "phi3": ("qkv_proj", "o_proj", "down_proj", "embed_tokens", "model.layers.1.self_attn.o_proj"),
    "opt": ("q_proj", "v_proj", "fc2", "embed_tokens", "model.decoder.layers.1.self_attn.k_proj"),
}
LAYERS = {"gpt2": "h", "bert": "layer", "roberta": "layer", "distilbert": "layer", "t5": "block"}
TEXT = ("llama", "gpt2", "bert-classifier", "t5")
MOST = ("llama", "gpt2", "bert-classifier", "roberta-classifier", "t5", "bart", "vit-classifier")
ALL = (*MOST, "llama-tied", "llama-classifier", "llama-biased", "qwen3", "gemma2", "phi3", "opt", "gpt2-classifier")
ALL = (*ALL, "bert-tagger", "distilbert-classifier", "bart-classifier", "mixtral", "llava", "qwen2-vl")
HEADS = {  # of models whose head PEFT does not know by itself
    "vit-classifier": ["classifier"],
    "resnet-classifier": ["classifier"],
    "bart-classifier": ["classification_head"],
}


@dataclass(frozen=True, kw_only=True)
class Case:
    type: str
    """PEFT's name of the method."""
    label: str
    model: str
    settings: dict[str, Any]
    common: bool
    """Whether people make such adapters every day: the table counts these apart."""
    save: dict[str, Any] = field(default_factory=dict)
    """What else `save_pretrained` is given."""
    scale: float = 0.1
    """How far the trained tensors are moved away from their start."""
    names: tuple[str, ...] = ()
    """What a refusal may name beside the settings and the method."""

    @property
    def name(self) -> str:
        return f"{self.type} {self.label} {self.model}"


def parts(model: str) -> tuple[str, str, str, str, str]:
    family = model.partition("-")[0]
    return NAMES.get(family, NAMES["llama"])


def lora() -> Iterator[Case]:
    def each(label: str, models: tuple[str, ...], common: bool, names: tuple[str, ...] = (), **more: Any):
        for model in models:
            query, value, last, embedding, one = parts(model)
            words = {"QUERY": query, "VALUE": value, "LAST": last, "EMBEDDING": embedding, "ONE": one}
            words["LAYERS"] = LAYERS.get(model.partition("-")[0], "layers")
            settings = {"r": 4, "lora_alpha": 6, "target_modules": [query, value], "init_lora_weights": False}
            settings |= {key: _filled(value_, words) for key, value_ in more.items()}
            save = settings.pop("SAVE", {})
            yield Case(type="LORA", label=label, model=model, settings=settings, common=common, save=save, names=names)

    yield from each("plain", ALL, True)
    yield from each("all-linear", tuple(m for m in ALL if m not in ("mixtral",)), True, target_modules="all-linear")
    yield from each("all-linear", ("mixtral",), True, target_modules="all-linear")
    yield from each("rank 1", TEXT, True, r=1, lora_alpha=16)
    yield from each("rank 32", TEXT, True, r=32, lora_alpha=64)
    yield from each("dropout", TEXT, True, lora_dropout=0.1)
    yield from each("rslora", MOST, True, use_rslora=True, lora_alpha=16)
    yield from each("dora", MOST, True, use_dora=True)
    yield from each("dora rslora", ("llama", "gpt2"), True, use_dora=True, use_rslora=True)
    yield from each("rank pattern", MOST, True, rank_pattern={"VALUE": 2})
    yield from each("alpha pattern", MOST, True, alpha_pattern={"VALUE": 3})
    both = {"rank_pattern": {r"LAYERS\.0\..*QUERY": 2, "QUERY": 3}, "alpha_pattern": {"^.*VALUE": 2}}
    yield from each("both patterns", MOST, True, **both)
    yield from each("both patterns, rslora", TEXT, True, use_rslora=True, **both)
    yield from each("a pattern that fits nothing", TEXT, False, rank_pattern={"no_such_layer": 2})
    yield from each("an alpha pattern that fits nothing", ("llama",), False, alpha_pattern={"no_such_layer": 2})
    yield from each("regex", MOST, True, target_modules=r".*\.1\..*QUERY")
    yield from each("whole name", MOST, True, target_modules=["ONE"])
    yield from each("a target that fits nothing beside one", ("llama",), False, target_modules=["QUERY", "nothing"])
    yield from each("excluded", TEXT, True, exclude_modules=["LAYERS.0.self_attn.QUERY"], target_modules=["QUERY"])
    yield from each("excluded by regex", TEXT, True, exclude_modules=r".*\.0\..*")
    yield from each("one layer", MOST[:4], True, layers_to_transform=1)
    yield from each("layers and their list", MOST[:4], True, layers_to_transform=[0], layers_pattern="LAYERS")
    yield from each("embedding", ("llama", "gpt2", "bert-classifier"), True, target_modules=["EMBEDDING", "QUERY"])
    yield from each("embedding of a tied model", ("llama-tied",), True, target_modules=["EMBEDDING", "QUERY"])
    yield from each("head as a target", ("llama",), True, target_modules=["QUERY", "lm_head"])
    yield from each("saved whole: lm_head", ("llama", "qwen3"), True, modules_to_save=["lm_head"])
    yield from each("saved whole: embedding, lm_head", ("llama", "llama-tied"), True, ("tied", "share"),
                    modules_to_save=["embed_tokens", "lm_head"])  # fmt: skip
    yield from each("saved whole: embedding", ("llama", "llama-tied", "gpt2"), True, ("tied", "share"),
                    modules_to_save=["EMBEDDING"])  # fmt: skip
    yield from each("saved whole: norms", ("llama", "gemma2"), True, modules_to_save=["input_layernorm", "norm"])
    yield from each("saved whole: a block's part", ("llama", "bert-classifier"), True, modules_to_save=["ONE"])
    yield from each("tied weights", ("llama-tied",), False, modules_to_save=["embed_tokens"], ensure_weight_tying=True)
    yield from each("tied weights, embedding adapted", ("llama-tied",), False, target_modules=["embed_tokens"],
                    ensure_weight_tying=True)  # fmt: skip
    yield from each("tied weights without any", ("llama",), False, ensure_weight_tying=True)
    yield from each("tied weights, tokens", ("llama-tied",), False, ensure_weight_tying=True,
                    trainable_token_indices=[3, 9])  # fmt: skip
    yield from each("tokens", ("llama", "llama-tied", "qwen3", "gpt2", "opt", "bert-tagger"), True,
                    trainable_token_indices=[3, 9, 11])  # fmt: skip
    yield from each("tokens by module", ("llama",), False, trainable_token_indices={"embed_tokens": [3, 9]})
    yield from each("tokens of the head", ("llama",), False, trainable_token_indices={"lm_head": [3, 9]})
    yield from each("tokens of two", ("llama",), False,
                    trainable_token_indices={"embed_tokens": [3, 9], "lm_head": [4]})  # fmt: skip
    yield from each("tokens, dora", ("llama",), False, trainable_token_indices=[3, 9], use_dora=True)
    yield from each("resized, saved", ("llama-resized",), True, SAVE={"save_embedding_layers": True})
    yield from each("resized, embedding adapted", ("llama-resized",), True, target_modules=["QUERY", "embed_tokens"])
    yield from each("embeddings in the file", ("llama", "llama-tied", "gpt2", "t5"), True,
                    SAVE={"save_embedding_layers": True})  # fmt: skip
    yield from each("resized, saved whole", ("llama-resized",), True, modules_to_save=["embed_tokens", "lm_head"])
    yield from each("all biases", ("llama-biased", "gpt2", "bert-classifier", "opt"), True, bias="all")
    yield from each("all biases, none there", ("llama",), False, bias="all")
    yield from each("biases of its layers", ("llama-biased", "gpt2", "bert-classifier"), True, bias="lora_only")
    yield from each("all biases, dora", ("bert-classifier",), False, bias="all", use_dora=True)
    yield from each("bias of B", ("llama", "llama-biased", "gpt2", "bert-classifier"), False, lora_bias=True)
    yield from each("bias of B, all biases", ("gpt2",), False, lora_bias=True, bias="all")
    yield from each("bias of B, patterns", ("gpt2",), False, lora_bias=True, alpha_pattern={"VALUE": 3})
    for start in (True, "gaussian", "orthogonal"):
        yield from each(f"start {start}", TEXT, True, init_lora_weights=start)
    for start in ("pissa", "olora"):
        yield from each(f"start {start}", ("llama", "gpt2", "bert-classifier", "t5"), True, init_lora_weights=start)
        yield from each(f"start {start}, rslora", ("llama",), False, init_lora_weights=start, use_rslora=True)
        yield from each(f"start {start}, dora", ("llama",), False, init_lora_weights=start, use_dora=True)
        yield from each(f"start {start}, patterns", ("llama",), False, init_lora_weights=start,
                        rank_pattern={"VALUE": 2}, alpha_pattern={"QUERY": 3})  # fmt: skip
        yield from each(f"start {start}, tokens", ("llama",), False, init_lora_weights=start,
                        trainable_token_indices=[3])  # fmt: skip
    yield from each("start pissa by iteration", ("llama",), True, init_lora_weights="pissa_niter_4")
    yield from each("start mica", ("llama",), False, init_lora_weights="mica")
    yield from each(
        "start loftq", ("llama",), False, init_lora_weights="loftq", loftq_config={"loftq_bits": 4, "loftq_iter": 1}
    )
    yield from each("start eva", ("llama",), False, init_lora_weights="eva")
    yield from each("start corda", ("llama",), False, init_lora_weights="corda")
    experts = ["experts.gate_up_proj", "experts.down_proj"]
    yield from each("expert parameters", ("mixtral",), True, target_parameters=experts)
    yield from each("expert parameters alone", ("mixtral",), True, target_modules=[], target_parameters=experts[:1])
    yield from each("replicated layers", ("llama",), False, layer_replication=[[0, 2], [0, 2]])
    yield from each("invocation tokens", ("llama",), False, alora_invocation_tokens=[2])
    yield from each("arrow", ("llama",), False, arrow_config={"top_k": 2})
    yield from each("kasa", ("llama",), False, kasa_config={})
    yield from each("monteclora", ("llama",), False, monteclora_config={})
    yield from each("velora", ("llama",), False, velora_config={})
    yield from each("bdlora", ("llama",), False, use_bdlora={"target_modules_bd_a": ["q_proj"], "nblocks": 2})
    yield from each("qalora", ("llama",), False, use_qalora=True, qalora_group_size=8)
    convolution = {"target_modules": ["convolution"], "modules_to_save": ["classifier"]}
    yield from each("convolutions", ("resnet-classifier",), True, **convolution)
    yield from each("convolutions, rslora", ("resnet-classifier",), True, use_rslora=True, **convolution)
    yield from each("convolutions, dora", ("resnet-classifier",), False, use_dora=True, **convolution)
    yield from each("convolutions, bias of B", ("resnet-classifier",), False, lora_bias=True, **convolution)
    yield from each("convolutions, all biases", ("convolutions",), False, target_modules=["line"], bias="all")
    yield from each("batch norms saved whole", ("resnet-classifier",), True, target_modules=["convolution"],
                    modules_to_save=["classifier", "normalization"])  # fmt: skip
    yield from each("patches", ("vit-classifier",), True, target_modules=["projection", "QUERY"])
    yield from each("1-D and 3-D", ("convolutions",), False, target_modules=["line", "space", "hidden"])
    yield from each("all-linear", ("convolutions",), False, target_modules=["hidden", "last"])
    text = {"target_modules": r".*language_model.*\.(q_proj|v_proj)"}
    yield from each("language model only", ("llava", "qwen2-vl"), True, **text)


def others() -> Iterator[Case]:
    def each(kind: str, label: str, models: tuple[str, ...], common: bool, save: Any = None, **more: Any):
        for model in models:
            query, value, last, embedding, one = parts(model)
            words = {"QUERY": query, "VALUE": value, "LAST": last, "EMBEDDING": embedding, "ONE": one}
            scale = 2.0 if kind in ("HIRA", "TINYLORA", "UNILORA", "ADAPTION_PROMPT") else 0.1
            settings = {} if "num_virtual_tokens" in more else {"target_modules": [query, last]}
            settings |= {key: _filled(v, words) for key, v in more.items()}
            yield Case(
                type=kind, label=label, model=model, settings=settings, common=common, save=save or {}, scale=scale
            )

    budget = {"init_r": 4, "target_r": 2, "total_step": 100, "tinit": 5, "tfinal": 10}
    some = ("llama", "gpt2", "bert-classifier", "t5")
    yield from each("ADALORA", "plain", (*some, "vit-classifier"), True, **budget)
    yield from each("ADALORA", "alpha, dropout", ("llama",), True, **budget, lora_alpha=16, lora_dropout=0.1)
    yield from each("ADALORA", "a target above the start", ("llama",), False, **budget | {"init_r": 2, "target_r": 4})
    yield from each("ADALORA", "equal ranks", ("llama",), True, **budget | {"target_r": 4})
    yield from each("ADALORA", "all biases", ("gpt2",), False, **budget, bias="all")
    yield from each("ADALORA", "tokens", ("llama",), False, **budget, trainable_token_indices=[3])
    yield from each("ADALORA", "a pattern, after pruning", ("llama", "gpt2"), True, **budget, PRUNE=True)

    yield from each("IA3", "plain", (*MOST, "phi3", "opt", "llama-biased"), True, feedforward_modules=["LAST"])
    yield from each("IA3", "no feed-forward", some, True, feedforward_modules=[])
    yield from each(
        "IA3", "regex", ("llama",), True, target_modules=r".*\.(k_proj|down_proj)", feedforward_modules=r".*down_proj"
    )
    yield from each("IA3", "excluded", ("llama",), True, feedforward_modules=["LAST"], exclude_modules=r".*\.0\..*")
    yield from each("IA3", "by default", ("llama", "gpt2", "bert-classifier", "t5", "bart", "opt", "phi3"), True,
                    target_modules=None)  # fmt: skip
    yield from each("IA3", "convolutions", ("resnet-classifier",), False, target_modules=["convolution"],
                    feedforward_modules=[])  # fmt: skip

    for kind in ("LOHA", "LOKR"):
        yield from each(kind, "plain", (*some, "vit-classifier", "qwen3"), True, r=3, alpha=5)
        yield from each(kind, "patterns", ("llama", "bert-classifier"), True, r=3, rank_pattern={"LAST": 2},
                        alpha_pattern={"QUERY": 3})  # fmt: skip
        yield from each(kind, "a pattern that fits nothing", ("llama",), False, r=3, rank_pattern={"nothing": 2})
        yield from each(kind, "dropouts", ("llama",), True, r=3, rank_dropout=0.1, module_dropout=0.1)
        yield from each(kind, "one layer", ("llama",), True, r=3, layers_to_transform=[1])
        yield from each(kind, "excluded", ("llama",), True, r=3, exclude_modules=r".*\.0\..*")
        yield from each(kind, "saved whole", ("llama",), True, r=3, modules_to_save=["lm_head"])
        yield from each(kind, "convolutions", ("resnet-classifier",), False, r=3, target_modules=["convolution"])
        yield from each(kind, "convolutions, effective", ("resnet-classifier",), False, r=3, use_effective_conv2d=True,
                        target_modules=["convolution"])  # fmt: skip
    yield from each("LOKR", "both decomposed", some, True, r=1, decompose_both=True)
    yield from each("LOKR", "factor", some, True, r=2, decompose_factor=4)
    yield from each("LOKR", "rank dropout scaled", ("llama",), False, r=2, rank_dropout=0.1, rank_dropout_scale=True)
    yield from each("LOKR", "start lycoris", ("llama",), False, r=2, init_weights="lycoris")
    yield from each("LOHA", "start lycoris", ("llama",), False, r=2, init_weights=False)

    yield from each("VERA", "plain", (*some, "vit-classifier"), True, r=8)
    yield from each(
        "VERA", "key, dropout", ("llama",), True, r=8, projection_prng_key=7, vera_dropout=0.1, d_initial=0.3
    )
    yield from each("VERA", "projections left out", ("llama", "gpt2"), True, r=8, save_projection=False)
    yield from each("VERA", "all biases", ("bert-classifier",), False, r=8, bias="all")
    yield from each("VERA", "one layer", ("llama",), True, r=8, layers_to_transform=[1])

    yield from each("OFT", "plain", (*some, "vit-classifier"), True, oft_block_size=8)
    yield from each("OFT", "blocks", ("llama", "gpt2"), True, oft_block_size=0, r=4)
    yield from each("OFT", "shared", ("llama", "gpt2"), True, oft_block_size=8, block_share=True)
    yield from each("OFT", "exact", ("llama", "bert-classifier"), True, oft_block_size=8, use_cayley_neumann=False)
    yield from each("OFT", "terms", ("llama",), True, oft_block_size=8, num_cayley_neumann_terms=7)
    yield from each("OFT", "few terms", ("llama",), False, oft_block_size=8, num_cayley_neumann_terms=3)
    yield from each("OFT", "constrained", ("llama",), False, oft_block_size=8, coft=True, eps=1.0)
    yield from each("OFT", "dropout", ("llama",), True, oft_block_size=8, module_dropout=0.1)
    yield from each("OFT", "all biases", ("bert-classifier",), False, oft_block_size=8, bias="all")
    yield from each("OFT", "excluded", ("llama",), True, oft_block_size=8, exclude_modules=r".*\.0\..*")
    yield from each("OFT", "convolutions", ("resnet-classifier",), False, oft_block_size=4,
                    target_modules=["convolution"])  # fmt: skip

    norms = {"llama": ["input_layernorm", "norm"], "gpt2": ["ln_1", "ln_f"], "bert-classifier": ["LayerNorm"]}
    norms |= {"t5": ["layer_norm"], "vit-classifier": ["layernorm"], "resnet-classifier": ["normalization"]}
    for model, names in norms.items():
        yield from each("LN_TUNING", "plain", (model,), model != "resnet-classifier", target_modules=names)
    yield from each("LN_TUNING", "a linear layer", ("llama",), False, target_modules=["q_proj"])
    yield from each("LN_TUNING", "excluded", ("llama",), True, target_modules=norms["llama"],
                    exclude_modules=["model.norm"])  # fmt: skip
    yield from each("SHIRA", "plain", ("llama", "bert-classifier", "t5", "qwen3"), True, r=2)
    yield from each("SHIRA", "seed", ("llama",), True, r=2, random_seed=5)

    prompts = ("llama", "llama-classifier", "gpt2", "gpt2-classifier", "bert-classifier", "roberta-classifier")
    prompts = (*prompts, "bert-tagger", "t5", "bart", "opt", "qwen3", "gemma2", "llava")
    yield from each("PROMPT_TUNING", "plain", prompts, True, num_virtual_tokens=4)
    yield from each("PREFIX_TUNING", "plain", (*prompts, "phi3"), True, num_virtual_tokens=4)
    yield from each("PREFIX_TUNING", "projected", ("llama", "gpt2", "bert-classifier"), True, num_virtual_tokens=4,
                    prefix_projection=True, encoder_hidden_size=8)  # fmt: skip
    yield from each("P_TUNING", "plain", ("llama", "gpt2", "bert-classifier", "t5"), True, num_virtual_tokens=4,
                    encoder_hidden_size=8)  # fmt: skip
    yield from each("P_TUNING", "lstm", ("llama",), True, num_virtual_tokens=4, encoder_hidden_size=8,
                    encoder_reparameterization_type="LSTM")  # fmt: skip
    yield from each("MULTITASK_PROMPT_TUNING", "plain", ("llama", "t5"), False, num_virtual_tokens=4, num_tasks=2)

    unknown: dict[str, dict[str, Any]] = {
        "BOFT": {"boft_block_size": 4}, "HRA": {"r": 4}, "FOURIERFT": {"n_frequency": 30},
        "MISS": {"r": 4}, "RANDLORA": {"r": 4}, "POLY": {"r": 4}, "VBLORA": {"r": 2, "num_vectors": 8,
        "vector_length": 8}, "ROAD": {"group_size": 8}, "C3A": {"block_size": 16}, "DELORA": {"r": 4},
        "GRALORA": {"r": 4, "alpha": 8}, "HIRA": {"r": 4}, "LILY": {"r": 4}, "PEANUT": {"r": 4}, "PSOFT": {"r": 4},
        "PVERA": {"r": 8}, "TINYLORA": {"r": 2, "u": 4}, "UNILORA": {"r": 2, "theta_d_length": 16},
        "WAVEFT": {"n_frequency": 30}, "BEFT": {}, "DEFT": {"r": 4}, "GLORA": {"r": 4}, "OSF": {"effective_rank": 4},
    }  # fmt: skip
    for kind, settings in unknown.items():
        yield from each(kind, "plain", ("llama",), False, target_modules=["q_proj"], **settings)
    yield from each("TRAINABLE_TOKENS", "plain", ("llama", "llama-tied"), False, target_modules=["embed_tokens"],
                    token_indices=[3, 9])  # fmt: skip
    yield from each("ADAPTION_PROMPT", "plain", ("llama",), False, target_modules=None, adapter_len=4, adapter_layers=1)


def cases() -> list[Case]:
    return [*lora(), *others()]


def _filled(value: Any, words: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {_filled(k, words): _filled(v, words) for k, v in value.items()}
    if isinstance(value, list):
        return [_filled(v, words) for v in value]
    if isinstance(value, str):
        for word, name in words.items():
            value = value.replace(word, name)
    return value
