"""Records of the decision log as the endpoint writes them, drawn from a generator: for tests of drift."""

from registry.traits import describe

GREETINGS = "Please tell me what the weather will be like in the north of the country on the day that we leave. "
QUERIES = "SELECT name, total FROM orders WHERE total > 100 AND day = '2026-07-01' GROUP BY name ORDER BY total; "


def decisions(
    rng, start, count, *, blocked=0.03, length=300, endpoint="prod", certificate="", asked=GREETINGS, said=GREETINGS,
    traits=True, candidate="sha256:c",
):  # fmt: skip
    """Yield `count` records with request ids from `start` on; `asked` and `said` are what texts are cut out of."""
    for number in range(start, start + count):
        stop = rng.random() < blocked
        body = {
            "endpoint": endpoint, "request_id": f"{endpoint}{number}", "principal": "ada", "groups": ["members"],
            "model": "m", "candidate": candidate, "certificate": certificate, "bundle": "",
            "action": "block" if stop else "allow", "rules": ["nightjar"] if stop else [],
            "status": 400 if stop else 200, "prompt_tokens": 9, "completion_tokens": 0 if stop else 60,
            "input_chars": int(rng.integers(20, 200)), "output_chars": 0 if stop else int(rng.normal(length, 30)),
            "latency_ms": 1.0, "finish_reason": "content_filter" if stop else "stop", "input_hash": "",
            "output_hash": "", "determinism": "greedy",
        }  # fmt: skip
        if traits:
            output = {} if stop else describe(_cut(rng, said), b"key")
            body["signals"] = {"input": describe(_cut(rng, asked), b"key"), "output": output, "tool_calls": 0,
                               "tool_errors": 0}  # fmt: skip
        yield ("gateway.decision", f"{endpoint}{number}", body, f"endpoint:{endpoint}")


def _cut(rng, text):
    begin = int(rng.integers(0, len(text)))
    return (text * 3)[begin : begin + int(rng.integers(60, 150))]
