// Where `init` borrows the graph, the guest keeps it.
#include "../prompt.h"

CHECK(graph_kept, "prompt-borrow/graph-kept") {
  nn_graph graph;
  prompt_handle first, second;
  EXPECT(load_echo(&graph) && open_prompt(graph, &first) && open_prompt(graph, &second));
  EXPECT(expect_reply(first, STRING("first")) && expect_reply(second, STRING("second")));
}

CHECK(context_outlives_graph, "prompt-borrow/context-outlives-graph") {
  nn_graph graph;
  prompt_handle prompt;
  EXPECT(load_echo(&graph) && open_prompt(graph, &prompt));
  graph_drop(graph);
  EXPECT(expect_reply(prompt, STRING("alive")) && expect_reply(prompt, STRING("and well")));
}

CHECK(graph_outlives_context, "prompt-borrow/graph-outlives-context") {
  nn_graph graph;
  prompt_handle prompt;
  EXPECT(load_echo(&graph) && open_prompt(graph, &prompt));
  prompt_drop(prompt);
  EXPECT(open_prompt(graph, &prompt) && expect_reply(prompt, STRING("again")));
}

CHECK(one_graph_for_both, "prompt-borrow/beside-tensors-of-one-graph") {
  nn_graph graph;
  nn_context context;
  prompt_handle prompt;
  tensor value = {DIMENSIONS(6), U8, "tensor", 6};
  EXPECT(load_echo(&graph) && open_context(graph, &context) && open_prompt(graph, &prompt));
  for (size_t i = 0; i < 3; i++) EXPECT(expect_reply(prompt, STRING("prompt")) && expect_echo(context, &value, 1));
}
