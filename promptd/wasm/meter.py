"""What one guest has used of what its grant limits: tokens, contexts, and the size of a prompt."""

from __future__ import annotations

from promptd.chat import Usage
from promptd.config import GuestLimits
from promptd.errors import TooLarge
from promptd.wasm.held import NOTHING, ChatReply, Execution


class Meter:
    """Counts for one guest; what would go beyond a limit raises TooLarge."""

    def __init__(self, limits: GuestLimits) -> None:
        self._limits = limits
        self._contexts = 0
        self.usage = NOTHING
        """What all replies so far have cost."""

    @property
    def tokens_used(self) -> int:
        """Prompt and generated tokens so far."""
        return self.usage.prompt + self.usage.generated

    def tokens_left(self) -> int | None:
        """Return how many tokens the guest may still use, None without limit; raises TooLarge when that is none."""
        if (limit := self._limits.tokens) is None:
            return None
        if self.tokens_used >= limit:
            raise self.no_tokens()
        return limit - self.tokens_used

    def no_tokens(self) -> TooLarge:
        """Return what a guest is told whose tokens are used up."""
        return TooLarge(f"the token limit of {self._limits.tokens} is reached: {self.tokens_used} are used")

    def count(self, usage: Usage) -> None:
        """Count what something has cost."""
        self.usage += usage

    def count_execution(self, execution: Execution) -> None:
        """Count what an execution context has cost since it was last counted."""
        usage = getattr(execution.context, "usage", NOTHING)
        self.count(usage - execution.counted)
        execution.counted = usage

    def count_reply(self, reply: ChatReply, usage: Usage) -> None:
        """Count a reply that has ended, once."""
        if not reply.counted:
            reply.counted = True
            self.count(usage)

    def check_contexts(self) -> None:
        """Raise TooLarge when the guest has as many contexts as it may have."""
        limit = self._limits.contexts
        if self._contexts >= limit:
            raise TooLarge(f"the limit of {limit} contexts is reached; drop one first")

    def opened(self) -> None:
        """Count a context that `check_contexts` allowed."""
        self._contexts += 1

    def closed(self) -> None:
        """Count one context less."""
        self._contexts -= 1

    def retire(self, execution: Execution) -> None:
        """Count an execution context no longer."""
        if not execution.retired:
            execution.retired = True
            self.closed()

    def check_size(self, size: int) -> None:
        """Raise TooLarge for a prompt of so many bytes."""
        limit = self._limits.prompt
        if size > limit:
            raise TooLarge(f"the prompt has {size} bytes and the limit is {limit}")
