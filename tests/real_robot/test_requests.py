"""When the policy is asked, and what it sees then."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telic.real_robot.inference_scheduler import (
    Requests,
    WorkerConfig,
    observation_window,
    wait_for_observation_ns,
)
from telic.real_robot.ipc import Ipc, encode_text
from telic.real_robot.loop import Phase
from telic.real_robot.policy_worker import check_pace
from telic.real_robot.simulated_arm import arm_interface
from telic.spec import ActionChunk, ActRequest, Goal
from telic.tests.real_robot.reaching import Reaching

DT = 50_000_000  # the arm's policy acts at 20 Hz


def write(ipc: Ipc, t_ns: int, episode: int = 0) -> None:
    """Write a reading whose state tells its time in milliseconds."""
    state = np.full(6, t_ns / 1e6, np.float32)
    ipc.observations.write({"state": state, "t_obs_ns": t_ns, "episode": episode})


def seen(request: ActRequest | None) -> list[float]:
    assert request is not None
    return [float(state[0]) for state in request.observation.state]


def chunk(request: ActRequest) -> ActionChunk:
    """Return a chunk of eight actions that tell their number."""
    actions = np.repeat(np.arange(8, dtype=np.float32)[:, None], 6, 1)
    return ActionChunk(actions=actions, t_obs_ns=request.observation.t_obs_ns, dt_ns=DT)


def ask(ipc: Ipc, config: WorkerConfig, latency_ns: int = 0) -> Requests:
    """Return the requests of a policy whose chunks have eight actions."""
    goal = Goal(text="go")
    return Requests(Reaching(), goal, ipc.observations, ipc.status, config, latency_ns)


def tell(ipc: Ipc, t_ns: int, phase: Phase, delay: int, rest_ns: int = 0, **chunk: int) -> None:
    """Write what the loop says at a tick."""
    record = {"t_ns": t_ns, "phase": phase, "changes": 0, "delay": delay, "rest_ns": rest_ns}
    under_way = {"chunk_t_obs_ns": -1, "chunk_shift_ns": 0} | chunk
    ipc.status.write({**record, **under_way, "text": encode_text("")})


@given(
    times=st.lists(st.integers(1, 3 * DT), min_size=1, max_size=40),
    starts=st.sets(st.integers(0, 39)),
    obs_horizon=st.integers(1, 4),
)
def test_a_window_is_the_nearest_readings_of_one_episode(
    times: list[int], starts: set[int], obs_horizon: int
) -> None:
    ipc = Ipc.create(arm_interface(), 8, 64)
    t_ns, episode = 0, 0
    of_episode: list[int] = []
    for i, gap_ns in enumerate(times):
        t_ns += gap_ns
        if i in starts:
            episode, of_episode = episode + 1, []
        of_episode.append(t_ns)
        write(ipc, t_ns, episode)
    window = observation_window(ipc.observations, obs_horizon, DT)
    ipc.close()
    assert window is not None and window.episode == episode
    assert window.observation.t_obs_ns == t_ns
    assert window.observation.state.shape == (obs_horizon, 6)
    for back, state in enumerate(window.observation.state[::-1]):
        wanted_ns = t_ns - back * DT
        best_ns = min(abs(t - wanted_ns) for t in of_episode)
        assert (
            min(abs(t - wanted_ns) for t in of_episode if np.float32(t / 1e6) == state[0])
            == best_ns
        )


def test_the_policy_is_asked_once_its_share_of_the_chunk_is_carried_out() -> None:
    ipc = Ipc.create(arm_interface(), 8, 64)
    requests = ask(ipc, WorkerConfig(execute_horizon=2, seed=7))
    assert requests.next() is None
    write(ipc, 0)
    first = requests.next()
    assert first is not None and (first.seed, first.step, seen(first)) == (7, 0, [0.0, 0.0])
    assert requests.next() is None  # nothing new
    requests.answered(first, chunk(first), DT // 2)
    write(ipc, DT)
    assert requests.next() is None  # one step, two are asked for
    write(ipc, 2 * DT - DT // 10)  # a little early is in time
    second = requests.next()
    assert second is not None and second.step == 2
    assert seen(second) == [50.0, 95.0]
    assert first.prefix is None and second.prefix is not None
    assert second.prefix[:, 0].tolist() == [2, 3, 4, 5, 6, 7]
    requests.answered(second, chunk(second), 2 * DT)
    write(ipc, 2 * DT, episode=1)  # a new episode does not wait
    third = requests.next()
    assert third is not None and (third.episode, third.seed, third.step) == (1, 8, 0)
    assert third.prefix is None, "of another episode"
    assert seen(third) == [100.0, 100.0]
    ipc.close()


def test_a_request_says_what_is_left_and_how_much_of_it_the_loop_will_carry_out() -> None:
    ipc = Ipc.create(arm_interface(), 8, 64)
    requests = ask(ipc, WorkerConfig())
    write(ipc, 0)
    first = requests.next()
    assert first is not None and (first.prefix, first.inference_delay) == (None, 0)
    requests.answered(first, chunk(first), DT)
    tell(ipc, 2 * DT, Phase.ACTIVE, delay=3)
    write(ipc, 2 * DT)
    second = requests.next()
    assert second is not None and second.prefix is not None
    assert (len(second.prefix), second.inference_delay) == (6, 3)
    write(ipc, 6 * DT)
    third = requests.next()
    assert third is not None and third.prefix is not None
    assert (len(third.prefix), third.inference_delay) == (2, 2), "no more is left"
    write(ipc, 8 * DT)
    fourth = requests.next()
    assert fourth is not None and (fourth.prefix, fourth.inference_delay) == (None, 0)
    ipc.close()


@pytest.mark.parametrize("phase", [Phase.HOLD, Phase.IDLE])
def test_a_chunk_that_the_loop_does_not_follow_leaves_nothing(phase: Phase) -> None:
    ipc = Ipc.create(arm_interface(), 8, 64)
    requests = ask(ipc, WorkerConfig())
    write(ipc, 0)
    first = requests.next()
    assert first is not None
    requests.answered(first, chunk(first), DT)
    tell(ipc, DT - 1, phase, delay=1)  # it has not had the chunk yet
    write(ipc, 2 * DT)
    second = requests.next()
    assert second is not None and second.prefix is not None
    assert len(second.prefix) == 7, "it begins when it comes"
    tell(ipc, DT + 1, phase, delay=1)
    write(ipc, 3 * DT)
    third = requests.next()
    assert third is not None and (third.prefix, third.inference_delay) == (None, 0)
    ipc.close()


def test_what_is_left_of_a_chunk_that_began_from_rest_is_counted_from_there() -> None:
    ipc = Ipc.create(arm_interface(), 8, 64)
    requests = ask(ipc, WorkerConfig(execute_horizon=2), latency_ns=DT + 1)
    write(ipc, 0)
    first = requests.next()
    assert first is not None
    requests.answered(first, chunk(first), 6 * DT)  # a slow first call
    shift = {"chunk_t_obs_ns": 0, "chunk_shift_ns": 7 * DT}
    tell(ipc, 7 * DT, Phase.ACTIVE, delay=-1, **shift)
    write(ipc, 8 * DT)
    assert requests.next() is None, "two steps are to be carried out before the next"
    write(ipc, 9 * DT)
    second = requests.next()
    assert second is not None and second.prefix is not None
    assert second.prefix[:, 0].tolist() == [2, 3, 4, 5, 6, 7]
    assert second.inference_delay == 2, "as long as the loop knows of none, that of the warm-up"
    requests.answered(second, chunk(second), 10 * DT)
    tell(ipc, 10 * DT, Phase.HOLD, delay=-1, rest_ns=10 * DT)  # the chunk is on its way
    write(ipc, 11 * DT)
    third = requests.next()
    assert third is not None and third.prefix is not None
    assert third.prefix[:, 0].tolist() == [2, 3, 4, 5, 6, 7], "it goes on from where the hold began"
    ipc.close()


@given(
    horizon=st.integers(2, 50),
    execute=st.integers(1, 50),
    delay_ns=st.integers(0, 60 * DT),
)
def test_a_chunk_lasts_until_the_next_one_where_that_is_possible(
    horizon: int, execute: int, delay_ns: int
) -> None:
    wait_ns = wait_for_observation_ns(horizon, execute, DT, delay_ns)
    assert 0 <= wait_ns <= execute * DT
    if wait_ns > 0:  # asked for at the next step, it is there before the last step is over
        asked_ns = -(-wait_ns // DT) * DT
        assert asked_ns + delay_ns <= (horizon - 1) * DT


def test_a_slow_policy_is_warned_about_and_a_hopeless_one_refused() -> None:
    policy = Reaching()  # 8 actions of 50 ms
    assert check_pace(policy, 170_000_000) is None
    warning = check_pace(policy, 180_000_000)
    assert warning is not None and "the robot will hold between chunks" in warning
    with pytest.raises(ValueError, match="every one would come too late"):
        check_pace(policy, 350_000_000)
