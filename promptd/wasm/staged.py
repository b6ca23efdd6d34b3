"""Inference in stages, as the older interfaces have it: inputs are set one by one, then computed, then outputs are
fetched, on execution contexts that take all inputs at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from promptd.errors import InvalidArgument, RuntimeFailure
from promptd.tensor import Tensor
from promptd.wasm.held import Execution, LoadedGraph
from promptd.wasm.nn import Nn

MOST_INPUTS = 1024


class Stages:
    """The inputs and outputs of one execution context between the calls of a guest."""

    def __init__(self) -> None:
        self._inputs: dict[str, Tensor] = {}
        self._outputs: list[tuple[str, Tensor]] | None = None

    @property
    def size(self) -> int:
        """Bytes of all tensors held."""
        outputs = {id(tensor): tensor for _, tensor in self._outputs or ()}
        outputs.update((id(tensor), tensor) for tensor in self._inputs.values())
        return sum(len(tensor.data) for tensor in outputs.values())

    def set_input(self, name: str, tensor: Tensor) -> None:
        """Set an input, or set it again."""
        if name not in self._inputs and len(self._inputs) >= MOST_INPUTS:
            raise InvalidArgument(f"a context takes {MOST_INPUTS} inputs at most")
        self._inputs[name] = tensor

    def compute(self, nn: Nn, execution: Execution) -> None:
        """Run the graph on the inputs set, which stay set; the outputs before are forgotten, whatever happens."""
        self._outputs = None
        self._outputs = nn.compute(execution, list(self._inputs.items()))

    def output(self, name: str) -> Tensor:
        """Return the output `name`: by position, or by name where the graph answers under the names of its inputs.

        Raises RuntimeFailure before a compute, InvalidArgument when there is no such output.
        """
        if self._outputs is None:
            raise RuntimeFailure("there is no output: compute first")
        by_name = dict(self._outputs)
        if name in by_name and by_name.keys() == self._inputs.keys():
            return by_name[name]
        if name.isdecimal() and name.isascii() and len(name) < 10 and int(name) < len(self._outputs):
            return self._outputs[int(name)][1]
        if name in by_name:
            return by_name[name]
        raise InvalidArgument(f"there is no output {name[:80]!r}; there are {len(self._outputs)}")


class StagedExecution(Execution):
    """An execution context that a guest holds, with its inputs and outputs."""

    def __init__(self, opened: Execution) -> None:
        super().__init__(opened.graph, opened.context)
        self.stages = Stages()

    @property
    def held_bytes(self) -> int:
        return self.stages.size


def open_staged(nn: Nn, graph: LoadedGraph) -> StagedExecution:
    """Open an execution context on `graph` whose inputs are set one by one."""
    return StagedExecution(nn.open_execution(graph))


def set_input(nn: Nn, execution: StagedExecution, name: str, tensor: Tensor) -> None:
    """Set an input, or set it again."""
    with _counting_bytes(nn, execution):
        execution.stages.set_input(name, tensor)


def compute(nn: Nn, execution: StagedExecution) -> None:
    """Run the graph on the inputs set; see `Stages.compute`."""
    with _counting_bytes(nn, execution):
        execution.stages.compute(nn, execution)


def get_output(_nn: Nn, execution: StagedExecution, name: str) -> Tensor:
    """Return an output; see `Stages.output`."""
    return execution.stages.output(name)


@contextmanager
def _counting_bytes(nn: Nn, execution: StagedExecution) -> Iterator[None]:
    before = execution.held_bytes
    try:
        yield
    finally:
        nn.hold_bytes(execution.held_bytes - before)
