"""Encoded pictures of anybody's, PNG or JPEG, whose size is looked at before they are decoded."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from telic.spec import Array


def picture_size(where: str, data: bytes) -> tuple[int, int]:
    """Height and width that an encoded picture declares."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size[1], image.size[0]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where} {_line(error)}") from error


def picture(where: str, data: bytes, height: int, width: int) -> Array:
    """An encoded picture as u8 [h w 3]; its size is looked at before it is decoded."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.size != (width, height):
                raise ValueError(
                    f"is {image.size[1]} x {image.size[0]}, expected {height} x {width}"
                )
            if image.mode not in ("RGB", "RGBA"):
                raise ValueError(f"has mode {image.mode}, expected RGB")
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where} {_line(error)}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
