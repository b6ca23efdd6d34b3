// Inference in steps, in all versions but 10-28 and phase 3: set-input, compute, get-output.
#include "../nn.h"

static const string FIRST = {(char *)"0", 1}, SECOND = {(char *)"1", 1}, OTHER = {(char *)"5", 1};

static tensor word(const char *zero_ended) {
  uint32_t *length = NEW(uint32_t, 1);
  *length = text(zero_ended).length;
  return (tensor){{length, 1}, U8, zero_ended, *length};
}

static bool set(nn_context context, string name, tensor value) {
  return expect_code("set-input", nn_set_input(context, name, value), SUCCESS);
}

static bool compute_once(nn_context context) {
  return expect_code("compute", nn_compute(context), SUCCESS);
}

static bool expect_output(nn_context context, string name, tensor expected) {
  tensor output;
  return expect_code("get-output", nn_get_output(context, name, &output), SUCCESS) && expect_tensor("the output", output, expected);
}

static bool expect_no_output(nn_context context, string name, enum code expected) {
  tensor output;
  return expect_code("get-output", nn_get_output(context, name, &output), expected);
}

CHECK(output_before_input, "staged/output-before-input") {
  nn_context context;
  EXPECT(open_echo(&context) && expect_no_output(context, FIRST, RUNTIME_ERROR));
}

CHECK(output_before_compute, "staged/output-before-compute") {
  nn_context context;
  EXPECT(open_echo(&context) && set(context, FIRST, word("too early")));
  EXPECT(expect_no_output(context, FIRST, RUNTIME_ERROR));
  EXPECT(compute_once(context) && expect_output(context, FIRST, word("too early")));
}

CHECK(unknown_output, "staged/unknown-output") {
  nn_context context;
  EXPECT(open_echo(&context) && set(context, FIRST, word("known")) && compute_once(context));
  EXPECT(expect_no_output(context, OTHER, INVALID_ARGUMENT));
  EXPECT(expect_output(context, FIRST, word("known")));
}

CHECK(input_twice, "staged/input-twice") {
  nn_context context;
  EXPECT(open_echo(&context) && set(context, FIRST, word("first")) && set(context, FIRST, word("the second")));
  EXPECT(compute_once(context) && expect_output(context, FIRST, word("the second")));
}

CHECK(input_is_a_copy, "staged/input-copied") {
  nn_context context;
  uint8_t bytes[] = "before";
  uint32_t dimension = 6;
  tensor value = {{&dimension, 1}, U8, bytes, 6};
  EXPECT(open_echo(&context) && set(context, FIRST, value));
  __builtin_memset(bytes, 0, sizeof bytes);
  dimension = 0;
  EXPECT(compute_once(context) && expect_output(context, FIRST, word("before")));
}

CHECK(inputs_in_any_order, "staged/inputs-in-any-order") {
  nn_context context;
  EXPECT(open_echo(&context) && set(context, SECOND, word("second")) && set(context, FIRST, word("first")));
  EXPECT(compute_once(context));
  EXPECT(expect_output(context, FIRST, word("first")) && expect_output(context, SECOND, word("second")));
}

CHECK(outputs_in_any_order, "staged/outputs-in-any-order") {
  nn_context context;
  EXPECT(open_echo(&context) && set(context, FIRST, word("first")) && set(context, SECOND, word("second")));
  EXPECT(compute_once(context));
  EXPECT(expect_output(context, SECOND, word("second")) && expect_output(context, FIRST, word("first")));
}

CHECK(output_twice, "staged/output-twice") {
  nn_context context;
  EXPECT(open_echo(&context) && set(context, FIRST, word("again")) && compute_once(context));
  EXPECT(expect_output(context, FIRST, word("again")) && expect_output(context, FIRST, word("again")));
}

CHECK(compute_without_new_input, "staged/compute-twice") {
  nn_context context;
  EXPECT(open_echo(&context) && set(context, FIRST, word("kept")));
  EXPECT(compute_once(context) && compute_once(context) && expect_output(context, FIRST, word("kept")));
}

CHECK(compute_without_input, "staged/compute-without-input") {
  nn_context context;
  EXPECT(open_echo(&context) && expect_failure("compute without inputs", nn_compute(context), SUCCESS, INVALID_ARGUMENT));
  EXPECT(set(context, FIRST, word("now")) && compute_once(context) && expect_output(context, FIRST, word("now")));
}

CHECK(other_type_later, "staged/other-type-later") {
  nn_context context;
  tensor numbers = {DIMENSIONS(2, 2), FP32, noise(16, 1), 16};
  EXPECT(open_echo(&context) && set(context, FIRST, word("text")) && compute_once(context));
  EXPECT(set(context, FIRST, numbers) && compute_once(context) && expect_output(context, FIRST, numbers));
}

CHECK(contexts_interleaved, "staged/contexts-interleaved") {
  nn_graph graph;
  nn_context left, right;
  EXPECT(load_echo(&graph) && open_context(graph, &left) && open_context(graph, &right));
  EXPECT(set(left, FIRST, word("left")) && set(right, FIRST, word("right")));
  EXPECT(compute_once(left) && compute_once(right));
  EXPECT(expect_output(left, FIRST, word("left")) && expect_output(right, FIRST, word("right")));
}

CHECK(context_without_input_of_another, "staged/contexts-apart") {
  nn_graph graph;
  nn_context left, right;
  EXPECT(load_echo(&graph) && open_context(graph, &left) && open_context(graph, &right));
  EXPECT(set(left, FIRST, word("left")) && compute_once(left));
  EXPECT(expect_no_output(right, FIRST, RUNTIME_ERROR));
}
