"""One generation: what is asked of the engine after every input check, and what of its answer may leave."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import msgspec
import orjson

from policies import surfaces
from policies.answer import Ledger, StreamedAnswer, enforce_whole, release_whole, rule_ids
from policies.exchange import Exchange
from policies.refusal import Refusal, blocked, engine_down
from policies.request import ChatRequest, Generating, Message, constraint, decode, encode, rewrite
from policies.upstream import Call, UpstreamBroken
from registry.errors import Refused

if TYPE_CHECKING:
    from policies.authorize import Action, Caller
    from policies.desk import Desk, Front, GuardRunner

PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
ACTIONS: dict[str, Action] = {"chat": "chat", "completions": "complete"}
ERROR_BYTES = 64 * 1024
GUARD_SECONDS = 120.0
"""The rules' own deadlines are shorter; this one ends a queue."""


class Generation:
    """Carries one exchange through the engine. `leave` and `expire` may come at any time and stop the engine's work."""

    desk: Desk

    def __init__(self, front: Front, find: Callable[[str], Desk | None], exchange: Exchange, caller: Caller) -> None:
        self.front, self.exchange, self.caller, self._find = front, exchange, caller, find
        self.streams = False
        self.end = surfaces.DONE
        self._guards: GuardRunner | None = None
        self._call: Call | None = None
        self._tools: frozenset[str] = frozenset()
        self._include_usage = False

    # ---- before the engine -------------------------------------------------------------------------------------

    async def prepare(self, body: bytes) -> Call:
        """Check the request, log the intent, and return the call that is ready to start; raises Refusal."""
        front, exchange = self.front, self.exchange
        request = decode(exchange.surface, body)
        exchange.model = request.model[:64]
        front.limits.take(self.caller)
        desk = self._place(request.model)
        if desk.records:
            exchange.asked = body
        self._authorize(request)
        self._check_input(request)
        self.streams = request.stream
        self._include_usage = bool(request.stream_options and request.stream_options.include_usage)
        if isinstance(request, ChatRequest):
            self._tools = frozenset(tool.function.name for tool in request.tools or ())
            if desk.served.system_prompt:
                request.messages.insert(0, Message(role="system", content=desk.served.system_prompt))
        if self._guards is not None:
            request.stream = False  # nothing leaves before the whole text is known, so it is asked for whole
        salt = hashlib.blake2b(self.caller.name.encode(), key=front.hash_key, digest_size=16).hexdigest()
        upstream_body = encode(request, desk.served.engine_model, desk.served.defaults, desk.injected, salt)
        exchange.note_sampling(request)
        intent = front.decisions.intent(exchange.request_id, exchange.intent())
        if intent is not None:
            await intent
        self._call = desk.upstream.call("POST", PATHS[exchange.surface], upstream_body)
        return self._call

    def _place(self, model: str) -> Desk:
        """Bring the request to the desk of its model; raises Refusal when there is none, or it is closed."""
        desk = self._find(model)
        if desk is None:
            raise Refusal(404, "model_not_found", "no such model on this endpoint", param="model")
        if desk.closed:
            raise engine_down("; ".join(desk.closed.values()))
        self.desk = desk
        self.exchange.seat(desk)
        self._guards = desk.guards.get(self.exchange.surface)
        return desk

    def _authorize(self, request: Generating) -> None:
        """Ask Cedar; a caller's own decode-time constraint is part of the question, and must not meet a rule's."""
        wanted = constraint(request)
        context = {
            "decoding": [wanted] if wanted else [],
            "stream": request.stream,
            "max_tokens": request.max_tokens or 0,
            "tools": isinstance(request, ChatRequest) and bool(request.tools),
        }
        action = ACTIONS[self.exchange.surface]
        decision = self.desk.authorizer.decide(self.caller, action, self.desk.model, context)
        self.exchange.hit(decision.reasons)
        if not decision.allowed:
            raise access_denied(action, decision.reasons)
        if wanted:
            try:
                self.desk.enforcer.decode_fields({wanted.partition(".")[0]: True})
            except Refused as refused:
                raise Refusal(400, "format_is_fixed", refused.message, param=wanted) from None

    def _check_input(self, request: Generating) -> None:
        """Mask or block by the input rules; keep size and hash of what arrived."""
        texts: list[str] = []
        stopped: list[str] = []

        def check(text: str) -> str:
            texts.append(text)
            piece = self.desk.enforcer.check_input(text)
            if piece.blocked:
                stopped.append(piece.blocked)
            elif piece.hits:
                self.exchange.action = "redact"
            self.exchange.hit(rule_ids(piece))
            return piece.text

        rewrite(request, check)
        self.exchange.note_input(texts, self.front.hash_key)
        if stopped:
            raise blocked(list(dict.fromkeys(stopped)), "request")

    # ---- the answer --------------------------------------------------------------------------------------------

    async def whole(self, call: Call) -> bytes:
        """Return the body of a whole answer; raises Refusal when a rule blocks it."""
        return surfaces.encode(await self._whole_answer(call))

    async def stream(self, call: Call) -> AsyncIterator[bytes]:
        """Yield released events; `end` is what remains to be sent once the outcome is logged."""
        if self._guards is not None:
            chunks = surfaces.as_chunks(await self._whole_answer(call), include_usage=self._include_usage)
            self.end = b"".join(map(surfaces.event, chunks)) + surfaces.DONE
            return
        await self._started(call)
        answer = StreamedAnswer(
            self.desk.enforcer, self.exchange.surface, self.exchange.request_id, self.desk.served.model, self._tools
        )
        self.exchange.ledger = answer.ledger
        rest, out = b"", b""
        while not answer.done:
            if out:
                yield out
            data = await call.chunk()
            if not data:
                raise UpstreamBroken("the engine ended a stream without its end mark")
            payloads, rest = _split(rest + data)
            out = answer.feed(payloads)
            self._note(answer.ledger)
            if answer.refusal is not None:
                call.close()
                self._stop(answer, answer.refusal, out)
                return
        while await call.chunk():
            pass  # to the end of the body, so that the connection can be used again
        usage = answer.usage_event() if self._include_usage else b""
        self.end = out + usage + surfaces.DONE

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
            answer = surfaces.read_whole(self.exchange.surface, data, self.exchange.request_id, self.desk.served.model)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamBroken(f"the engine sent no answer: {error}") from None
        if not answer.choices:
            raise UpstreamBroken("the engine sent no choice")
        ledger = self.exchange.ledger
        refusal = enforce_whole(self.desk.enforcer, answer, self._tools, ledger)
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
                outcome = await guards.validate(text, GUARD_SECONDS)
                if outcome.ok:
                    continue
                self.exchange.hit([outcome.rule])
                if outcome.action == "block":
                    raise blocked([outcome.rule], "answer")
                piece = self.desk.enforcer.check_output(outcome.text)
                if piece.blocked:
                    raise blocked([piece.blocked], "answer")
                self.exchange.action = "redact"
                slot.put(piece.text)

    def _note(self, ledger: Ledger) -> None:
        if ledger.rules:
            self.exchange.hit(ledger.rules)
            if self.exchange.action == "allow":
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


def access_denied(action: str, reasons: tuple[str, ...]) -> Refusal:
    """Return the 403 that names the deciding rules, or says that none permits."""
    why = " and ".join(f"`{rule}`" for rule in reasons)
    message = f"`{action}` is denied by rule {why}" if reasons else f"no rule permits `{action}` to this caller"
    return Refusal(403, "access_denied", message, rules=reasons)


def _split(buffer: bytes) -> tuple[list[bytes], bytes]:
    if len(buffer) > ERROR_BYTES * 16:
        raise UpstreamBroken("an event without an end")
    try:
        return surfaces.split_events(buffer)
    except ValueError as error:
        raise UpstreamBroken(str(error)) from None


def _engine_message(body: bytes) -> str:
    try:
        error = orjson.loads(body)
        found = error.get("error", error)
        return str(found.get("message", "") if isinstance(found, dict) else found)[:300]
    except (orjson.JSONDecodeError, AttributeError):
        return ""
