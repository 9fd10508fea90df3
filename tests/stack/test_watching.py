"""When the watchdog acts, and when it leaves a process alone."""

from __future__ import annotations

from pipeline.watching import Seen, Watched, Watchman

HANGS = Seen("RUNNING", 10, 100.0, "no answer within 3 s")
WELL = Seen("RUNNING", 10, 100.0, None)
BROKER_WELL = Seen("RUNNING", 1, 100.0, None)
BROKER_SICK = Seen("RUNNING", 1, 100.0, "no answer within 3 s")


def watchman() -> Watchman:
    return Watchman((Watched("kafka"), Watched("drift", ("kafka",), start_s=60)), hang_after_s=12)


def acts(man: Watchman, *looks: tuple[float, Seen, Seen]) -> list[tuple[float, str, str]]:
    return [(at, e.name, e.do) for at, broker, drift in looks for e in man.look(at, {"kafka": broker, "drift": drift})]


def test_a_process_that_is_unhealthy_without_a_break_is_killed_after_the_bound():
    #  0....|....12    x = no answer
    #  .x...x....x     bad from 1 on: killed at 13, not before
    done = acts(watchman(), (0, BROKER_WELL, WELL), *((t, BROKER_WELL, HANGS) for t in (1, 5, 12, 13)))
    assert done == [(13, "drift", "kill")]


def test_one_healthy_answer_in_between_begins_the_count_anew():
    looks = [(0, HANGS), (10, HANGS), (11, WELL), (13, HANGS), (20, HANGS)]
    assert acts(watchman(), *((t, BROKER_WELL, s) for t, s in looks)) == []


def test_a_process_that_still_starts_is_left_alone():
    young = [Seen("RUNNING", 10, float(t), "Connection refused") for t in range(0, 58, 5)]
    assert acts(watchman(), *((s.since_s, BROKER_WELL, s) for s in young)) == []


def test_a_process_that_never_became_healthy_is_killed_once_its_time_to_start_is_over():
    late = [Seen("RUNNING", 10, float(t), "Connection refused") for t in (0, 20, 40, 61)]
    assert acts(watchman(), *((s.since_s, BROKER_WELL, s) for s in late)) == [(61, "drift", "kill")]


def test_while_the_broker_hangs_only_the_broker_is_killed():
    done = acts(watchman(), (0, BROKER_WELL, WELL), *((t, BROKER_SICK, HANGS) for t in (1, 14, 30)))
    assert {name for _, name, _ in done} == {"kafka"}


def test_the_readers_of_a_broker_that_came_back_get_their_full_time_again():
    done = acts(
        watchman(),
        (0, BROKER_WELL, WELL),
        (1, BROKER_SICK, HANGS),
        (11, BROKER_SICK, HANGS),
        (12, BROKER_WELL, HANGS),
        (20, BROKER_WELL, HANGS),
    )
    assert done == []


def test_a_process_that_supervisor_gave_up_is_started_again():
    given_up = Seen("FATAL", 0, 0.0, "Exited too quickly")
    assert acts(watchman(), (0, BROKER_WELL, given_up)) == [(0, "drift", "start")]


def test_a_crash_is_counted_and_left_to_supervisor():
    man = watchman()
    acts(man, (0, BROKER_WELL, WELL))
    [event] = man.look(2, {"kafka": BROKER_WELL, "drift": Seen("RUNNING", 11, 1.0, None)})
    assert (event.reason, event.do) == ("crashed", "nothing")


def test_our_own_kill_is_not_counted_as_a_crash_as_well():
    man = watchman()
    acts(man, (0, BROKER_WELL, WELL), (1, BROKER_WELL, HANGS), (14, BROKER_WELL, HANGS))
    assert man.look(16, {"kafka": BROKER_WELL, "drift": Seen("RUNNING", 11, 1.0, None)}) == []


def test_a_stopped_process_stays_stopped():
    stopped = Seen("STOPPED", 0, 0.0, "Not started")
    assert acts(watchman(), *((t, BROKER_WELL, stopped) for t in (0, 50, 100))) == []
