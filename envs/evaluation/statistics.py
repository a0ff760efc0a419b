"""How sure a count of successes makes us: intervals and tests as pure functions.

One policy: Wilson's score interval, and for the mean of a score the bootstrap's. Two policies on
the same episodes: the difference of their success rates with Tango's score interval, and McNemar's
exact test. Both score intervals stay inside their range and keep their level at rates near 0 and 1,
where a good policy lives and where the textbook (Wald) intervals have zero width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

LEVEL = 0.95


class Interval(NamedTuple):
    """A confidence interval, both ends included."""

    low: float
    high: float


def wilson_interval(successes: int, trials: int, level: float = LEVEL) -> Interval:
    """Return the score interval of a success rate (Wilson 1927); (0, 1) without a trial."""
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials")
    if trials == 0:
        return Interval(0.0, 1.0)
    z = _z(level)
    rate = successes / trials
    centre = rate + z**2 / (2 * trials)
    margin = z * math.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    low = 0.0 if successes == 0 else (centre - margin) / scale
    high = 1.0 if successes == trials else (centre + margin) / scale
    return Interval(low, high)


def bootstrap_interval(
    values: Sequence[float], level: float = LEVEL, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Return the percentile bootstrap's interval of the mean (Efron 1979); seeded, so repeatable.

    The middle `level` of the means of `resamples` samples drawn from `values` with replacement.
    ValueError without a value.
    """
    if not values:
        raise ValueError("the mean of no values has no interval")
    tail = (1 - level) / 2
    different, counts = np.unique(np.asarray(values, np.float64), return_counts=True)
    share = counts / counts.sum()
    drawn = np.random.default_rng(seed).multinomial(len(values), share, size=resamples)
    low, high = np.quantile(drawn @ different / len(values), [tail, 1 - tail])
    return Interval(float(low), float(high))


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Return the two-sided exact p of "both succeed equally often" (McNemar 1947).

    Given that the two differ in n episodes, either is the better one with probability 1/2:
    `only_first` ~ Binomial(n, 1/2). 1.0 where they never differ.
    """
    differing = only_first + only_second
    return float(binomtest(only_first, differing, 0.5).pvalue) if differing else 1.0


def tango_interval(only_first: int, only_second: int, pairs: int, level: float = LEVEL) -> Interval:
    """Return the score interval of rate(first) - rate(second) over paired episodes.

    Tango, Statistics in Medicine 17 (1998) 891-908, equation 12: all differences d with
    |only_first - only_second - n d| <= z sqrt(n (2 q(d) + d (1 - d))), where q(d) is the maximum
    likelihood estimate of P(only the second succeeds) given d. (-1, 1) without a pair.
    """
    if min(only_first, only_second) < 0 or only_first + only_second > pairs:
        raise ValueError(f"{only_first} + {only_second} differing pairs of {pairs}")
    if pairs == 0:
        return Interval(-1.0, 1.0)
    z = _z(level)

    def score(d: float) -> float:
        """Return the standardised distance of the observed difference from `d`, falling in d."""
        distance = only_first - only_second - pairs * d
        variance = pairs * (2 * _only_second_given(d, only_first, only_second, pairs) + d * (1 - d))
        return distance / math.sqrt(max(variance, 1e-18))

    observed = (only_first - only_second) / pairs
    at_bottom, at_top = only_second == pairs, only_first == pairs
    low = -1.0 if at_bottom else brentq(lambda d: score(d) - z, -1.0, observed)
    high = 1.0 if at_top else brentq(lambda d: score(d) + z, observed, 1.0)
    return Interval(low, high)


def _only_second_given(d: float, only_first: int, only_second: int, pairs: int) -> float:
    """Return the maximum likelihood estimate of P(only the second succeeds) at difference `d`."""
    a = 2 * pairs
    b = -only_first - only_second + (2 * pairs - only_first + only_second) * d
    c = -only_second * d * (1 - d)
    return max((math.sqrt(max(b**2 - 4 * a * c, 0.0)) - b) / (2 * a), 0.0, -d)


def _z(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"a confidence level lies between 0 and 1, got {level}")
    return float(norm.ppf(0.5 + level / 2))


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedDifference:
    """rate(first) - rate(second) on the same episodes, Tango's 95 % interval, McNemar's p."""

    pairs: int
    only_first: int
    only_second: int
    difference: float
    interval: Interval
    p: float


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> PairedDifference:
    """Return how two policies differ that met the same episodes; entry i of both is episode i."""
    outcomes = list(zip(first, second, strict=True))
    only_first = sum(a and not b for a, b in outcomes)
    only_second = sum(b and not a for a, b in outcomes)
    return PairedDifference(
        pairs=len(outcomes),
        only_first=only_first,
        only_second=only_second,
        difference=(only_first - only_second) / len(outcomes) if outcomes else 0.0,
        interval=tango_interval(only_first, only_second, len(outcomes)),
        p=mcnemar_p(only_first, only_second),
    )
