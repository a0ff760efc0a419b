"""Models of Hugging Face as small as they come, in folders."""

from __future__ import annotations

from pathlib import Path


def save_vision_transformer(folder: Path, patch_size: int) -> None:
    """Write a vision transformer with a class token, and its preprocessing to 16 x 16 pixels."""
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=patch_size,
    )
    ViTModel(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
