// A chat through wasi:nn/prompt. The words of the command line are one turn; without any, each line of stdin is a turn.
import { getArguments, getEnvironment } from "wasi:cli/environment@0.2.0";
import { load } from "wasi:nn/graph@0.2.0-rc-phase-3";
import { init } from "wasi:nn/prompt@0.2.0-rc-phase-3";
import { lines, print, printError } from "./stdio.js";

function chat() {
  const words = getArguments().slice(1);
  const { GRAPH = "chat" } = Object.fromEntries(getEnvironment());
  const context = init(load(GRAPH));
  for (const turn of words.length > 0 ? [words.join(" ")] : lines()) {
    if (turn) print(context.compute(turn));
  }
}

export const run = {
  run() {
    try {
      chat();
    } catch (error) {
      // A sentence from `init` and `compute`, an error resource from `load`.
      const reason = error.payload ?? error;
      printError(reason.data?.() ?? String(reason));
      throw undefined;
    }
  },
};
