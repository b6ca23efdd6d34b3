// Inference in one call, in 10-28 and phase 3: all tensors in, all tensors out.
#include "../nn_resources.h"

static tensor word(const char *zero_ended) {
  uint32_t *length = NEW(uint32_t, 1);
  *length = text(zero_ended).length;
  return (tensor){{length, 1}, U8, zero_ended, *length};
}

CHECK(compute_nothing, "coalesced/no-inputs") {
  nn_context context;
  EXPECT(open_echo(&context) && expect_code("compute", nn_infer(context, NULL, 0, NULL), SUCCESS));
}

CHECK(compute_in_order, "coalesced/order") {
  static const char *const NAMES[] = {"z", "a", "m", "10", "9", ""};
  nn_context context;
  named_handle inputs[LENGTH(NAMES)];
  outputs_result result;
  for (size_t i = 0; i < LENGTH(NAMES); i++) inputs[i] = (named_handle){text(NAMES[i]), make_tensor(word(NAMES[i]))};
  EXPECT(open_echo(&context));
  context_compute(context, inputs, LENGTH(inputs), &result);
  if (result.failed) EXPECT(expect_code("compute", take_error(true, result.error), SUCCESS));
  EXPECT(expect_equal("the number of outputs", result.count, LENGTH(NAMES)));
  for (size_t i = 0; i < LENGTH(NAMES); i++) {
    EXPECT_THAT(same(result.items[i].name, text(NAMES[i])), "output %u is named %t and should be %s", i, result.items[i].name, NAMES[i]);
    EXPECT(expect_tensor("the output", read_tensor(result.items[i].tensor), word(NAMES[i])));
  }
}

static bool expect_duplicates_refused(nn_context context) {
  named_tensor inputs[] = {{STRING("same"), word("one")}, {STRING("same"), word("other")}}, outputs[2];
  return expect_code("compute with two inputs of one name", nn_infer(context, inputs, 2, outputs), INVALID_ARGUMENT);
}

CHECK(compute_duplicates, "coalesced/duplicate-names") {
  nn_context context;
  EXPECT(open_echo(&context) && expect_duplicates_refused(context));
}

CHECK(compute_after_error, "coalesced/after-error") {
  nn_context context;
  tensor value = word("fine");
  EXPECT(open_echo(&context) && expect_duplicates_refused(context) && expect_echo(context, &value, 1));
}

CHECK(compute_hundred, "coalesced/100-tensors") {
  nn_context context;
  tensor values[100];
  for (size_t i = 0; i < LENGTH(values); i++) values[i] = word("one of a hundred");
  EXPECT(open_echo(&context) && expect_echo(context, values, LENGTH(values)));
}

// Feeds a tensor into a context and returns the handle of what comes out of it, without looking.
static bool pass_on(nn_context context, tensor_handle *handle) {
  outputs_result result;
  named_handle input = {STRING("state"), *handle};
  context_compute(context, &input, 1, &result);
  if (result.failed) return expect_code("compute", take_error(true, result.error), SUCCESS);
  if (!expect_equal("the number of outputs", result.count, 1)) return false;
  *handle = result.items[0].tensor;
  return true;
}

CHECK(compute_in_a_chain, "coalesced/chain") {
  nn_context context;
  tensor value = {DIMENSIONS(8, 8), FP32, noise(256, 1), 256};
  EXPECT(open_echo(&context));
  tensor_handle handle = make_tensor(value);
  for (size_t i = 0; i < 50; i++) EXPECT(pass_on(context, &handle));
  EXPECT(expect_tensor("the output", read_tensor(handle), value));
}

CHECK(compute_in_a_chain_of_contexts, "coalesced/chain-of-contexts") {
  nn_context contexts[4];
  tensor value = {DIMENSIONS(8, 8), FP32, noise(256, 2), 256};
  tensor_handle handle = make_tensor(value);
  for (size_t i = 0; i < LENGTH(contexts); i++) EXPECT(open_echo(&contexts[i]) && pass_on(contexts[i], &handle));
  for (size_t i = 0; i < LENGTH(contexts); i++) nn_drop_context(contexts[i]);
  EXPECT(expect_tensor("the output", read_tensor(handle), value));
}

CHECK(compute_on_another_output, "coalesced/output-after-next-compute") {
  nn_context context;
  EXPECT(open_echo(&context));
  tensor_handle first = make_tensor(word("first")), second = make_tensor(word("second"));
  EXPECT(pass_on(context, &first) && pass_on(context, &second));
  EXPECT(expect_tensor("the first output", read_tensor(first), word("first")));
  EXPECT(expect_tensor("the second output", read_tensor(second), word("second")));
}
