"""The engine: continuous batching over one GGUF model in a worker process of its own; this is the parent's side of
it.
"""

from promptd.engine.client import Engine
from promptd.engine.conversation import Conversation
from promptd.engine.messages import EngineInfo, EngineStats, RawEnd, Sampling
from promptd.engine.rawreply import RawCompletion, RawReply
from promptd.engine.reply import Reply

__all__ = [
    "Conversation",
    "Engine",
    "EngineInfo",
    "EngineStats",
    "RawCompletion",
    "RawEnd",
    "RawReply",
    "Reply",
    "Sampling",
]
