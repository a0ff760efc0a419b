"""What single messages of MCAP recordings hold: numbers and pictures."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from telic.datasets.formats.encoded_pictures import picture, picture_size
from telic.spec import Array


def field(content: Any, name: str) -> Any:
    """A field of a message, None where it has none."""
    return content.get(name) if isinstance(content, dict) else getattr(content, name, None)


def vector(where: str, content: Any, path: str) -> Array:
    """The numbers at a path such as pose.position, f32 [D]."""
    for name in path.split(".") if path else ():
        content = field(content, name)
    try:
        found = np.atleast_1d(np.asarray(content, np.float32))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} holds {content!r:.60}, expected numbers") from error
    if content is None or found.ndim != 1:
        raise ValueError(f"{where} is not there, or is no vector")
    return found


def pixels(where: str, content: Any) -> Array:
    """A message of a picture as u8 [h w 3]."""
    data = field(content, "data")
    try:
        data = base64.b64decode(data, validate=True) if isinstance(data, str) else bytes(data)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} holds no data of a picture") from error
    order = field(content, "encoding")
    if order is None:
        return picture(where, data, *picture_size(where, data))
    height, width, row = (field(content, key) for key in ("height", "width", "step"))
    if order not in ("rgb8", "bgr8"):
        raise ValueError(f"{where} has encoding {order!r:.40}, read are rgb8 and bgr8")
    if not all(isinstance(n, int) and n > 0 for n in (height, width, row)) or row < 3 * width:
        raise ValueError(f"{where} is {height} x {width} with rows of {row} bytes")
    if len(data) != height * row:
        raise ValueError(f"{where} has {len(data)} bytes, expected {height * row}")
    rows = np.frombuffer(data, np.uint8).reshape(height, row)[:, : 3 * width]
    frame = rows.reshape(height, width, 3)
    return frame[..., ::-1] if order == "bgr8" else frame
