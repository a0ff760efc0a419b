"""How well a sentence identifies PlayTable's task: a small network on MiniLM's vector.

    python benchmarks/sentences.py                # trained on 16 sentences a task, and on all
    python benchmarks/sentences.py --development  # the set by which sentences are chosen
    python benchmarks/sentences.py --words        # from the vectors of the words as well

One hidden layer of 256 names one of 34 tasks; `--words` adds a transformer layer of 128 over the
word vectors with one learned query. Accuracy on the bank of paraphrases by axis and difficulty, and
on the three sentences a task that chains are evaluated with; mean over the seeds. Prints Markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date

import numpy as np
import torch
from torch import Tensor, nn

from telic.envs.playtable.instructions import GENERATED, Phrases, sentences
from telic.envs.playtable.paraphrases import (
    AXES,
    BANK,
    DEVELOPMENT,
    DIFFICULTIES,
    Paraphrase,
    paraphrases,
)
from telic.envs.playtable.rules import TASK_RULES
from telic.policy.encoders.language import LanguageConfig, WordEncoder
from telic.policy.inference.machine import machine
from telic.spec import Array

TASKS = list(TASK_RULES)
STEPS = {False: 1500, True: 700}  # optimizer steps, of vectors and of words
BATCH = {False: 256, True: 128}
RATE = {False: 2e-3, True: 1e-3}
CPU = torch.device("cpu")

Inputs = Callable[[Sequence[str]], tuple[Tensor, ...]]


class OfVector(nn.Module):
    """The task by the vector of a sentence."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, 256), nn.GELU(), nn.Dropout(0.3), nn.Linear(256, len(TASKS))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [B 34] of vectors [B D]."""
        logits: Tensor = self.layers(x)
        return logits


class OfWords(nn.Module):
    """The task by the vectors of the words: one transformer layer, read at a learned query."""

    def __init__(self, dim: int, width: int = 128) -> None:
        super().__init__()
        self.words_in = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width), nn.Dropout(0.2))
        self.query = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.mix = nn.TransformerEncoderLayer(
            width, 4, 2 * width, 0.2, "gelu", batch_first=True, norm_first=True
        )
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(TASKS)))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the logits [B 34] of words [B L D], of which mask [B L] are there."""
        x = torch.cat([self.query.expand(len(x), -1, -1), self.words_in(x)], 1)
        hidden = nn.functional.pad(~mask, (1, 0))
        logits: Tensor = self.out(self.mix(x, src_key_padding_mask=hidden)[:, 0])
        return logits


def main() -> None:
    """Train on both sets of sentences with each seed, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--development", action="store_true", help="not the bank")
    parser.add_argument("--words", action="store_true", help="from word vectors as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    everything = sentences()
    written = {task: texts[:-GENERATED] for task, texts in everything.items()}
    rows = []
    for words in [False, True] if options.words else [False]:
        inputs = input_of(words)
        for texts in (written, everything):
            means = np.mean(
                [
                    accuracies(texts, inputs, words, seed, options.development)
                    for seed in range(options.seeds)
                ],
                axis=0,
            )
            name = f"{len(texts[TASKS[0]])} a task, {'words' if words else 'one vector'}"
            rows.append([name, *(f"{mean:.3f}" for mean in means)])
    columns = ["trained on", "all", *AXES, *DIFFICULTIES, "of the chains"]
    for row in [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]:
        print(f"| {' | '.join(row)} |")
    took = time.perf_counter() - began
    used = time.process_time()
    here = ", ".join(f"{name} {value}" for name, value in machine().items())
    print(
        f"\n{date.today()}, {here}; {options.seeds} seeds, {took:.0f} s, {used:.0f} s of processor"
    )


def accuracies(
    texts: Mapping[str, Sequence[str]], inputs: Inputs, words: bool, seed: int, development: bool
) -> list[float]:
    """Return the share named right, of the columns of the table, after training on `texts`."""
    network = trained(texts, inputs, words, seed)
    paraphrased = [
        (number, each)
        for number, task in enumerate(TASKS)
        for each in paraphrases(DEVELOPMENT if development else BANK)[task]
    ]
    right = named_right(network, inputs, [(number, each.text) for number, each in paraphrased])

    def share(wanted: Callable[[Paraphrase], bool]) -> float:
        return float(
            np.mean([ok for ok, (_, each) in zip(right, paraphrased, strict=True) if wanted(each)])
        )

    of_chains = sentences(Phrases.held_out)
    pairs = [(number, text) for number, task in enumerate(TASKS) for text in of_chains[task]]
    return [
        float(right.mean()),
        *(share(lambda each, axis=axis: each.axis == axis) for axis in AXES),
        *(share(lambda each, level=level: each.difficulty == level) for level in DIFFICULTIES),
        float(named_right(network, inputs, pairs).mean()),
    ]


def trained(
    texts: Mapping[str, Sequence[str]], inputs: Inputs, words: bool, seed: int
) -> nn.Module:
    """Return a network trained to name the task of each of the sentences."""
    torch.manual_seed(seed)
    x = inputs([text for task in TASKS for text in texts[task]])
    task = torch.tensor([number for number, name in enumerate(TASKS) for _ in texts[name]])
    dim = x[0].shape[-1]
    network = OfWords(dim) if words else OfVector(dim)
    optimizer = torch.optim.AdamW(network.parameters(), RATE[words], weight_decay=0.02)
    steps = STEPS[words]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 50) * (1 - step / steps)
    )
    for _ in range(steps):
        rows = torch.randint(len(task), (BATCH[words],))
        loss = nn.functional.cross_entropy(
            network(*(part[rows] for part in x)), task[rows], label_smoothing=0.05
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.inference_mode()
def named_right(network: nn.Module, inputs: Inputs, pairs: Sequence[tuple[int, str]]) -> Array:
    """Return whether the network names the task of each (task, sentence), bool [n]."""
    named = network(*inputs([text for _, text in pairs])).argmax(-1).numpy()
    return np.asarray([number for number, _ in pairs]) == named


def input_of(words: bool) -> Inputs:
    """Return what gives a network its inputs: vectors [B D], or words [B L D] and their mask."""
    encoder = LanguageConfig(words=words).build()
    if isinstance(encoder, WordEncoder):
        return lambda texts: encoder.words(texts, CPU)
    return lambda texts: (encoder(texts, CPU),)


if __name__ == "__main__":
    main()
