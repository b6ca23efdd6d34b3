"""One response as OpenAI's clients get it, whole or as typed events: a message, calls of tools, or both, item by item.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from promptd.chat import Completion, StopReason, TokenLogprob, Tool, ToolCall
from promptd.errors import PromptdError
from promptd.server.errors import error_body
from promptd.server.logprobs import logprobs_of, scored_tokens
from promptd.server.replies import ServerSentEvents, sse
from promptd.server.response_request import ResponsesRequest
from promptd.server.tool_calls import CallReader, read_calls

_CUT = (StopReason.MAX_TOKENS, StopReason.CONTEXT_FULL)


def whole_response(body: ResponsesRequest, tools: Sequence[Tool], completion: Completion) -> dict[str, Any]:
    """Return the response that `completion` is."""
    text, calls = read_calls(completion.text, tools)
    status = _status(completion)
    output = [] if calls and not text else [_message(_new_id("msg"), status, text, completion.logprobs)]
    return _ended(_response(body), completion, [*output, *(_call(_new_id("fc"), call) for call in calls)])


class ResponseEvents(ServerSentEvents):
    """The stream of one response."""

    def __init__(self, body: ResponsesRequest, tools: Sequence[Tool]) -> None:
        self._response = _response(body)
        self._reader = CallReader(tools)
        self._number = 0
        self._message = ""
        """The id of the message, once there is one."""
        self._text = ""
        self._untold: list[TokenLogprob] = []
        """Tokens of text that is held back, as it may be a call."""

    def begin(self) -> bytes:
        return self._event("response.created", response=self._response) + self._event(
            "response.in_progress", response=self._response
        )

    def piece(self, text: str) -> bytes:
        self._untold += logprobs_of(text)
        return self._say(self._reader.feed(text))

    def end(self, completion: Completion) -> bytes:
        rest, calls = self._reader.finish()
        events = [self._say(rest)]
        output: list[dict[str, Any]] = []
        if self._message or not calls:
            events += [b"" if self._message else self._open_message(), self._close_message(completion, output)]
        events += [self._whole_call(call, output) for call in calls]
        response = _ended(self._response, completion, output)
        return b"".join([*events, self._event(f"response.{response['status']}", response=response)])

    def fail(self, error: PromptdError) -> bytes:
        body = error_body(error)["error"]
        told = {"code": body["code"], "message": body["message"]}
        return self._event("response.failed", response={**self._response, "status": "failed", "error": told})

    def _say(self, text: str) -> bytes:
        if not text:
            return b""
        opened = b"" if self._message else self._open_message()
        self._text += text
        tokens, self._untold = scored_tokens(self._untold), []
        return opened + self._event("response.output_text.delta", **self._part_place(), delta=text, logprobs=tokens)

    def _open_message(self) -> bytes:
        self._message = _new_id("msg")
        item = {**_message(self._message, "in_progress", ""), "content": []}
        return self._event("response.output_item.added", output_index=0, item=item) + self._event(
            "response.content_part.added", **self._part_place(), part=_part("")
        )

    def _close_message(self, completion: Completion, output: list[dict[str, Any]]) -> bytes:
        output.append(_message(self._message, _status(completion), self._text, completion.logprobs))
        (part,) = output[0]["content"]
        place = self._part_place()
        return b"".join([
            self._event("response.output_text.done", **place, text=self._text, logprobs=part["logprobs"]),
            self._event("response.content_part.done", **place, part=part),
            self._event("response.output_item.done", output_index=0, item=output[0]),
        ])  # fmt: skip

    def _whole_call(self, call: ToolCall, output: list[dict[str, Any]]) -> bytes:
        item = _call(_new_id("fc"), call)
        place = {"item_id": item["id"], "output_index": len(output)}
        output.append(item)
        begun = {**item, "arguments": "", "status": "in_progress"}
        return b"".join([
            self._event("response.output_item.added", output_index=place["output_index"], item=begun),
            self._event("response.function_call_arguments.delta", **place, delta=call.arguments),
            self._event("response.function_call_arguments.done", **place, name=call.name, arguments=call.arguments),
            self._event("response.output_item.done", output_index=place["output_index"], item=item),
        ])  # fmt: skip

    def _part_place(self) -> dict[str, Any]:
        return {"item_id": self._message, "output_index": 0, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        return sse({"type": kind, "sequence_number": self._number - 1, **fields}, kind)


def _response(body: ResponsesRequest) -> dict[str, Any]:
    return {
        "id": _new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "output": [],
        "error": None,
        "incomplete_details": None,
        "usage": None,
        **body.echoed(),
    }


def _ended(response: dict[str, Any], completion: Completion, output: list[dict[str, Any]]) -> dict[str, Any]:
    usage = completion.usage
    cut = completion.stop_reason in _CUT
    return {
        **response,
        "status": _status(completion),
        "output": output,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "usage": {
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached},
            "output_tokens": usage.generated,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt + usage.generated,
        },
    }


def _status(completion: Completion) -> str:
    return "incomplete" if completion.stop_reason in _CUT else "completed"


def _message(item: str, status: str, text: str, tokens: Sequence[TokenLogprob] = ()) -> dict[str, Any]:
    return {"id": item, "type": "message", "role": "assistant", "status": status, "content": [_part(text, tokens)]}


def _call(item: str, call: ToolCall) -> dict[str, Any]:
    about = {"call_id": call.id, "name": call.name, "arguments": call.arguments}
    return {"id": item, "type": "function_call", "status": "completed", **about}


def _part(text: str, tokens: Sequence[TokenLogprob] = ()) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": scored_tokens(tokens)}


def _new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(12)}"
