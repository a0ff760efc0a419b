"""Models of Hugging Face as small as they come, in folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ONE_LAYER = {"num_hidden_layers": 1, "num_attention_heads": 2}


def clip_text_model() -> Any:
    """A text tower of CLIP with its projection to 12 numbers, for eight words."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=8,
        hidden_size=16,
        intermediate_size=16,
        **ONE_LAYER,
        max_position_embeddings=8,
        projection_dim=12,
        eos_token_id=1,
    )
    return CLIPTextModelWithProjection(config)


def save_vision_transformer(folder: Path, patch_size: int) -> None:
    """Write a vision transformer with a class token, and its preprocessing to 16 x 16 pixels."""
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    config = ViTConfig(
        hidden_size=24,
        **ONE_LAYER,
        intermediate_size=32,
        image_size=16,
        patch_size=patch_size,
    )
    ViTModel(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
