"""Telic: multimodal-goal transformer diffusion policies, from demonstrations to the robot."""
