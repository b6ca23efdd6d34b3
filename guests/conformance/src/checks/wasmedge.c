// The six functions WasmEdge adds to the core ABI, as far as an echo graph has them.
// https://github.com/WasmEdge/WasmEdge/tree/master/plugins/wasi_nn
#include "../nn_core.h"

NN("load_by_name_with_config")
uint32_t load_by_name_with_config(const char *name, size_t length, const char *config, size_t config_length, uint32_t *graph);
NN("compute_single") uint32_t compute_single(uint32_t context);
NN("get_output_single") uint32_t get_output_single(uint32_t context, uint32_t index, void *buffer, size_t size, uint32_t *written);
NN("fini_single") uint32_t fini_single(uint32_t context);
NN("unload") uint32_t unload(uint32_t graph);
NN("finalize_execution_context") uint32_t finalize_execution_context(uint32_t context);

enum { NEVER_GIVEN = 12345, ERRNO_MODEL_NOT_FOUND = 103 };

static const tensor WORD = {{(const uint32_t[]){4}, 1}, U8, "word", 4};

static bool expect_errno(const char *what, uint32_t got, enum errno expected) {
  return got == expected || fail("%s: errno %u and should be %u", what, got, expected);
}

static bool expect_invalid(const char *what, uint32_t got) {
  return expect_errno(what, got, ERRNO_INVALID_ARGUMENT);
}

static bool expect_success(const char *what, uint32_t got) {
  return expect_errno(what, got, ERRNO_SUCCESS);
}

static void *end_of_memory(void) {
  return (void *)memory_size();
}

static uint32_t load_with(string config, nn_graph *graph) {
  return load_by_name_with_config("echo", 4, config.data, config.length, (uint32_t *)graph);
}

static bool compute_word(nn_graph *graph, nn_context *context) {
  return load_echo(graph) && open_context(*graph, context) &&
         expect_code("set_input", nn_set_input(*context, STRING("0"), WORD), SUCCESS) &&
         expect_code("compute", nn_compute(*context), SUCCESS);
}

static bool expect_word(nn_context context) {
  tensor output;
  return expect_code("get_output", nn_get_output(context, STRING("0"), &output), SUCCESS) &&
         expect_tensor("the output", output, WORD);
}

CHECK(echo, "wasmedge/echo") {
  nn_graph graph;
  nn_context context;
  if (!load_echo(&graph)) { bail_out(); return; }
  EXPECT(open_context(graph, &context) && expect_echo(context, &WORD, 1));
}

// load_by_name_with_config

CHECK(config_of_no_keys, "wasmedge/config-empty-object") {
  nn_graph graph;
  nn_context context;
  EXPECT(expect_success("load_by_name_with_config", load_with(STRING("{}"), &graph)));
  EXPECT(open_context(graph, &context) && expect_echo(context, &WORD, 1));
}

CHECK(config_of_llm, "wasmedge/config-of-a-chat") {
  nn_graph graph;
  nn_context context;
  string config = STRING("{\"ctx-size\":512,\"enable-log\":false,\"n-gpu-layers\":0,\"n-predict\":512,\"stream-stdout\":false,\"temp\":0.1}");
  EXPECT(expect_success("load_by_name_with_config", load_with(config, &graph)));
  EXPECT(open_context(graph, &context) && expect_echo(context, &WORD, 1));
}

CHECK(config_of_unknown_name, "wasmedge/config-of-unknown-name") {
  uint32_t graph, errno = load_by_name_with_config("no-graph-has-this-name", 22, "{}", 2, &graph);
  EXPECT_THAT(errno == ERRNO_NOT_FOUND || errno == ERRNO_MODEL_NOT_FOUND, "errno %u and should be %u or %u", errno, ERRNO_NOT_FOUND,
              ERRNO_MODEL_NOT_FOUND);
}

CHECK(unknown_name, "wasmedge/unknown-name") {
  uint32_t graph, errno = load_by_name("no-graph-has-this-name", 22, &graph);
  EXPECT_THAT(errno == ERRNO_NOT_FOUND || errno == ERRNO_MODEL_NOT_FOUND, "errno %u and should be %u or %u", errno, ERRNO_NOT_FOUND,
              ERRNO_MODEL_NOT_FOUND);
}

CHECK(config_out_of_bounds, "wasmedge/config-out-of-bounds") {
  nn_graph graph;
  EXPECT(expect_invalid("load_by_name_with_config", load_with((string){end_of_memory(), 2}, &graph)));
  EXPECT(expect_invalid("load_by_name_with_config", load_with((string){(char *)8, UINT32_MAX}, &graph)));
}

CHECK(config_name_out_of_bounds, "wasmedge/config-name-out-of-bounds") {
  uint32_t graph;
  EXPECT(expect_invalid("load_by_name_with_config", load_by_name_with_config(end_of_memory(), 4, "{}", 2, &graph)));
}

CHECK(config_graph_pointer_out_of_bounds, "wasmedge/config-graph-pointer-out-of-bounds") {
  EXPECT(expect_invalid("load_by_name_with_config", load_with(STRING("{}"), end_of_memory())));
}

// unload

CHECK(unload_unknown, "wasmedge/unload-unknown") {
  EXPECT(expect_invalid("unload", unload(NEVER_GIVEN)) && expect_invalid("unload", unload(-1)));
}

CHECK(unload_twice, "wasmedge/unload-twice") {
  nn_graph graph;
  EXPECT(load_echo(&graph) && expect_success("unload", unload(graph)) && expect_invalid("the second unload", unload(graph)));
}

CHECK(open_after_unload, "wasmedge/open-after-unload") {
  nn_graph graph;
  nn_context context;
  EXPECT(load_echo(&graph) && expect_success("unload", unload(graph)));
  EXPECT(expect_code("init_execution_context", nn_open(graph, &context), INVALID_ARGUMENT));
}

CHECK(output_after_unload, "wasmedge/output-after-unload") {
  nn_graph graph;
  nn_context context;
  EXPECT(compute_word(&graph, &context) && expect_success("unload", unload(graph)) && expect_word(context));
}

CHECK(compute_after_unload, "wasmedge/compute-after-unload") {
  nn_graph graph;
  nn_context context;
  EXPECT(compute_word(&graph, &context) && expect_success("unload", unload(graph)));
  EXPECT(expect_code("compute", nn_compute(context), INVALID_ARGUMENT));
  EXPECT(expect_code("set_input", nn_set_input(context, STRING("0"), WORD), INVALID_ARGUMENT));
}

CHECK(reload, "wasmedge/reload") {
  for (size_t i = 0; i < 5; i++) {
    nn_graph graph;
    nn_context context;
    EXPECT(compute_word(&graph, &context) && expect_word(context) && expect_success("unload", unload(graph)));
  }
}

// finalize_execution_context

CHECK(finalize_unknown, "wasmedge/finalize-unknown") {
  EXPECT(expect_invalid("finalize_execution_context", finalize_execution_context(NEVER_GIVEN)));
}

CHECK(finalize_twice, "wasmedge/finalize-twice") {
  nn_context context;
  EXPECT(open_echo(&context) && expect_success("finalize_execution_context", finalize_execution_context(context)));
  EXPECT(expect_invalid("the second finalize_execution_context", finalize_execution_context(context)));
}

CHECK(compute_after_finalize, "wasmedge/compute-after-finalize") {
  nn_graph graph;
  nn_context context;
  tensor output;
  EXPECT(compute_word(&graph, &context) && expect_success("finalize_execution_context", finalize_execution_context(context)));
  EXPECT(expect_code("compute", nn_compute(context), INVALID_ARGUMENT));
  EXPECT(expect_code("set_input", nn_set_input(context, STRING("0"), WORD), INVALID_ARGUMENT));
  EXPECT(expect_code("get_output", nn_get_output(context, STRING("0"), &output), INVALID_ARGUMENT));
}

CHECK(finalize_after_unload, "wasmedge/finalize-after-unload") {
  nn_graph graph;
  nn_context context;
  EXPECT(compute_word(&graph, &context) && expect_success("unload", unload(graph)));
  EXPECT(expect_success("finalize_execution_context", finalize_execution_context(context)));
}

CHECK(finalize_others, "wasmedge/finalize-one-of-two") {
  nn_graph graph;
  nn_context first, second;
  EXPECT(load_echo(&graph) && open_context(graph, &first) && open_context(graph, &second));
  EXPECT(expect_success("finalize_execution_context", finalize_execution_context(first)) && expect_echo(second, &WORD, 1));
}

CHECK(contexts_in_a_row, "wasmedge/1000-contexts-in-a-row") {
  nn_graph graph;
  EXPECT(load_echo(&graph));
  for (size_t i = 0; i < 1000; i++) {
    nn_context context;
    EXPECT(open_context(graph, &context) && expect_success("finalize_execution_context", finalize_execution_context(context)));
  }
}

// compute_single and its kin: only language models have single tokens

CHECK(single_on_echo, "wasmedge/single-on-echo") {
  nn_context context;
  uint8_t buffer[8];
  uint32_t written;
  EXPECT(open_echo(&context) && expect_code("set_input", nn_set_input(context, STRING("0"), WORD), SUCCESS));
  EXPECT(expect_invalid("compute_single", compute_single(context)));
  EXPECT(expect_invalid("get_output_single", get_output_single(context, 0, buffer, sizeof buffer, &written)));
  EXPECT(expect_invalid("fini_single", fini_single(context)));
  EXPECT(expect_echo(context, &WORD, 1));
}

CHECK(single_of_unknown_context, "wasmedge/single-of-unknown-context") {
  uint8_t buffer[8];
  uint32_t written;
  EXPECT(expect_invalid("compute_single", compute_single(NEVER_GIVEN)));
  EXPECT(expect_invalid("get_output_single", get_output_single(NEVER_GIVEN, 0, buffer, sizeof buffer, &written)));
  EXPECT(expect_invalid("fini_single", fini_single(NEVER_GIVEN)));
}
