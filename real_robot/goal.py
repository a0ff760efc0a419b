"""The goal of a run on a robot: a sentence, pictures read from files, or both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from telic.spec import Array, ArraySpec, GoalKinds, Interface

ARRAYS: Final = (".npy",)
PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_PICTURE: Final = ArraySpec(shape=(None, None, 3), dtype="uint8")


@dataclass(kw_only=True, slots=True)
class ControlGoal:
    """What the robot is to do, in words and pictures."""

    shorthand: ClassVar[str] = "text"  # the key that `goal='open the drawer'` stands for
    repeated: ClassVar[tuple[str, ...]] = ("image",)  # keys that may be given several times

    # sentence, which `goal=...` is short for; None: the robot's own, where no picture is given
    text: str | None = None
    # CAMERA:FILE, the picture of the goal that a camera would take; given once for each camera
    image: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.text is not None and not self.text.strip():
            raise ValueError("goal is empty; give a sentence, or goal=null for the robot's own")
        if self.text is not None and _is_file(self.text):
            raise ValueError(
                f"goal={self.text} is a file; goal='open the drawer' is a sentence, and a picture "
                f"is goal.image=CAMERA:{self.text}"
            )
        cameras = set()
        for camera, _ in self._files():
            if camera in cameras:
                raise ValueError(f"goal.image={camera}: is given twice; one picture for a camera")
            cameras.add(camera)

    def _files(self) -> Iterator[tuple[str, Path]]:
        """Yield camera and file of each picture."""
        for entry in self.image:
            camera, _, file = entry.partition(":")
            if not camera.strip() or not file.strip():
                raise ValueError(
                    f"goal.image={entry} must be CAMERA:FILE, such as goal.image=front:goal.png"
                )
            yield camera.strip(), Path(file.strip())

    def pictures(self) -> dict[str, Array]:
        """Return camera -> u8 [h w 3], RGB, read now; ValueError for a file that is no picture."""
        return {
            camera: _read(file, f"goal.image={camera}:{file}") for camera, file in self._files()
        }


def require_goal(
    policy: Mapping[str, Any], who: str, text: str | None, images: Mapping[str, Array]
) -> None:
    """Raise ValueError unless the policy takes the goal; `policy`: its worker's message."""
    kinds_given = policy["goals"]
    kinds = GoalKinds(**{**kinds_given, "cameras": tuple(kinds_given["cameras"])})
    if text is not None:
        kinds.require("goal", who, text=True, images=False)
    if images:
        kinds.require("goal.image", who, text=False, images=True)
        kinds.require_images(images, Interface.from_json(policy["interface"]), who)
    elif text is None and not kinds.text:  # nor does it take the robot's own sentence
        wanted = " ".join(f"goal.image={camera}:FILE" for camera in kinds.cameras)
        raise ValueError(f"{who} was trained on goals by {kinds}, not by sentences; give {wanted}")


def in_words(text: str | None, images: Mapping[str, Array]) -> str:
    """Return the goal in a few words."""
    pictures = f"picture of {', '.join(images)}" if images else None
    return ", ".join(part for part in (text, pictures) if part is not None)


def _read(file: Path, where: str) -> Array:
    """Return the picture in a file: one of PICTURES, or an array as numpy saves it."""
    import imageio.v3 as imageio

    try:
        if file.suffix.lower() in ARRAYS:
            picture = np.load(file, allow_pickle=False)
        else:
            picture = imageio.imread(file, plugin="pillow", mode="RGB")
    except FileNotFoundError as error:
        raise ValueError(f"{where}: there is no such file") from error
    except (OSError, ValueError, EOFError, SyntaxError) as error:  # Pillow's, of damaged files
        text = " ".join(str(error).split())
        raise ValueError(f"{where}: cannot be read as a picture ({text:.100})") from error
    return _PICTURE.validate(np.asarray(picture), where)


def _is_file(goal: str) -> bool:
    """Return whether a sentence is the path of a file, and of a picture even if there is none."""
    suffix = Path(goal).suffix.lower()
    if suffix in (*PICTURES, *ARRAYS, ".npz"):
        return True
    return suffix not in ("", ".") and Path(goal).is_file()
