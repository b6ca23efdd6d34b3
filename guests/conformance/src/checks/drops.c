// Lifetimes: handles are dropped in any order, and what one stands for lives as long as something needs it.
#include "../nn_resources.h"

static const tensor VALUE = {{(const uint32_t[]){5}, 1}, U8, "alive", 5};

// The handle of an output of `context`.
static bool output_of(nn_context context, tensor_handle *output) {
#ifdef NN_COALESCED
  named_handle input = {STRING("0"), make_tensor(VALUE)};
  outputs_result result;
  context_compute(context, &input, 1, &result);
  if (result.failed) return expect_code("compute", take_error(true, result.error), SUCCESS);
  if (!expect_equal("the number of outputs", result.count, 1)) return false;
  *output = result.items[0].tensor;
  return true;
#else
  handle_result result;
  if (!expect_code("set-input", nn_set_input(context, STRING("0"), VALUE), SUCCESS)) return false;
  if (!expect_code("compute", nn_compute(context), SUCCESS)) return false;
  context_get_output(context, "0", 1, &result);
  *output = result.handle;
  return expect_code("get-output", take_error(result.failed, result.error), SUCCESS);
#endif
}

CHECK(context_outlives_graph, "drops/context-outlives-graph") {
  nn_graph graph;
  nn_context context;
  EXPECT(load_echo(&graph) && open_context(graph, &context));
  nn_drop_graph(graph);
  EXPECT(expect_echo(context, &VALUE, 1) && expect_echo(context, &VALUE, 1));
}

CHECK(graph_outlives_context, "drops/graph-outlives-context") {
  nn_graph graph;
  nn_context first, second;
  EXPECT(load_echo(&graph) && open_context(graph, &first));
  nn_drop_context(first);
  EXPECT(open_context(graph, &second) && expect_echo(second, &VALUE, 1));
}

CHECK(graph_outlives_its_twin, "drops/graph-outlives-its-twin") {
  nn_graph first, second;
  nn_context context;
  EXPECT(load_echo(&first) && load_echo(&second));
  nn_drop_graph(first);
  EXPECT(open_context(second, &context) && expect_echo(context, &VALUE, 1));
}

CHECK(context_outlives_its_twin, "drops/context-outlives-its-twin") {
  nn_graph graph;
  nn_context first, second;
  EXPECT(load_echo(&graph) && open_context(graph, &first) && open_context(graph, &second));
  EXPECT(expect_echo(first, &VALUE, 1));
  nn_drop_context(first);
  EXPECT(expect_echo(second, &VALUE, 1));
}

CHECK(output_outlives_all, "drops/output-outlives-all") {
  nn_graph graph;
  nn_context context;
  tensor_handle output;
  EXPECT(load_echo(&graph) && open_context(graph, &context) && output_of(context, &output));
  nn_drop_context(context);
  nn_drop_graph(graph);
  EXPECT(expect_tensor("the output", read_tensor(output), VALUE));
}

CHECK(drop_in_all_orders, "drops/all-orders") {
  static const uint8_t ORDERS[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
  for (size_t i = 0; i < LENGTH(ORDERS); i++) {
    nn_graph graph;
    nn_context context;
    tensor_handle output;
    EXPECT(load_echo(&graph) && open_context(graph, &context) && output_of(context, &output));
    for (size_t j = 0; j < 3; j++) {
      if (ORDERS[i][j] == 0) nn_drop_graph(graph);
      else if (ORDERS[i][j] == 1) nn_drop_context(context);
      else tensor_drop(output);
    }
  }
}

CHECK(drop_unused_context, "drops/unused-context") {
  nn_graph graph;
  nn_context context;
  EXPECT(load_echo(&graph) && open_context(graph, &context));
  nn_drop_context(context);
  nn_drop_graph(graph);
}

#ifndef NN_COALESCED
CHECK(drop_context_with_input, "drops/context-with-input") {
  nn_context context;
  EXPECT(open_echo(&context) && expect_code("set-input", nn_set_input(context, STRING("0"), VALUE), SUCCESS));
  nn_drop_context(context);
}
#endif

CHECK(contexts_in_a_row, "drops/1000-contexts-in-a-row") {
  nn_graph graph;
  EXPECT(load_echo(&graph));
  for (size_t i = 0; i < 1000; i++) {
    nn_context context;
    EXPECT(open_context(graph, &context));
    nn_drop_context(context);
  }
}

CHECK(graphs_in_a_row, "drops/1000-graphs-in-a-row") {
  for (size_t i = 0; i < 1000; i++) {
    nn_graph graph;
    EXPECT(load_echo(&graph));
    nn_drop_graph(graph);
  }
}

CHECK(handles_left_open, "drops/left-open") {
  nn_graph graph;
  nn_context context;
  tensor_handle output;
  EXPECT(load_echo(&graph) && open_context(graph, &context) && output_of(context, &output));
  make_tensor(VALUE);
}
