"""Three command lines of each command, which `--help` and the reference pages begin with."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "collect": (
        ("collect-demos tasks=[mt10] out=runs/demo/demos.zarr", "25 episodes of ten tasks"),
        (
            "collect-demos env=playtable mode=play scenes=[A,B,C] annotated=0.3 out=runs/play.zarr",
            "play on a table: three tasks of ten get a sentence",
        ),
        (
            "collect-demos tasks=[my_tasks:lab/line] out=runs/line.zarr",
            "a task of your own, with pictures",
        ),
    ),
    "train": (
        (
            "train-policy data.stores=[runs/demo/demos.zarr] steps=4000 out=runs/first",
            "a small MoDE on states and sentences",
        ),
        (
            "train-policy policy=mdt policy/formulation=flow data.stores=[runs/demo/demos.zarr]",
            "another kind of policy, another diffusion",
        ),
        (
            "train-policy data.stores=[runs/demo/demos.zarr] out=runs/first resume=true",
            "go on with a run that was stopped",
        ),
    ),
    "evaluate": (
        (
            "evaluate-policy checkpoint=runs/first/checkpoints/best tasks=[mt10] videos=1",
            "success of each task with intervals, and films",
        ),
        (
            "evaluate-policy checkpoint=runs/first/checkpoints/best sampling.sampler=heun "
            "sampling.steps=3 out=runs/eval_heun",
            "the same policy by another sampler in three denoising steps",
        ),
        ("evaluate-policy checkpoint=expert out=runs/expert", "the scripted experts"),
    ),
    "control": (
        (
            "control-daemon checkpoint=runs/first/checkpoints/best robot=metaworld "
            "task=drawer-open-v3",
            "a simulated robot for ten seconds",
        ),
        (
            "control-daemon checkpoint=runs/first/checkpoints/best robot=my_robot:ArmConfig "
            "'robot_options={ip: 10.0.0.2}' duration_s=null",
            "a robot of your own, until Ctrl-C",
        ),
        (
            "control-daemon checkpoint=runs/first/checkpoints/best robot=arm "
            "sampling.sampler=heun sampling.steps=3 loop.priority=50",
            "another sampler, three denoising steps, a real-time priority",
        ),
    ),
    "recipe": (
        ("run-recipe experiment=metaworld_mt10 out=runs/demo", "what `make demo` runs"),
        (
            "run-recipe experiment=playtable_state train.policy=mode "
            "collect.play.episodes_per_task=300",
            "a recipe with one of its commands changed",
        ),
        ("run-recipe experiment=debug", "two steps of everything, in seconds"),
    ),
    "build_anchors": (
        (
            "build-anchors stores=[runs/demo/demos.zarr] count=32 out=runs/anchors.safetensors",
            "32 anchors for policy.anchors.file",
        ),
        (
            "build-anchors stores=[runs/demo/demos.zarr] action_horizon=16",
            "for chunks of 16 actions",
        ),
        (
            "build-anchors stores=[runs/demo/demos.zarr,runs/arm7.zarr] space=unified",
            "for a policy of several robots",
        ),
    ),
    "train_baseline": (
        (
            "train-baseline store=runs/demo/demos.zarr out=runs/bc_rnn_gmm",
            "robomimic's BC-RNN-GMM as published",
        ),
        (
            "train-baseline store=runs/demo/demos.zarr policy.algorithm=bc steps=12000 "
            "policy.learning_rate=1e-3 out=runs/bc",
            "its BC",
        ),
        (
            "train-baseline store=runs/demo/demos.zarr "
            "'+policy.settings={algo.rnn.hidden_dim: 1000}'",
            "any other setting of robomimic's",
        ),
    ),
}
