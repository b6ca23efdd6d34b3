"""The prompt builders of one model, by a graph's template and a guest's context, and the beginnings of prompts that
operators share between guests.
"""

from __future__ import annotations

from array import array
from typing import Literal

from promptd.chat import Message
from promptd.engine.loading import Loaded, chat_template
from promptd.engine.prompts import PromptBuilder
from promptd.engine.template import ChatTemplate, RawTemplate
from promptd.engine.tokenizer import Tokenizer
from promptd.engine.transcript import TOKEN_CODE
from promptd.errors import PromptdError

SECONDS_PER_DAY = 86_400.0
"""Chat templates show the date; a preamble is taken anew each day."""
MAX_PREAMBLES = 64


class PromptBuilders:
    """Makes each builder once."""

    def __init__(self, loaded: Loaded, tokenizer: Tokenizer) -> None:
        self._model = loaded.model
        self._context = loaded.info.context
        self._tokenizer = tokenizer
        self._builders: dict[tuple[str, int], PromptBuilder] = {}
        self._preambles: dict[tuple[str, tuple[Message, ...], float], array[int]] = {}

    def builder(self, template: Literal["auto", "none"], context: int) -> PromptBuilder:
        """Return the prompt builder for a graph's template setting and a guest's context; raises RuntimeFailure for a
        model whose template is broken.
        """
        if (template, context) not in self._builders:
            own = chat_template(self._model) if template == "auto" else None
            chat: ChatTemplate = own or RawTemplate()
            whose = "the graph a larger context" if context == self._context else "the guest a larger kv-quota"
            self._builders[template, context] = PromptBuilder(self._tokenizer, chat, context, f"give {whose}")
        return self._builders[template, context]

    def preamble(self, template: Literal["auto", "none"], public: tuple[Message, ...], opened: float) -> array[int]:
        """Return the tokens that every conversation with the messages `public` begins with, `opened` on the same day;
        none where the template does not take such a conversation.
        """
        key = (template, public, opened // SECONDS_PER_DAY)
        if key not in self._preambles:
            if len(self._preambles) >= MAX_PREAMBLES:
                self._preambles.clear()
            try:
                self._preambles[key] = self.builder(template, self._context).preamble(public, opened)
            except PromptdError:
                self._preambles[key] = array(TOKEN_CODE)
        return self._preambles[key]
