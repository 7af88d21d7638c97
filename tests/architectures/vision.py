"""Classifiers of images, and two models that do something else with them."""

import torch

from .architecture import LABELS, ROWS, SMALL, Architecture, Batch, classes, ids, made, noise

_IMAGE = {"image_size": 16, "patch_size": 4}
_VIT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, **_IMAGE}
_STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_TEXT = SMALL | {"max_position_embeddings": 16}


def _images(size: int = 16) -> Batch:
    return {"pixel_values": noise(ROWS, 3, size, size), "labels": classes()}


def _large() -> Batch:
    return _images(32)


def _pairs() -> Batch:
    ids_BT = ids()
    ids_BT[:, -1] = 2
    return {
        "input_ids": ids_BT,
        "attention_mask": torch.ones_like(ids_BT),
        "pixel_values": noise(ROWS, 3, 16, 16),
        "return_loss": True,
    }


def _maps() -> Batch:
    return {"pixel_values": noise(ROWS, 3, 32, 32), "labels": torch.arange(ROWS * 1024).reshape(ROWS, 32, 32) % LABELS}


def _image(
    name, stem, blocks, batch=_images, pattern=(r".*\.1\..*(weight|bias)",), model="ForImageClassification", **settings
):
    return Architecture(
        name=name,
        kind="vision",
        make=made(stem + model, stem + "Config", num_labels=LABELS, **settings),
        batch=batch,
        blocks=blocks,
        texts=False,
        pattern=pattern,
    )


VISION = (
    _image("vit", "ViT", 2, **_VIT, **_STILL),
    _image("deit", "DeiT", 2, **_VIT, **_STILL),
    _image("beit", "Beit", 2, **_VIT, **_STILL, drop_path_rate=0.0),
    _image("dinov2", "Dinov2", 2, **_VIT, **_STILL),
    _image(
        "swin",
        "Swin",
        4,
        batch=_large,
        image_size=32,
        patch_size=2,
        embed_dim=8,
        depths=[2, 2],
        num_heads=[2, 2],
        window_size=4,
        **_STILL,
        drop_path_rate=0.0,
    ),
    _image(
        "convnext",
        "ConvNext",
        4,
        batch=_large,
        hidden_sizes=[8, 16],
        depths=[2, 2],
        num_stages=2,
        patch_size=2,
        drop_path_rate=0.0,
    ),
    _image(
        "resnet", "ResNet", 4, batch=_large, embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], layer_type="basic"
    ),
    _image(
        "segformer",
        "Segformer",
        4,
        batch=_maps,
        model="ForSemanticSegmentation",
        num_encoder_blocks=2,
        depths=[2, 2],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[3, 3],
        strides=[2, 2],
        num_attention_heads=[2, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        **_STILL,
        drop_path_rate=0.0,
        classifier_dropout_prob=0.0,
    ),
    _image("clip (classifier)", "CLIP", 2, vision_config=_VIT, text_config=_TEXT),
    _image("siglip (classifier)", "Siglip", 2, vision_config=_VIT, text_config=_TEXT),
    Architecture(
        name="clip",
        kind="vision",
        make=made("CLIPModel", "CLIPConfig", vision_config=_VIT, text_config=_TEXT, projection_dim=16),
        batch=_pairs,
        blocks=4,
        texts=False,
    ),
    Architecture(
        name="siglip",
        kind="vision",
        make=made("SiglipModel", "SiglipConfig", vision_config=_VIT, text_config=_TEXT),
        batch=_pairs,
        blocks=4,
        texts=False,
    ),
)
