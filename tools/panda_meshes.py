"""Makes envs/playtable/meshes/panda.npz, the arm's visible shape, from PyPI's pybullet 3.2.7.

    pip install pybullet==3.2.7 fast-simplification          # in an environment of their own
    python tools/panda_meshes.py SITE_PACKAGES/pybullet_data/franka_panda

The meshes are Franka Emika's (franka_description, Apache 2.0). Of each link the white and the grey
part are kept apart and simplified to a few hundred triangles; nothing else is changed.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import fast_simplification
import numpy as np
from PIL import Image

OUT = Path(__file__).resolve().parents[1] / "envs/playtable/meshes/panda.npz"
# link -> file, triangles to keep of its white and its grey part
LINKS = {
    "link0": ("collision/link0.obj", 200, 0),
    "link1": ("visual/link1.obj", 350, 0),
    "link2": ("visual/link2.obj", 350, 0),
    "link3": ("visual/link3.obj", 380, 150),
    "link4": ("visual/link4.obj", 380, 150),
    "link5": ("visual/link5.obj", 480, 260),
    "link6": ("visual/link6.obj", 480, 360),
    "link7": ("collision/link7.obj", 200, 0),
    "hand": ("visual/hand.obj", 1200, 120),
}
GREY_BELOW = 180  # of 255, in the meshes' colour sheet

Mesh = tuple[np.ndarray, np.ndarray]


def read(path: Path, sheet: np.ndarray) -> dict[str, Mesh]:
    """Vertices [V 3] in m and triangles [F 3] of the parts "white" and "grey" of an OBJ file."""
    vertices: list[list[float]] = []
    places: list[list[float]] = []
    parts: dict[str, list[list[int]]] = defaultdict(list)
    for line in path.read_text().splitlines():
        kind, *words = line.split() or [""]
        if kind == "v":
            vertices.append([float(word) for word in words[:3]])
        elif kind == "vt":
            places.append([float(word) for word in words[:2]])
        elif kind == "f":
            corners = [word.split("/") for word in words]
            uv = [places[int(c[1]) - 1] for c in corners if len(c) > 1 and c[1]]
            colour = "grey" if uv and shade(np.mean(uv, axis=0), sheet) < GREY_BELOW else "white"
            index = [int(c[0]) - 1 for c in corners]
            parts[colour] += [[index[0], *index[i : i + 2]] for i in range(1, len(index) - 1)]
    return {colour: welded(np.array(vertices), np.array(f)) for colour, f in parts.items()}


def shade(uv: np.ndarray, sheet: np.ndarray) -> int:
    """Grey level of the colour sheet at a texture coordinate."""
    height, width = sheet.shape
    row, column = int((1 - uv[1] % 1) * height), int(uv[0] % 1 * width)
    return int(sheet[min(row, height - 1), min(column, width - 1)])


def welded(vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    """The mesh with each place once, to a hundredth of a millimetre, and no empty triangles."""
    places, index = np.unique(np.round(vertices, 5), axis=0, return_inverse=True)
    faces = index.reshape(-1)[faces]
    apart = (faces != np.roll(faces, 1, axis=1)).all(1)
    used, index = np.unique(faces[apart], return_inverse=True)
    return places[used], index.reshape(-1, 3)


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="pybullet_data/franka_panda")
    meshes = parser.parse_args().folder / "meshes"
    sheet = np.asarray(Image.open(meshes / "visual/colors.png").convert("L"))
    arrays = {}
    for link, (file, *counts) in LINKS.items():
        parts = read(meshes / file, sheet)
        for colour, count in zip(("white", "grey"), counts, strict=True):
            if not count:
                continue
            vertices, faces = parts[colour]
            if len(faces) > count:
                vertices, faces = fast_simplification.simplify(
                    vertices.astype(np.float32), faces.astype(np.int32), target_count=count
                )
                vertices, faces = welded(vertices, faces)
            arrays[f"{link}_{colour}_vertices"] = vertices.astype(np.float32)
            arrays[f"{link}_{colour}_triangles"] = faces.astype(np.uint16)
            print(link, colour, len(parts[colour][1]), "->", len(faces))
    OUT.parent.mkdir(exist_ok=True)
    np.savez_compressed(OUT, **arrays)
    print(f"{OUT}: {OUT.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
