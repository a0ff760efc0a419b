"""Makes docs/assets/playtable.webp, the picture of the README: five tasks in a row on PlayTable.

    python tools/film_strip.py                    # the scripted experts on evaluation chain 6

Both cameras side by side, every fifth step, at twice the robot's pace; below them the sentence.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from telic.envs import registry
from telic.envs.playtable.chain_task import ChainTask

ROOT = Path(__file__).resolve().parents[1]
SIDE = 260  # pixels of a camera's picture
CAPTION = 34  # pixels below
EVERY = 5  # steps a frame; the table runs at 30 a second
FRAME_MS = round(1000 * EVERY / 30 / 2)
GREY, INK, DONE = (245, 245, 245), (30, 30, 30), (46, 139, 87)


def frames(chain: int) -> Iterator[Image.Image]:
    """The pictures of an evaluation chain that the experts solve."""
    env = registry.make("playtable/lh_mtlc")
    assert isinstance(env, ChainTask)
    observation, info = env.reset(seed=chain)
    expert, sentence, step, over = env.expert(), info["instruction"], 0, False
    while not over:
        if step % EVERY == 0:
            yield drawn(env, sentence)
        observation, _, _, truncated, info = env.step(expert.act(observation))
        step, over = step + 1, truncated or info["success"]
        sentence = info["instruction"]
    for _ in range(8):  # the last picture stays
        yield drawn(env, sentence)


def drawn(env: ChainTask, sentence: str) -> Image.Image:
    """Both cameras, the sentence, and a dot for each task of the chain."""
    large = [env.picture(camera, (2 * SIDE, 2 * SIDE)) for camera in ("static", "gripper")]
    both = Image.fromarray(np.concatenate(large, axis=1))
    image = Image.new("RGB", (2 * SIDE, SIDE + CAPTION), GREY)
    image.paste(both.resize((2 * SIDE, SIDE), Image.Resampling.LANCZOS), (0, 0))
    draw = ImageDraw.Draw(image)
    draw.text((10, SIDE + 9), sentence, fill=INK, font=ImageFont.load_default(14))
    for task in range(5):
        left = 2 * SIDE - 92 + 17 * task
        box = (left, SIDE + 11, left + 11, SIDE + 22)
        draw.ellipse(box, fill=DONE if task < env.goals_reached else None, outline=INK)
    return image


def main() -> None:
    """Write the film."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--chain", type=int, default=6, help="number of the evaluation chain")
    parser.add_argument("--quality", type=int, default=60, help="of WebP, 0 to 100")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/assets/playtable.webp")
    args = parser.parse_args()
    first, *others = frames(args.chain)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    first.save(
        args.out,
        save_all=True,
        append_images=others,
        duration=FRAME_MS,
        loop=0,
        quality=args.quality,
        method=6,
    )
    size = args.out.stat().st_size / 1e6
    print(f"{args.out}: {1 + len(others)} frames, {size:.2f} MB")


if __name__ == "__main__":
    main()
