"""What core modules do with graphs and contexts: `Nn`'s behaviour in stages, and WasmEdge's conventions for language
models, whose contexts take text and make replies whole or token by token.

Plain values in and out, PromptdErrors out; core.py converts. The conventions are those of WasmEdge's plugins/wasi_nn
(wasinnfunc.cpp, DESIGN.md): https://github.com/WasmEdge/WasmEdge
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from promptd.backends.text import Allowance, TextContext, TextGraph, TextModel
from promptd.errors import InvalidArgument, PromptdError
from promptd.tensor import core_tensor
from promptd.wasm.held import Execution, LoadedGraph
from promptd.wasm.nn import Nn
from promptd.wasm.staged import StagedExecution, compute, get_output, set_input

METADATA_INDEX = 1
"""Input 1 of a language model is its configuration and output 1 its metadata; every other index is the text."""


class CoreGraph:
    """A graph handle of a core module. A language model has options with it, which all its contexts share."""

    def __init__(self, graph: LoadedGraph, model: TextModel | None, config: bytes) -> None:
        self.graph = graph
        self.model = model
        self.config = config
        self.unloaded = False


class CoreContext(StagedExecution):
    """A context handle of a core module, on any graph."""

    def __init__(self, handle: CoreGraph, opened: Execution) -> None:
        super().__init__(opened)
        self.handle = handle

    def check_loaded(self) -> None:
        """Raise InvalidArgument when the graph was unloaded: such a context can be read, and nothing else."""
        if self.handle.unloaded:
            raise InvalidArgument("the graph of this context was unloaded")


class TextCoreContext(CoreContext):
    """A context handle on a language model."""

    def __init__(self, handle: CoreGraph, text: TextContext) -> None:
        super().__init__(handle, Execution(handle.graph, text))
        self.text = text


class CoreNn:
    """One core module's session. `print` takes what the host prints to the guest's standard output."""

    def __init__(self, nn: Nn, print: Callable[[bytes], None]) -> None:
        self._nn = nn
        self._print = print
        self._by_name: dict[str, int] = {}

    # Graphs

    def load_by_name(self, name: str, config: bytes = b"") -> int:
        """Return a handle on the granted graph `name`.

        As in WasmEdge that is the handle the guest has already, as long as it has one; but not where it now wants
        another configuration.
        """
        handle = self._by_name.get(name)
        if (
            handle is not None
            and (known := self._nn.resources.get(handle, CoreGraph))
            and config in (b"", known.config)
        ):
            return handle
        self._by_name[name] = handle = self._hold(self._nn.load_by_name(name), config)
        return handle

    def load(self, builders: Sequence[bytes], encoding: str) -> int:
        """Load the model in the first builder, with the configuration in the second if there is one."""
        return self._hold(self._nn.load(builders, encoding), builders[1] if len(builders) > 1 else b"")

    def unload(self, handle: int) -> None:
        """Forget a graph. Its contexts can still be read."""
        graph = self._nn.resources.get(handle, CoreGraph)
        graph.unloaded = True
        for context in self._nn.resources:
            if isinstance(context, CoreContext) and context.handle is graph:
                self._nn.meter.retire(context)
        self._by_name = {name: known for name, known in self._by_name.items() if known != handle}
        self._nn.drop(handle)

    def _hold(self, graph: LoadedGraph, config: bytes) -> int:
        try:
            model = None
            if isinstance(graph.graph, TextGraph):
                model = graph.graph.text_model(config, self._nn.guest)
        except PromptdError:
            self._nn.unload_unused()
            raise
        return self._nn.hold(CoreGraph(graph, model, config))

    # Contexts

    def open(self, handle: int) -> int:
        """Open a context on a graph."""
        nn = self._nn
        graph = nn.resources.get(handle, CoreGraph)
        if graph.model is None:
            return nn.hold(CoreContext(graph, nn.open_execution(graph.graph)))
        nn.meter.check_contexts()
        context = TextCoreContext(graph, graph.model.context(nn.identity))
        nn.meter.opened()
        return nn.hold(context)

    def finalize(self, handle: int) -> None:
        """Close a context."""
        self._context(handle)
        self._nn.drop(handle)

    def set_input(
        self,
        handle: int,
        index: int,
        type_number: int,
        dimensions: tuple[int, ...],
        data: bytes,
        *,
        legacy: bool = False,
    ) -> None:
        """Set an input; a language model looks at nothing but its bytes."""
        context = self._context(handle)
        context.check_loaded()
        if isinstance(context, TextCoreContext):
            self._nn.meter.check_size(len(data))
            if index == METADATA_INDEX:
                context.text.configure(data)
            else:
                context.text.set_prompt(data)
            return
        set_input(self._nn, context, str(index), core_tensor(type_number, dimensions, data, legacy=legacy))

    def compute(self, handle: int) -> None:
        """Run the graph on the inputs set; a language model makes its whole reply, and ContextFull leaves a part."""
        context = self._context(handle)
        context.check_loaded()
        if isinstance(context, TextCoreContext):
            with self._allowance(context) as allowance:
                context.text.compute(allowance)
            return
        compute(self._nn, context)

    def output(self, handle: int, index: int) -> bytes:
        """Return an output's bytes."""
        context = self._context(handle)
        if isinstance(context, TextCoreContext):
            return context.text.metadata() if index == METADATA_INDEX else context.text.output()
        return get_output(self._nn, context, str(index)).data

    # Token by token

    def compute_single(self, handle: int) -> bool:
        """Make the next token; False when it was the last. InvalidArgument where the graph is no language model."""
        context = self._text_context(handle)
        context.check_loaded()
        with self._allowance(context) as allowance:
            return context.text.step(allowance)

    def output_single(self, handle: int, index: int) -> bytes:
        """Return the last token's bytes, or metadata."""
        text = self._text_context(handle).text
        return text.metadata() if index == METADATA_INDEX else text.last_piece()

    def fini_single(self, handle: int) -> None:
        """End the reply made token by token, and forget it."""
        self._text_context(handle).text.finish_steps()

    def is_text(self, handle: int) -> bool:
        """Return whether a context is on a language model."""
        return isinstance(self._context(handle), TextCoreContext)

    def _context(self, handle: int) -> CoreContext:
        return self._nn.resources.get(handle, CoreContext)

    def _text_context(self, handle: int) -> TextCoreContext:
        context = self._context(handle)
        if not isinstance(context, TextCoreContext):
            raise InvalidArgument("only a language model makes its output token by token")
        return context

    @contextmanager
    def _allowance(self, context: TextCoreContext) -> Iterator[Allowance]:
        with self._nn.costing(context, context.text.cancel) as left:
            yield Allowance(left, self._nn.deadline, self._print)
