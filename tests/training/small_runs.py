"""What the configs of small training runs share."""

from __future__ import annotations

# one thread of the CPU, the numbers the same in every run, nothing sent anywhere
ALONE = ["device=cpu", "precision=fp32", "threads=1", "wandb.mode=disabled"]
