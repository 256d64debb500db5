"""A stand-in for an OpenAI-compatible endpoint: scripted answers over real HTTP, and a count of what was asked."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeEndpoint:
    """`answer(body, count)` returns (status, JSON) for the count-th chat request; the last may close the connection."""

    permit = "sha256:permit"
    api_key = "hk_test"

    def __init__(self, answer):
        self.headers = {"X-Permit": self.permit}
        self.asked, self.seen_headers = [], []
        outer = self

        class Answering(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.send(200, {"object": "list", "data": [{"id": "candidate", "object": "model"}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(body)
                outer.seen_headers.append(dict(self.headers))
                status, data = answer(body, len(outer.asked))
                self.send(status, data)

            def send(self, status, value):
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def said(text, **more):
    """A chat completion that says a text."""
    message = {"role": "assistant", "content": text, **more}
    return 200, {"id": "x", "model": "candidate", "choices": [{"message": message, "finish_reason": "stop"}],
                 "usage": {"prompt_tokens": 3, "completion_tokens": 2}}  # fmt: skip


def refused(status, code):
    """An error in OpenAI's shape."""
    return status, {"error": {"message": f"refused: {code}", "code": code, "rules": ["some-rule"]}}


def called(*calls):
    """A chat completion that calls tools: (name, arguments as text) each."""
    made = [
        {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for number, (name, arguments) in enumerate(calls)
    ]
    status, data = said(None, tool_calls=made)
    data["choices"][0]["finish_reason"] = "tool_calls"
    return status, data


def completed(body, say="yes\nno"):
    """What a server of `/completions` makes of a request: it says a text, or with `echo` scores the prompt's words.

    A word's log-probability is minus its length in tenths; it is the likeliest if it is shorter than five characters.
    The first word has none, as nothing stands before it.
    """
    prompt = body["prompt"]
    choice = {"index": 0, "text": say, "finish_reason": "stop"}
    if body.get("echo"):
        words = prompt.split(" ")
        words = [words[0], *(" " + word for word in words[1:])]
        logs = [None, *(-len(word) / 10 for word in words[1:])]
        best = [None, *({word: log} if len(word) < 5 else {"it": -0.01, word: log}
                        for word, log in zip(words[1:], logs[1:], strict=True))]  # fmt: skip
        offsets = [sum(map(len, words[:place])) for place in range(len(words) + 1)]
        choice |= {"text": prompt + "!", "logprobs": {
            "tokens": [*words, "!"], "token_logprobs": [*logs, -1.0], "top_logprobs": [*best, {"!": -1.0}],
            "text_offset": offsets,
        }}  # fmt: skip
    return 200, {"object": "text_completion", "choices": [choice],
                 "usage": {"prompt_tokens": len(prompt.split()), "completion_tokens": 1}}  # fmt: skip
