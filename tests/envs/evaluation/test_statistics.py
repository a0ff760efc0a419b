"""Intervals and tests: published numbers, scipy's, symmetry, and the coverage they promise."""

import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest, bootstrap, multinomial

from telic.envs.evaluation.statistics import (
    Interval,
    bootstrap_interval,
    mcnemar_p,
    paired_difference,
    tango_interval,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "trials", "published"),
    [  # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_gives_the_published_intervals(
    successes: int, trials: int, published: tuple[float, float]
) -> None:
    assert wilson_interval(successes, trials) == pytest.approx(published, abs=5e-5)


def test_wilson_is_scipys_and_keeps_to_the_range() -> None:
    for trials in (1, 10, 100):
        for successes in range(trials + 1):
            ours = wilson_interval(successes, trials, 0.9)
            theirs = binomtest(successes, trials).proportion_ci(0.9, method="wilson")
            assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert wilson_interval(0, 0) == Interval(0.0, 1.0)


def test_wilson_covers_the_rate_as_often_as_it_says() -> None:
    trials = 100
    intervals = np.array([wilson_interval(k, trials) for k in range(trials + 1)])
    rates = np.linspace(0.02, 0.98, 97)
    covered = [
        binom.pmf(np.arange(trials + 1), trials, rate)
        @ ((intervals[:, 0] <= rate) & (rate <= intervals[:, 1]))
        for rate in rates
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.005)
    assert min(covered) > 0.90


@pytest.mark.parametrize(
    ("only_first", "only_second", "pairs", "published", "p"),
    [  # Fagerland, Lydersen, Laake, Statistical Analysis of Contingency Tables (2017), chapter 8:
        (6, 16, 161, (-0.1240, -0.0054), 0.052479),  # consolidation therapy (Cavo et al. 2012)
        (1, 7, 21, (-0.5172, -0.0260), 0.0703125),  # airways before and after (Bentur et al. 2009)
    ],
)
def test_paired_numbers_are_the_published_ones(
    only_first: int, only_second: int, pairs: int, published: tuple[float, float], p: float
) -> None:
    assert tango_interval(only_first, only_second, pairs) == pytest.approx(published, abs=5e-5)
    assert mcnemar_p(only_first, only_second) == pytest.approx(p, abs=5e-7)


def test_mcnemar_is_exact() -> None:
    assert mcnemar_p(0, 0) == 1.0
    assert mcnemar_p(5, 5) == 1.0
    assert mcnemar_p(6, 0) == pytest.approx(2 / 2**6)
    assert mcnemar_p(0, 6) == mcnemar_p(6, 0)


def test_tango_holds_the_difference_keeps_to_the_range_and_is_antisymmetric() -> None:
    for pairs in (1, 2, 7, 20):
        for only_first in range(pairs + 1):
            for only_second in range(pairs + 1 - only_first):
                low, high = tango_interval(only_first, only_second, pairs)
                assert -1 <= low <= (only_first - only_second) / pairs <= high <= 1
                mirror = tango_interval(only_second, only_first, pairs)
                assert mirror == pytest.approx((-high, -low), abs=1e-9)
    assert tango_interval(0, 0, 0) == Interval(-1.0, 1.0)
    limit = 1.959964**2 / (100 + 1.959964**2)  # no pair differs: the equation solved by hand
    assert tango_interval(0, 0, 100) == pytest.approx((-limit, limit), abs=1e-6)


def test_tango_covers_the_difference_as_often_as_it_says() -> None:
    pairs = 40
    counts = [(b, c) for b in range(pairs + 1) for c in range(pairs + 1 - b)]
    intervals = np.array([tango_interval(b, c, pairs) for b, c in counts])
    outcomes = np.array([(b, c, pairs - b - c) for b, c in counts])
    covered = []
    for only_first in (0.02, 0.05, 0.1, 0.2, 0.4):
        for only_second in (0.0, 0.02, 0.05, 0.1, 0.3):
            chances = [only_first, only_second, 1 - only_first - only_second]
            difference = only_first - only_second
            inside = (intervals[:, 0] <= difference) & (difference <= intervals[:, 1])
            covered.append(multinomial.pmf(outcomes, pairs, chances) @ inside)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)
    assert min(covered) > 0.91


def test_paired_difference_pairs_by_position() -> None:
    first = [True] * 8 + [False] * 2
    second = [True] * 5 + [False] * 4 + [True]
    result = paired_difference(first, second)
    assert (result.pairs, result.only_first, result.only_second) == (10, 3, 1)
    assert math.isclose(result.difference, 0.2)
    assert result.interval == tango_interval(3, 1, 10)
    assert result.p == mcnemar_p(3, 1) == 0.625
    assert paired_difference([], []).difference == 0.0


@pytest.mark.parametrize("counts", [(3, 2), (-1, 5)])
def test_impossible_counts_are_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="successes of"):
        wilson_interval(*counts)
    with pytest.raises(ValueError, match="differing pairs"):
        tango_interval(*counts, pairs=4)


def test_bootstrap_is_scipys_and_repeatable() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 6, 200).astype(float).tolist()
    ours = bootstrap_interval(values)
    assert ours == bootstrap_interval(values)
    theirs = bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.02)
    assert bootstrap_interval([2.0] * 9) == Interval(2.0, 2.0)
    with pytest.raises(ValueError, match="the mean of no values has no interval"):
        bootstrap_interval([])


def test_bootstrap_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    shares = np.array([0.2, 0.1, 0.1, 0.1, 0.1, 0.4])  # of chains with 0 to 5 tasks in a row
    mean = shares @ np.arange(6)
    covered = 0
    for index in range(400):
        values = rng.choice(6, 100, p=shares).astype(float).tolist()
        low, high = bootstrap_interval(values, resamples=1000, seed=index)
        covered += low <= mean <= high
    assert 0.92 < covered / 400 < 0.98
