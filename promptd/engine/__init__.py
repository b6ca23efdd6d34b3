"""The engine: continuous batching over one GGUF model in a worker process of its own; this is the parent's side of
it.
"""

from promptd.engine.client import Engine
from promptd.engine.conversation import Conversation
from promptd.engine.messages import RawEnd
from promptd.engine.options import Sampling
from promptd.engine.rawreply import RawCompletion, RawReply
from promptd.engine.reply import Reply
from promptd.engine.statistics import EngineInfo, EngineStats

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
