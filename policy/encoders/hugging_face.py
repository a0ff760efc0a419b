"""Loading from a folder or the Hugging Face hub, with one line where that fails."""

from __future__ import annotations

from typing import Any


def from_hugging_face(name: str, class_name: str, where: str) -> Any:
    """Return `transformers.<class_name>` loaded from the folder or hub name `name`.

    ValueError, beginning with `where`, if it can be had from neither.
    """
    import transformers  # takes seconds; most policies do without

    transformers.logging.disable_progress_bar()
    try:
        return getattr(transformers, class_name).from_pretrained(name)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{where}={name!r} is neither a folder with a model nor to be had from the Hugging "
            f"Face hub ({reason}); give a folder, or download it once where there is a network"
        ) from error
