"""What a browser shows of a server whose web UI cannot be had now: it may be started there, by hand. Pure."""

from html import escape

from llamad.gateway.types import Answer, Headers, RequestHead

_POLICY = b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
{refresh}<title>{name}</title>
<style>body {{ font: 1rem/1.5 sans-serif; margin: 4rem auto; max-width: 32rem; padding: 0 1rem }}</style>
<h1>{name}</h1>
<p>{sentence}.</p>
{start}</html>
"""
_REFRESH = '<meta http-equiv="refresh" content="5">\n'
_START = """\
<form>
<p><label>API key, where one is asked: <input type="password" autocomplete="current-password"></label></p>
<p><button>Start it</button> <output></output></p>
</form>
<script>
document.querySelector("form").onsubmit = async (event) => {
  event.preventDefault();
  const key = document.querySelector("input").value, say = document.querySelector("output");
  const headers = {"Content-Type": "application/json", ...(key && {Authorization: `Bearer ${key}`})};
  say.value = "starting ...";
  const answer = await fetch("tokenize", {method: "POST", headers, body: '{"content": ""}'});
  if (answer.ok) location.reload();
  else say.value = (await answer.json()).error.message;
};
</script>
"""


def wants_page(head: RequestHead) -> bool:
    """Whether a browser asks for something to show, and not a program."""
    return b"text/html" in (head.header(b"accept") or b"")


def waiting_page(name: str, sentence: str, headers: Headers, *, startable: bool) -> Answer:
    """503 with what is to be said of server `name`; it asks again by itself where nobody has to do anything."""
    start, refresh = (_START, "") if startable else ("", _REFRESH)
    text = _PAGE.format(name=escape(name), sentence=escape(sentence), refresh=refresh, start=start)
    headers = [*headers, (b"content-security-policy", _POLICY), (b"cache-control", b"no-store")]
    return Answer(503, text.encode(), b"text/html; charset=utf-8", headers)
