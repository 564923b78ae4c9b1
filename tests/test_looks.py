"""Causes that a whole llamad finds by a look, where a llama-server does not name them."""

import socket

import pytest

from tests.llamads import a_llamad

pytestmark = pytest.mark.daemon


def test_an_end_without_a_word_is_explained_by_what_can_be_seen() -> None:
    """llama.cpp's logger is a thread of its own: when it ends, its last lines can be missing."""
    with a_llamad() as one, socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        one.configure({"a": {"port": port, "env": {"FAKE_DIE": "start"}, "restart": {"max_retries": 0}}})
        one.start()
        assert one.wait_for("a", "failed")["cause"] == "port-taken"


def test_a_program_without_gpus_is_not_started_where_they_were_asked_for() -> None:
    with a_llamad() as one:
        one.configure({"a": {"gpus": "all", "env": {"FAKE_NO_GPU": "1"}, "restart": {"max_retries": 0}}})
        one.start()
        failed = one.wait_for("a", "failed")
        assert (failed["cause"], failed["last_exit"]) == ("gpu-missing", None)
