"""Runs inside the container, with its Python's standard library: asks the gateway, once or again and again.

client.py ask MODEL TOKENS     one completion; prints the answer, ends with 1 when it is no 200
client.py load MODEL TOKENS    a connection a request until standard input ends, from two threads; then prints one
                               JSON list of [began, ended, status or error] (CLOCK_MONOTONIC, which the host shares)
"""

import http.client
import json
import sys
import threading
import time

ADDRESS = ("127.0.0.1", 8080)
LIMIT = 60


def ask(model: str, tokens: int) -> tuple[int, bytes]:
    """One completion: status and body. Raises OSError or HTTPException."""
    connection = http.client.HTTPConnection(*ADDRESS, timeout=LIMIT)
    try:
        body = {"model": model, "max_tokens": tokens, "messages": [{"role": "user", "content": "Say hello."}]}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def load(model: str, tokens: int) -> list[tuple[float, float, str]]:
    """What became of each request until standard input ends."""
    results: list[tuple[float, float, str]] = []
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            began = time.monotonic()
            try:
                status, body = ask(model, tokens)
                outcome = "ok" if status == 200 else f"{status}: {body[:200].decode(errors='replace')}"
            except (OSError, http.client.HTTPException) as error:
                outcome = repr(error)
            results.append((began, time.monotonic(), outcome))
            over.wait(0.02)  # leaves some of the processor to others

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()
    return results


if __name__ == "__main__":
    verb, name, number = sys.argv[1:]
    if verb == "ask":
        code, text = ask(name, int(number))
        sys.stdout.write(text.decode())
        sys.exit(code != 200)
    sys.stdout.write(json.dumps(load(name, int(number))))
