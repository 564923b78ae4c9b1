import pytest

from llamad.config.model import ServerConfig


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [(None, [None, None]), ("all", ["all", "all"]), ([0, 1], [(0, 1), (0, 1)]), ([[0], [1]], [(0,), (1,)])],
)
def test_the_gpus_of_each_replica(gpus: object, expected: list[object]) -> None:
    server = ServerConfig.model_validate({"name": "a", "gpus": gpus, "replicas": 2})
    assert [server.gpus_of(index) for index in range(2)] == expected


@pytest.mark.parametrize(
    ("start", "evictable", "expected"),
    [("always", None, False), ("on-demand", None, True), ("on-demand", False, False), ("always", True, True)],
)
def test_who_may_make_way(start: str, evictable: object, expected: object) -> None:
    server = ServerConfig.model_validate({"name": "a", "start": start, "evictable": evictable})
    assert server.may_make_way is expected


def test_only_a_server_with_a_url_is_external() -> None:
    assert [ServerConfig(name="a", url="http://x:1").external, ServerConfig(name="a").external] == [True, False]
