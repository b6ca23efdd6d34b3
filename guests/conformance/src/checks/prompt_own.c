// Where `init` takes the graph away, as in wasi-nn pull request 79, the guest no longer has it.
#include "../prompt.h"

CHECK(graph_given, "prompt-own/graph-given") {
  nn_graph first, second;
  prompt_handle one, other;
  EXPECT(load_echo(&first) && load_echo(&second) && open_prompt(first, &one) && open_prompt(second, &other));
  EXPECT(expect_reply(one, STRING("one")) && expect_reply(other, STRING("other")));
}

CHECK(context_of_given_graph, "prompt-own/tensors-of-given-graph") {
  nn_graph graph;
  nn_context context;
  prompt_handle prompt;
  tensor value = {DIMENSIONS(6), U8, "tensor", 6};
  EXPECT(load_echo(&graph) && open_context(graph, &context) && open_prompt(graph, &prompt));
  EXPECT(expect_echo(context, &value, 1) && expect_reply(prompt, STRING("prompt")));
  prompt_drop(prompt);
  EXPECT(expect_echo(context, &value, 1));
}

TRAPS(graph_used_after, "prompt-own/graph-used-after") {
  nn_graph graph;
  prompt_handle prompt;
  handle_result result;
  EXPECT(load_echo(&graph) && open_prompt(graph, &prompt));
  graph_init(graph, &result);
}

TRAPS(graph_given_twice, "prompt-own/graph-given-twice") {
  nn_graph graph;
  prompt_handle prompt;
  EXPECT(load_echo(&graph) && open_prompt(graph, &prompt));
  open_prompt(graph, &prompt);
}
