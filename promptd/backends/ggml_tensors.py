"""GGUF models through named tensors, for components: the prompt is a U8 tensor, the answer is the first output.

Inputs: a tensor called "options", "metadata" or "1" is a JSON configuration (see `wasmedge_options`, and the spellings
of Hayride); the first U8 tensor of another name is the prompt, whatever its dimensions say. Outputs: "0" is the answer
as U8, or the embedding as FP32; "1" is WasmEdge's metadata JSON as U8.
"""

from __future__ import annotations

from collections.abc import Sequence

from promptd.backends.ggml_text import GgmlTextContext, GgmlTextModel
from promptd.backends.text import Allowance
from promptd.backends.wasmedge_options import read_options
from promptd.chat import Usage
from promptd.config import GraphSettings
from promptd.engine.adapters import Adapters
from promptd.engine.client import Engine
from promptd.errors import InvalidArgument
from promptd.tensor import NamedTensor, Tensor, TensorType

CONFIGURATION_NAMES = frozenset({"options", "metadata", "1"})


class GgmlExecution:
    """An execution context on a language model. It keeps nothing between computes but what the engine caches."""

    def __init__(self, engine: Engine, settings: GraphSettings, guest: str, adapters: Adapters = ()) -> None:
        self._engine = engine
        self._adapters = adapters
        self._settings = settings
        self._guest = guest
        self._context: GgmlTextContext | None = None
        self._closed = False
        self.usage = Usage(prompt=0, cached=0, generated=0)
        self.tokens_left: int | None = None

    def compute(self, inputs: Sequence[NamedTensor], *, deadline: float | None = None) -> list[NamedTensor]:
        """Answer one prompt; raises InvalidArgument for inputs without one, else as `TextContext.compute`."""
        model = GgmlTextModel(self._engine, self._settings, b"", self._guest, self._adapters)
        prompt: Tensor | None = None
        for name, tensor in inputs:
            if name in CONFIGURATION_NAMES:
                model.options, model.reply_options = read_options(
                    tensor.data, model.options, model.reply_options, guest=self._guest, other_spellings=True
                )
            elif prompt is None and tensor.type is TensorType.U8:
                prompt = tensor
        if prompt is None:
            raise InvalidArgument("no input is a prompt: a language model takes its text as a U8 tensor")
        context = self._context = model.context(self._guest)
        try:
            if self._closed:
                context.cancel()
            context.set_prompt(prompt.data)
            context.compute(Allowance(self.tokens_left, deadline))
            vector = context.vector()
            answer = (
                Tensor.text(context.output())
                if vector is None
                else Tensor((len(vector),), TensorType.FP32, vector.tobytes())
            )
            return [("0", answer), ("1", Tensor.text(context.metadata()))]
        finally:
            context.close()
            self.usage += context.usage

    def close(self) -> None:
        """End a running compute. Idempotent."""
        self._closed = True
        if (context := self._context) is not None:
            context.cancel()
