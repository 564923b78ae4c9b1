"""The table of moves."""

import pytest

from llamad.servers.state import MEANING, MOVES, IllegalMoveError, State, diagram, move, together


@pytest.mark.parametrize("old", State)
@pytest.mark.parametrize("new", State)
def test_exactly_the_moves_of_the_table_are_made(old: State, new: State) -> None:
    if new in MOVES[old]:
        assert move(old, new) is new
    else:
        with pytest.raises(IllegalMoveError, match=f"{old} -> {new}"):
            move(old, new)


def test_no_state_follows_itself_and_every_state_can_be_left_and_reached() -> None:
    assert all(moves and state not in moves for state, moves in MOVES.items())
    assert frozenset[State]().union(*MOVES.values()) == frozenset(State)


def test_from_every_state_there_is_a_way_to_stopped() -> None:
    reaching = {State.STOPPED}
    for _ in State:
        reaching |= {state for state, moves in MOVES.items() if moves & reaching}
    assert reaching == set(State)


def test_every_state_has_a_meaning() -> None:
    assert set(MEANING) == set(State)


def test_alive_is_where_a_process_may_be() -> None:
    assert {state for state in State if not state.alive} == {State.STOPPED, State.BACKOFF, State.FAILED}


def test_the_diagram_has_a_line_for_each_state() -> None:
    lines = diagram().splitlines()
    assert lines[0] == "stopped      -> starting, loading, ready, backoff, failed"
    assert [line.split()[0] for line in lines] == list(State)


@pytest.mark.parametrize(
    ("states", "all_of_them"),
    [
        ("", "stopped"),
        ("stopped stopped", "stopped"),
        ("failed ready", "ready"),
        ("draining loading", "loading"),
        ("failed backoff", "backoff"),
        ("stopped failed", "failed"),
        ("stopping stopped", "stopping"),
        ("unresponsive backoff", "unresponsive"),
        ("starting backoff", "starting"),
        ("unresponsive loading", "loading"),
    ],
)
def test_a_servers_state_is_the_one_nearest_to_taking_requests(states: str, all_of_them: str) -> None:
    assert together(State(state) for state in states.split()) == all_of_them


@pytest.mark.parametrize("state", State)
def test_a_server_with_one_replica_has_its_state(state: State) -> None:
    assert together([state]) is state
