"""How likely a model thought the tokens of its reply, in the shapes of OpenAI's APIs."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from promptd.chat import Piece, TokenLogprob


def logprobs_of(piece: str) -> tuple[TokenLogprob, ...]:
    """Return what a piece of a reply tells of its tokens; nothing where that was not asked for."""
    return piece.logprobs if isinstance(piece, Piece) else ()


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Return the `logprobs` of a choice of a chat completion."""
    return {"content": scored_tokens(tokens), "refusal": None}


def scored_tokens(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Return the tokens with the likeliest others, as chat completions and responses both list them."""
    return [{**_scored(token), "top_logprobs": [_scored(other) for other in token.top]} for token in tokens]


class CompletionLogprobs:
    """Makes the `logprobs` of a choice of a completion, whose tokens say where in the text they begin."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def of(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Return those of the next `tokens`."""
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(token.data))
        return {
            "tokens": [_text(token) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{_text(other): other.logprob for other in token.top} for token in tokens],
            "text_offset": offsets,
        }


def _scored(token: TokenLogprob) -> dict[str, Any]:
    return {"token": _text(token), "logprob": token.logprob, "bytes": list(token.data)}


def _text(token: TokenLogprob) -> str:
    return token.data.decode(errors="replace")
