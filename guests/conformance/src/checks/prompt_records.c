// Prompts in U1, where a graph is a number that the host has to check for itself.
#include "../prompt.h"

CHECK(graph_unknown, "prompt-records/graph-unknown") {
  prompt_init_result result;
  prompt_init(12345, &result);
  EXPECT_THAT(result.failed, "init accepted a graph that was never loaded");
  static const char CODE[] = "invalid-argument: ";
  enum { SIZE = sizeof CODE - 1 };
  string start = {result.error.data, result.error.length < SIZE ? result.error.length : SIZE};
  EXPECT_THAT(same(start, STRING(CODE)), "the error is \"%t\" and should start with \"%s\"", result.error, CODE);
}

CHECK(graph_kept, "prompt-records/graph-kept") {
  nn_graph graph;
  prompt_handle first, second;
  EXPECT(load_echo(&graph) && open_prompt(graph, &first) && open_prompt(graph, &second));
  EXPECT(expect_reply(first, STRING("first")) && expect_reply(second, STRING("second")));
}
