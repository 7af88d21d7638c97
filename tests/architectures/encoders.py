"""Encoders of texts, most of them as classifiers."""

from .architecture import LABELS, SMALL, VOCABULARY, Architecture, Batch, causal_batch, classifier, made

_STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_BERT = SMALL | _STILL
_DEBERTA = {
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
}


def _tags() -> Batch:
    batch = causal_batch()
    return batch | {"labels": batch["labels"] % LABELS}


def _features() -> Batch:
    batch = causal_batch()
    del batch["labels"]
    return batch


ENCODERS = (
    classifier("bert", "Bert", **_BERT),
    Architecture(
        name="bert (tagger)",
        kind="encoder",
        make=made("BertForTokenClassification", "BertConfig", **_BERT, num_labels=LABELS),
        batch=_tags,
        blocks=2,
    ),
    Architecture(
        name="bert (masked words)",
        kind="encoder",
        make=made("BertForMaskedLM", "BertConfig", **_BERT),
        batch=causal_batch,
        blocks=2,
    ),
    Architecture(
        name="bert (no head)", kind="encoder", make=made("BertModel", "BertConfig", **_BERT), batch=_features, blocks=2
    ),
    classifier("roberta", "Roberta", **_BERT),
    classifier("xlm-roberta", "XLMRoberta", **_BERT),
    classifier(
        "distilbert",
        "DistilBert",
        dim=32,
        hidden_dim=48,
        n_layers=2,
        n_heads=4,
        vocab_size=VOCABULARY,
        dropout=0.0,
        attention_dropout=0.0,
        seq_classif_dropout=0.0,
        pad_token_id=0,
    ),
    classifier("albert", "Albert", blocks=1, **_BERT, embedding_size=16, classifier_dropout_prob=0.0),
    classifier("deberta", "Deberta", **_BERT, relative_attention=True, pos_att_type=["p2c", "c2p"]),
    classifier("deberta-v2", "DebertaV2", **_BERT, **_DEBERTA),
    classifier("electra", "Electra", **_BERT, embedding_size=16),
    classifier("mpnet", "MPNet", **_BERT),
    classifier(
        "modernbert",
        "ModernBert",
        **SMALL,
        local_attention=8,
        global_attn_every_n_layers=2,
        cls_token_id=1,
        sep_token_id=2,
    ),
    classifier(
        "xlnet",
        "XLNet",
        d_model=32,
        n_layer=2,
        n_head=4,
        d_inner=48,
        vocab_size=VOCABULARY,
        dropout=0.0,
        summary_last_dropout=0.0,
        pad_token_id=0,
    ),
    classifier("convbert", "ConvBert", **_BERT, embedding_size=16, head_ratio=2, conv_kernel_size=3),
    classifier("esm", "Esm", **_BERT, mask_token_id=3, position_embedding_type="rotary", token_dropout=False),
)
