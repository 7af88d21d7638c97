import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MKL_CBWR"] = "AUTO,STRICT"  # else a product's last bit depends on where in memory its factors lie
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch

from .shapes import SHAPES, Shape

torch.set_num_threads(1)  # the models here are too small to share


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def shape(request: pytest.FixtureRequest) -> Shape:
    return request.param
