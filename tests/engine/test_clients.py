"""The openai and anthropic clients from PyPI, as a person uses them, against the gateway over a real model."""

import json
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.engine.conftest import Llamad, running

pytestmark = pytest.mark.engine

QUESTION = "What is the capital of France? Answer in one sentence."
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "London", "Rome"]}},
    "required": ["city"],
}
TEMPLATE = Path(__file__).with_name("tools.jinja")
"""The model's own template knows no tools."""
EARLIER = ("London", "Rome")
"""So small a model calls a tool when it has seen two calls."""
GREEDY = {"temperature": 0}


@pytest.fixture(scope="module")
def llamad(engine: Path, model: Path) -> Iterator[Llamad]:
    servers: dict[str, dict[str, Any]] = {
        "chat": {
            "model": str(model),
            "aliases": ["default"],
            "args": {"ctx_size": 8192, "chat_template_file": str(TEMPLATE)},
        },
        "embed": {"model": str(model), "args": {"embeddings": True, "pooling": "mean"}},
        "broken": {"model": "/nowhere/m.gguf"},
    }
    with running(engine, servers) as one:
        for name in ("chat", "embed"):
            one.until(name, lambda replica: bool(replica["state"] == "ready"))
        yield one


@pytest.fixture
def gpt(llamad: Llamad) -> Iterator[openai.OpenAI]:
    url = f"http://127.0.0.1:{llamad.port}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
def claude(llamad: Llamad) -> Iterator[anthropic.Anthropic]:
    url = f"http://127.0.0.1:{llamad.port}"
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=120) as client:
        yield client


def test_openai_chat(gpt: openai.OpenAI) -> None:
    answer = gpt.chat.completions.create(
        model="chat", messages=[{"role": "user", "content": QUESTION}], max_tokens=48, temperature=0
    )
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


def test_openai_stream(gpt: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"max_tokens": 48, "temperature": 0, "messages": [{"role": "user", "content": QUESTION}]}
    with gpt.chat.completions.create(
        model="default", stream=True, stream_options={"include_usage": True}, **asked
    ) as stream:
        chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert len([piece for piece in pieces if piece]) > 3
    assert "Paris" in "".join(pieces)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


def test_openai_a_stream_that_is_left_frees_its_slot(gpt: openai.OpenAI, llamad: Llamad) -> None:
    with gpt.chat.completions.create(
        model="chat", messages=[{"role": "user", "content": "Count to 1000."}], max_tokens=4000, stream=True
    ) as stream:
        next(iter(stream))
    llamad.until("chat", lambda replica: replica["in_flight"] == 0)


def drained(stream: Iterable[object], llamad: Llamad) -> int:
    """Read a stream to its end, with a SIGKILL of the server behind it after the third event; how many events came."""
    number = 0
    for number, _ in enumerate(stream, 1):
        if number == 3:
            os.kill(llamad.replica("chat")["pid"], signal.SIGKILL)
    return number


def test_openai_a_stream_whose_server_dies_raises(gpt: openai.OpenAI, llamad: Llamad) -> None:
    asked: Any = [{"role": "user", "content": QUESTION}]
    stream = gpt.chat.completions.create(model="chat", messages=asked, stream=True, max_tokens=2000)
    with pytest.raises(openai.APIError, match="the server closed the connection in the middle of its answer"):
        drained(stream, llamad)
    again = gpt.chat.completions.create(model="chat", messages=asked, max_tokens=4)
    assert again.choices[0].message.content


def test_openai_completion_and_responses(gpt: openai.OpenAI) -> None:
    plain = gpt.completions.create(model="chat", prompt="The capital of France is", max_tokens=4, temperature=0)
    assert "Paris" in plain.choices[0].text
    response = gpt.responses.create(model="chat", input=QUESTION, max_output_tokens=48, temperature=0)
    assert "Paris" in response.output_text


def test_openai_tools(gpt: openai.OpenAI) -> None:
    messages: list[Any] = []
    for city in EARLIER:
        function = {"name": "weather", "arguments": json.dumps({"city": city})}
        messages += [
            {"role": "user", "content": f"What is the weather in {city}?"},
            {"role": "assistant", "tool_calls": [{"id": city, "type": "function", "function": function}]},
            {"role": "tool", "tool_call_id": city, "content": "sunny"},
            {"role": "assistant", "content": "It is sunny."},
        ]
    answer = gpt.chat.completions.create(
        model="chat",
        messages=[*messages, {"role": "user", "content": "What is the weather in Paris?"}],
        tools=[{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}],
        tool_choice="required",
        max_tokens=128,
        temperature=0,
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    assert answer.choices[0].finish_reason == "tool_calls"


def test_openai_embeddings(gpt: openai.OpenAI) -> None:
    texts = ["a cat", "a kitten", "the stock market"]
    answer = gpt.embeddings.create(model="embed", input=texts)
    assert [one.index for one in answer.data] == [0, 1, 2]
    cat, kitten, market = (one.embedding for one in answer.data)
    assert len(cat) == 576  # SmolLM2-135M's width

    def near(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert near(cat, kitten) > near(cat, market)


def test_openai_lists_what_there_is(gpt: openai.OpenAI) -> None:
    names = {one.id for one in gpt.models.list()}
    assert {"chat", "default", "embed"} <= names
    assert gpt.models.retrieve("chat").id == "chat"


def test_openai_an_unknown_model_is_not_found(gpt: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        gpt.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "Hi"}])
    assert "gpt-9" in caught.value.message
    assert "chat" in caught.value.message


def test_openai_a_server_that_failed_says_why(gpt: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        gpt.chat.completions.create(model="broken", messages=[{"role": "user", "content": "Hi"}])
    assert caught.value.status_code == 503
    assert "/nowhere/m.gguf" in caught.value.message


def test_openai_a_bad_request_is_the_servers_own_refusal(gpt: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        gpt.chat.completions.create(model="chat", messages=[{"role": "user", "content": "Hi"}], max_tokens="x")  # type: ignore[call-overload]


def test_anthropic_message(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(
        model="chat", max_tokens=48, extra_body=GREEDY, messages=[{"role": "user", "content": QUESTION}]
    )
    (block,) = [one for one in answer.content if one.type == "text"]
    assert "Paris" in block.text
    assert answer.usage.output_tokens > 0


def test_anthropic_stream(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(
        model="chat", max_tokens=48, extra_body=GREEDY, messages=[{"role": "user", "content": QUESTION}]
    ) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) > 3
    assert "Paris" in "".join(pieces)
    assert final.stop_reason in {"end_turn", "max_tokens"}


def test_anthropic_a_stream_whose_server_dies_raises(claude: anthropic.Anthropic, llamad: Llamad) -> None:
    asked: Any = [{"role": "user", "content": QUESTION}]
    stream = claude.messages.create(model="chat", messages=asked, stream=True, max_tokens=2000)
    with pytest.raises(anthropic.APIStatusError, match="the server closed the connection in the middle of its answer"):
        drained(stream, llamad)


def test_anthropic_tools(claude: anthropic.Anthropic) -> None:
    messages: list[Any] = []
    for city in EARLIER:
        use = {"type": "tool_use", "id": city, "name": "weather", "input": {"city": city}}
        messages += [
            {"role": "user", "content": f"What is the weather in {city}?"},
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": city, "content": "sunny"}]},
            {"role": "assistant", "content": "It is sunny."},
        ]
    answer = claude.messages.create(
        model="chat",
        max_tokens=128,
        extra_body=GREEDY,
        messages=[*messages, {"role": "user", "content": "What is the weather in Paris?"}],
        tools=[{"name": "weather", "description": "The weather in a city.", "input_schema": WEATHER}],
        tool_choice={"type": "any"},
    )
    (block,) = [one for one in answer.content if one.type == "tool_use"]
    assert (block.name, block.input) == ("weather", {"city": "Paris"})
    assert answer.stop_reason == "tool_use"


def test_anthropic_counts_tokens(claude: anthropic.Anthropic) -> None:
    counted = claude.messages.count_tokens(model="chat", messages=[{"role": "user", "content": QUESTION}])
    assert counted.input_tokens > 5


def test_anthropic_an_unknown_model_is_not_found(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        claude.messages.create(model="claude-9", max_tokens=8, messages=[{"role": "user", "content": "Hi"}])
    assert "claude-9" in caught.value.message
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "not_found_error"
    assert caught.value.request_id == caught.value.body["request_id"]


def test_anthropic_a_server_that_failed_says_why(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.InternalServerError) as caught:
        claude.messages.create(model="broken", max_tokens=8, messages=[{"role": "user", "content": "Hi"}])
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "overloaded_error"


def test_openai_a_base_url_that_is_wrong_is_told(llamad: Llamad) -> None:
    url = f"http://127.0.0.1:{llamad.port}/v1/v1"
    with (
        openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client,
        pytest.raises(openai.NotFoundError) as no,
    ):
        client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "Hi"}])
    assert "did you mean /v1/chat/completions?" in no.value.message
