"""A chat through wasi:nn/prompt. The words of the command line are one turn; without any, each line of stdin is a turn."""

import os
import sys

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import graph, prompt


class Run(exports.Run):
    def run(self) -> None:
        turns = [" ".join(sys.argv[1:])] if len(sys.argv) > 1 else map(str.strip, sys.stdin)
        try:
            chat = prompt.init(graph.load_by_name(os.environ.get("GRAPH", "chat")))
            for turn in filter(None, turns):
                print(chat.compute(turn), flush=True)
        except Err as error:
            # A sentence from `init` and `compute`, an error resource from `load_by_name`.
            print(error.value if isinstance(error.value, str) else error.value.data(), file=sys.stderr)
            raise Err(None) from error
