"""One generation: what is asked of the engine after every input check, and what of its answer may leave."""

from __future__ import annotations

import hashlib
import math
from collections.abc import AsyncIterator, Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from policies.endpoint.answer import Ledger, StreamedAnswer, check_text, enforce_whole, release_whole
from policies.endpoint.exchange import Exchange
from policies.endpoint.inputs import InputCheck, validated
from policies.endpoint.upstream import Call, UpstreamBroken
from policies.enforcement.decode import OUTPUT_FORMATS, decode_fields
from policies.wire import embeddings, fim, responses_answer, surfaces
from policies.wire.embeddings import EmbeddingsRequest
from policies.wire.frames import ChunkFrames, Frames
from policies.wire.refusal import Refusal, blocked, engine_down, no_model
from policies.wire.request import Asked, ChatRequest, CompletionRequest, Message, constraint, decode, encode
from policies.wire.responses_stream import ResponseFrames
from policies.wire.surfaces import ChatAnswer
from registry.errors import Refused

if TYPE_CHECKING:
    from policies.access.authorize import Action, Caller
    from policies.access.limits import Admission
    from policies.endpoint.desk import Desk, Front, GuardRunner

PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/chat/completions",
    "embeddings": "/v1/embeddings",
}
ACTIONS: dict[str, Action] = {"chat": "chat", "completions": "complete", "responses": "chat", "embeddings": "embed"}
KINDS = {"responses": "chat"}
"""The surface whose shapes the engine speaks, and whose rules apply, where it is another."""
ERROR_BYTES = 64 * 1024
USUAL_TOKENS = 256
"""Reserved for an answer whose length neither the caller nor the release bounds."""
BYTES_A_TOKEN = 3


class Generation:
    """Carries one exchange through the engine. `leave` and `expire` may come at any time and stop the engine's work.

    `close` it once its answer is sent, or cannot be.
    """

    desk: Desk

    def __init__(self, front: Front, find: Callable[[str], Desk | None], exchange: Exchange, caller: Caller) -> None:
        self.front, self.exchange, self.caller, self._find = front, exchange, caller, find
        self.streams = False
        self.end = surfaces.DONE
        self._kind = KINDS.get(exchange.surface, exchange.surface)
        self._guards: GuardRunner | None = None
        self._call: Call | None = None
        self._admission: Admission | None = None
        self._tools: frozenset[str] = frozenset()
        self._exempt: frozenset[str] = frozenset()
        self._input_tokens = 0
        self._choices = 1
        self._json = False
        self._frames: Frames

    # ---- before the engine -------------------------------------------------------------------------------------

    async def prepare(self, body: bytes) -> Call:
        """Check the request, log the intent, and return the call that is ready to start; raises Refusal."""
        try:
            return await self._prepare(body)
        except BaseException:
            self.close()
            raise

    async def _prepare(self, body: bytes) -> Call:
        front, exchange = self.front, self.exchange
        request = decode(exchange.surface, body)
        exchange.model = request.model[:64]
        self._admit(request, len(body))
        desk = self._place(request.model)
        if desk.records:
            exchange.asked = body
        self._authorize(request)
        check = InputCheck(desk, exchange, self._exempt)
        check.check(request, front.hash_key)
        checker = desk.guards.get("input")
        if checker is not None:
            await check.validate(request, checker)
        upstream_body = self._upstream_body(request)
        intent = front.decisions.intent(exchange.request_id, exchange.intent())
        if intent is not None:
            await intent
        self._call = desk.upstream.call("POST", PATHS[exchange.surface], upstream_body)
        return self._call

    def _admit(self, request: Asked, size: int) -> None:
        """Count the request against its caller's budgets: its input, and the longest answer that it may get."""
        self._input_tokens = -(-size // BYTES_A_TOKEN)
        tokens = self._input_tokens
        if type(request) is not EmbeddingsRequest:
            desk = self._find(request.model)
            usual = desk.served.defaults.get("max_tokens") if desk is not None else None
            prompts = getattr(request, "prompt", "")
            self._choices = (request.n or 1) * (len(prompts) if isinstance(prompts, list) else 1)
            tokens += (request.max_tokens or usual or USUAL_TOKENS) * self._choices
        self._admission = self.front.limits.admit(self.caller, tokens)

    def _place(self, model: str) -> Desk:
        """Bring the request to the desk of its model; raises Refusal when there is none, or it is closed."""
        desk, surface = self._find(model), self.exchange.surface
        if desk is None:
            raise no_model()
        if surface not in desk.served.surfaces:
            raise Refusal(404, "surface_not_offered", f"the engine of this model has no {surface}", param="model")
        if desk.closed:
            raise engine_down("; ".join(desk.closed.values()))
        self.desk = desk
        self.exchange.seat(desk)
        return desk

    def _authorize(self, request: Asked) -> None:
        """Ask Cedar; a caller's own decode-time constraint is part of the question, and must not meet a rule's."""
        desk, exchange = self.desk, self.exchange
        tools = request.tools if type(request) is ChatRequest and request.tools else ()
        self._tools = frozenset(tool.function.name for tool in tools)
        wanted = "" if type(request) is EmbeddingsRequest else constraint(request)
        context: dict[str, Any] = {
            "decoding": [wanted] if wanted else [],
            "stream": getattr(request, "stream", False),
            "max_tokens": getattr(request, "max_tokens", None) or 0,
            "tools": bool(tools),
            "tool_names": sorted(self._tools),
            "surface": exchange.surface,
            "purpose": exchange.purpose,
            "data_class": exchange.data_class,
        }
        action = ACTIONS[exchange.surface]
        decision = desk.authorizer.decide(self.caller, action, desk.model, context)
        exchange.hit(decision.reasons)
        if not decision.allowed:
            raise access_denied(action, decision.reasons)
        self._exempt = desk.authorizer.exemptions(self.caller, desk.model, desk.rules)
        self._guards = self._output_guards()
        self._json = wanted in ("response_format", "structured_outputs.json")
        # A forced tool call is a format of the caller's own too: the engine would drop the rule's for it.
        choice = getattr(request, "tool_choice", None)
        own = wanted or ("" if choice in (None, "none", "auto") else "tool_choice")
        if own:
            try:
                self._injected({OUTPUT_FORMATS[0]: True})
            except Refused as refused:
                raise Refusal(400, "format_is_fixed", refused.message, param=own) from None

    def _output_guards(self) -> GuardRunner | None:
        """Return the validators of the answer, unless the caller is exempt from every one of them."""
        guards = self.desk.guards.get(self.exchange.surface) or self.desk.guards.get(self._kind)
        if guards is None or not self._exempt:
            return guards
        enforcer = self.desk.enforcer
        here = {rule.id for rule in enforcer.guard_rules} - enforcer.guards_off(self._kind)
        return None if here and here <= self._exempt else guards

    def _injected(self, own: dict[str, Any]) -> dict[str, Any]:
        """Return what the rules fix while decoding; raises Refused where the caller's `own` fields meet it."""
        if not self._exempt:
            return self.desk.enforcer.decode_fields(own) if own else self.desk.injected
        rules = [rule for rule in self.desk.enforcer.compiled.output.rules if rule.id not in self._exempt]
        return decode_fields(rules, own)

    def _upstream_body(self, request: Asked) -> bytes:
        """Return what the engine is asked, and settle how its answer is written."""
        exchange, served = self.exchange, self.desk.served
        salt = _salt(self.caller.name, self.front.hash_key)
        if type(request) is EmbeddingsRequest:
            self._choices = len(embeddings.inputs(request))
            return embeddings.encode(request, served.engine_model, salt)
        self.streams = request.stream
        if exchange.surface == "responses":
            self._frames = ResponseFrames(exchange.request_id, served.model)
        else:
            include = bool(request.stream_options and request.stream_options.include_usage)
            self._frames = ChunkFrames(self._kind, exchange.request_id, served.model, include_usage=include)
        exchange.frames = self._frames
        if type(request) is ChatRequest:
            if served.system_prompt:
                request.messages.insert(0, Message(role="system", content=served.system_prompt))
        elif request.suffix is not None:
            _fill_middle(request, served.fim)
        if self._guards is not None:
            request.stream = False  # nothing leaves before the whole text is known, so it is asked for whole
        injected = self._injected({})
        self._json = self._json or "json" in injected.get("structured_outputs", ())
        body = encode(request, served.engine_model, served.defaults, injected, salt)
        exchange.note_sampling(request)  # with the candidate's defaults
        return body

    # ---- the answer --------------------------------------------------------------------------------------------

    async def whole(self, call: Call) -> bytes:
        """Return the body of a whole answer; raises Refusal when a rule blocks it."""
        if self.exchange.surface == "embeddings":
            await self._started(call)
            data = await call.read(self.front.bounds.answer_bytes)
            body, usage = embeddings.read(data, self.desk.served.model, self._choices)
            self.exchange.ledger.count(usage)
            return body
        answer = await self._whole_answer(call)
        if self.exchange.surface == "responses" and isinstance(answer, ChatAnswer):
            return responses_answer.whole(answer)
        return surfaces.encode(answer)

    async def stream(self, call: Call) -> AsyncIterator[bytes]:
        """Yield released events; `end` is what remains to be sent once the outcome is logged."""
        if self._guards is not None:
            self.end = await self._at_once(call)
            return
        await self._started(call)
        streamed = StreamedAnswer(
            self.desk.enforcer, self._kind, self._frames, self._tools, exempt=self._exempt, choices=self._choices,
            json=self._json,
        )  # fmt: skip
        self.exchange.ledger = streamed.ledger
        rest, out = b"", b""
        while not streamed.over:
            if out and not streamed.ended:  # the last words wait for the outcome, as the end mark does
                yield out
                out = b""
            data = await call.chunk()
            if not data:
                raise UpstreamBroken("the engine ended a stream without its end mark")
            payloads, rest = surfaces.split_events(rest + data if rest else data)
            for payload in payloads:
                out += streamed.feed(payload)
            if streamed.ledger.rules:
                self._note(streamed.ledger)
        if streamed.done:
            await call.drain()
        else:
            call.close()
        if streamed.refusal is not None:
            self._stop(streamed, streamed.refusal, out)
        else:
            self.end = out + streamed.closing()

    async def _at_once(self, call: Call) -> bytes:
        """Return all events of a stream whose whole text is known before any of it leaves."""
        answer = await self._whole_answer(call)
        pieces = [self._frames.pieces(answer.created, [piece]) for piece in surfaces.as_pieces(answer)]
        return b"".join(pieces) + self._frames.closing(answer.usage)

    def _stop(self, answer: StreamedAnswer, refusal: Refusal, out: bytes) -> None:
        """End a blocked stream: an error answer when nothing has left yet, else the terminal events."""
        if not self.exchange.sending and not out:
            raise refusal
        self.exchange.action = "block"
        self.exchange.finish = "content_filter"
        self.end = out + answer.blocked_events(refusal, self.exchange.request_id)

    async def _started(self, call: Call) -> None:
        status = await call.start()
        if status == 200:
            return
        message = _engine_message(await call.read(ERROR_BYTES))
        if status not in (400, 404, 422):
            raise UpstreamBroken(f"status {status}: {message}")
        piece = self.desk.enforcer.check_output(message)
        shown = message if not piece.hits and not piece.blocked else "the engine refused the request"
        raise Refusal(400, "engine_refused", f"the engine refused the request: {shown}", action="error")

    async def _whole_answer(self, call: Call) -> surfaces.Whole:
        await self._started(call)
        data = await call.read(self.front.bounds.answer_bytes)
        try:
            answer = surfaces.read_whole(self._kind, data, self.exchange.request_id, self.desk.served.model)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamBroken(f"the engine sent no answer: {error}") from None
        if not answer.choices:
            raise UpstreamBroken("the engine sent no choice")
        ledger = self.exchange.ledger
        refusal = enforce_whole(self.desk.enforcer, answer, self._tools, ledger, self._exempt, json=self._json)
        self._note(ledger)
        if refusal is not None:
            raise refusal
        if self._guards is not None:
            await self._guard(answer, self._guards)
        release_whole(answer, ledger)
        return answer

    async def _guard(self, answer: surfaces.Whole, guards: GuardRunner) -> None:
        """Run the validators over every text; what they replace is checked by the output rules again."""
        for choice in answer.choices:
            for slot in surfaces.slots(choice):
                text = slot.get()
                if not text:
                    continue
                outcome = await validated(guards, text, self._exempt)
                if outcome.ok:
                    continue
                self.exchange.hit([outcome.rule])
                if outcome.action == "block":
                    raise blocked([outcome.rule], "answer")
                piece = check_text(self.desk.enforcer, slot.key[1], outcome.text, self._exempt, json=self._json)
                if piece.blocked:
                    raise blocked([piece.blocked], "answer")
                self.exchange.action = "redact"
                slot.put(piece.text)

    def _note(self, ledger: Ledger) -> None:
        if ledger.rules:
            self.exchange.hit(ledger.rules)
            if ledger.aborted:
                self.exchange.action = "abort"
            elif self.exchange.action == "allow":
                self.exchange.action = "redact"

    # ---- from outside ------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """The caller hung up: stop the engine's work."""
        if self._call is not None and not self._call.done:
            self.exchange.gone = True
            self._call.close()

    def expire(self) -> None:
        """The request's time is over: stop the engine's work."""
        if self._call is not None and not self._call.done:
            self._call.close()

    def close(self) -> None:
        """Let the engine go, and settle what the request has used of its caller's budgets."""
        if self._call is not None:
            self._call.close()
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.settle(self._used())

    def _used(self) -> int:
        """Return the tokens used: the engine's own count, else what was asked and released, estimated."""
        ledger = self.exchange.ledger
        if ledger.usage is not None:
            return ledger.usage.prompt_tokens + (ledger.usage.completion_tokens or 0)
        if self._call is None or not (ledger.released or self.exchange.gone):
            return 0
        return self._input_tokens + math.ceil(ledger.chars / BYTES_A_TOKEN)


def access_denied(action: str, reasons: tuple[str, ...]) -> Refusal:
    """Return the 403 that names the deciding rules, or says that none permits."""
    why = " and ".join(f"`{rule}`" for rule in reasons)
    message = f"`{action}` is denied by rule {why}" if reasons else f"no rule permits `{action}` to this caller"
    return Refusal(403, "access_denied", message, rules=reasons)


@lru_cache(maxsize=4096)
def _salt(caller: str, key: bytes) -> str:
    """Return what separates a caller's prefix cache from that of others."""
    return hashlib.blake2b(caller.encode(), key=key, digest_size=16).hexdigest()


def _fill_middle(request: CompletionRequest, tokens: tuple[str, str, str] | None) -> None:
    """Turn prompt and suffix into the prompt that asks for what belongs between them."""
    if tokens is None:
        raise Refusal(400, "no_fill_in_the_middle", "this model has no fill-in-the-middle tokens", param="suffix")
    if not isinstance(request.prompt, str):
        raise Refusal(400, "invalid_field", "`suffix` takes one prompt", param="prompt")
    request.prompt = fim.prompt(tokens, request.prompt, request.suffix or "")


def _engine_message(body: bytes) -> str:
    try:
        error = orjson.loads(body)
        found = error.get("error", error)
        return str(found.get("message", "") if isinstance(found, dict) else found)[:300]
    except (orjson.JSONDecodeError, AttributeError):
        return ""
