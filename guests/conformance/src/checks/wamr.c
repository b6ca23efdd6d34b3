// The ABI that WAMR calls wasi_nn, and legacy: lists are records behind a pointer, sizes of outputs count numbers of 4 bytes.
// https://github.com/bytecodealliance/wasm-micro-runtime/blob/main/core/iwasm/libraries/wasi-nn/include/wasi_nn.h
#include "../suite.h"

#define NN(name) IMPORT("wasi_nn", name)

typedef struct { const uint32_t *items; size_t count; } wamr_dimensions;
typedef struct { const wamr_dimensions *dimensions; uint8_t type, padding[3]; const void *data; } wamr_tensor;
typedef struct { const string *builders; size_t count; } wamr_builders;

enum { WAMR_FP16, WAMR_FP32, WAMR_U8, WAMR_I32 };
enum errno { SUCCESS, INVALID_ARGUMENT, INVALID_ENCODING, TOO_LARGE = 7, NOT_FOUND };
enum { NEVER_GIVEN = 12345 };

NN("load") uint32_t load(const wamr_builders *, uint32_t encoding, uint32_t target, uint32_t *graph);
NN("load_by_name") uint32_t load_by_name(const char *name, size_t length, uint32_t *graph);
NN("init_execution_context") uint32_t init_execution_context(uint32_t graph, uint32_t *context);
NN("set_input") uint32_t set_input(uint32_t context, uint32_t index, const wamr_tensor *);
NN("compute") uint32_t compute(uint32_t context);
NN("get_output") uint32_t get_output(uint32_t context, uint32_t index, float *buffer, uint32_t *count);

static const uint32_t SHAPE[] = {2, 3};
static const wamr_dimensions TWO_BY_THREE = {SHAPE, 2};
static const float NUMBERS[] = {1, -2, 3.5f, 0, 1e30f, 6};
static const wamr_tensor MATRIX = {&TWO_BY_THREE, WAMR_FP32, {0}, NUMBERS};

static bool expect(const char *what, uint32_t got, enum errno expected) {
  return got == expected || fail("%s: errno %u and should be %u", what, got, expected);
}

static void *end_of_memory(void) {
  return (void *)memory_size();
}

static bool open_echo(uint32_t *context) {
  uint32_t graph;
  return expect("load_by_name", load_by_name("echo", 4, &graph), SUCCESS) &&
         expect("init_execution_context", init_execution_context(graph, context), SUCCESS);
}

static bool compute_echo(uint32_t *context, const wamr_tensor *tensor) {
  return open_echo(context) && expect("set_input", set_input(*context, 0, tensor), SUCCESS) &&
         expect("compute", compute(*context), SUCCESS);
}

static bool expect_numbers(uint32_t context, const void *numbers, uint32_t expected_count) {
  float buffer[16];
  uint32_t count = LENGTH(buffer);
  return expect("get_output", get_output(context, 0, buffer, &count), SUCCESS) &&
         expect_equal("the number of numbers in the output", count, expected_count) &&
         expect_bytes("the output", buffer, count * 4, numbers, expected_count * 4);
}

CHECK(echo, "wamr/echo") {
  uint32_t context;
  if (!open_echo(&context)) { bail_out(); return; }
  EXPECT(compute_echo(&context, &MATRIX) && expect_numbers(context, NUMBERS, LENGTH(NUMBERS)));
}

CHECK(echo_integers, "wamr/echo-i32") {
  static const int32_t INTEGERS[] = {1, -2, 3, INT32_MIN, INT32_MAX, 0};
  uint32_t context;
  EXPECT(compute_echo(&context, &(wamr_tensor){&TWO_BY_THREE, WAMR_I32, {0}, INTEGERS}));
  EXPECT(expect_numbers(context, INTEGERS, LENGTH(INTEGERS)));
}

CHECK(echo_again, "wamr/compute-again") {
  uint32_t context;
  float others[] = {6, 5, 4, 3, 2, 1};
  EXPECT(compute_echo(&context, &MATRIX));
  EXPECT(expect("set_input", set_input(context, 0, &(wamr_tensor){&TWO_BY_THREE, WAMR_FP32, {0}, others}), SUCCESS));
  EXPECT(expect("compute", compute(context), SUCCESS) && expect_numbers(context, others, LENGTH(others)));
}

CHECK(echo_in_two_contexts, "wamr/two-contexts") {
  uint32_t left, right;
  float others[] = {6, 5, 4, 3, 2, 1};
  EXPECT(compute_echo(&left, &MATRIX) && compute_echo(&right, &(wamr_tensor){&TWO_BY_THREE, WAMR_FP32, {0}, others}));
  EXPECT(expect_numbers(left, NUMBERS, LENGTH(NUMBERS)) && expect_numbers(right, others, LENGTH(others)));
}

CHECK(output_exact, "wamr/output-buffer-exact") {
  uint32_t context, count = LENGTH(NUMBERS);
  float buffer[LENGTH(NUMBERS)];
  EXPECT(compute_echo(&context, &MATRIX) && expect("get_output", get_output(context, 0, buffer, &count), SUCCESS));
  EXPECT(expect_equal("the number of numbers in the output", count, LENGTH(NUMBERS)));
}

CHECK(output_too_small, "wamr/output-buffer-too-small") {
  uint32_t context, count = LENGTH(NUMBERS) - 1;
  float buffer[LENGTH(NUMBERS)] = {0};
  static const float ZEROS[LENGTH(NUMBERS)];
  EXPECT(compute_echo(&context, &MATRIX) && expect("get_output", get_output(context, 0, buffer, &count), TOO_LARGE));
  EXPECT(expect_bytes("the buffer", buffer, sizeof buffer, ZEROS, sizeof ZEROS));
}

CHECK(unknown_name, "wamr/unknown-name") {
  uint32_t graph;
  EXPECT(expect("load_by_name", load_by_name("no-graph-has-this-name", 22, &graph), NOT_FOUND));
}

CHECK(load_garbage, "wamr/load-garbage") {
  static const string GARBAGE = {(char *)"the bytes of no model", 21};
  static const wamr_builders BUILDERS = {&GARBAGE, 1};
  uint32_t graph;
  for (uint32_t encoding = 0; encoding < 7; encoding++) EXPECT(expect("load", load(&BUILDERS, encoding, 0, &graph), INVALID_ENCODING));
  EXPECT(expect("load", load(&BUILDERS, 99, 0, &graph), INVALID_ENCODING));
}

CHECK(graph_unknown, "wamr/graph-unknown") {
  uint32_t context;
  EXPECT(expect("init_execution_context", init_execution_context(NEVER_GIVEN, &context), INVALID_ARGUMENT));
}

CHECK(context_unknown, "wamr/context-unknown") {
  float buffer[1];
  uint32_t count = 1;
  EXPECT(expect("set_input", set_input(NEVER_GIVEN, 0, &MATRIX), INVALID_ARGUMENT));
  EXPECT(expect("compute", compute(NEVER_GIVEN), INVALID_ARGUMENT));
  EXPECT(expect("get_output", get_output(NEVER_GIVEN, 0, buffer, &count), INVALID_ARGUMENT));
}

CHECK(type_out_of_range, "wamr/type-out-of-range") {
  uint32_t context;
  EXPECT(open_echo(&context));
  uint32_t errno = set_input(context, 0, &(wamr_tensor){&TWO_BY_THREE, 200, {0}, NUMBERS});
  EXPECT(expect("set_input and compute", errno ? errno : compute(context), INVALID_ARGUMENT));
}

CHECK(pointers_out_of_bounds, "wamr/pointers-out-of-bounds") {
  uint32_t context, graph, count = 6;
  float buffer[6];
  wamr_dimensions nowhere = {end_of_memory(), 2};
  EXPECT(compute_echo(&context, &MATRIX));
  EXPECT(expect("load_by_name", load_by_name(end_of_memory(), 4, &graph), INVALID_ARGUMENT));
  EXPECT(expect("load_by_name", load_by_name("echo", 4, end_of_memory()), INVALID_ARGUMENT));
  EXPECT(expect("load", load(end_of_memory(), 1, 0, &graph), INVALID_ARGUMENT));
  EXPECT(expect("set_input", set_input(context, 0, end_of_memory()), INVALID_ARGUMENT));
  EXPECT(expect("set_input", set_input(context, 0, &(wamr_tensor){end_of_memory(), WAMR_FP32, {0}, NUMBERS}), INVALID_ARGUMENT));
  EXPECT(expect("set_input", set_input(context, 0, &(wamr_tensor){&nowhere, WAMR_FP32, {0}, NUMBERS}), INVALID_ARGUMENT));
  EXPECT(expect("set_input", set_input(context, 0, &(wamr_tensor){&TWO_BY_THREE, WAMR_FP32, {0}, end_of_memory()}), INVALID_ARGUMENT));
  EXPECT(expect("get_output", get_output(context, 0, end_of_memory(), &count), INVALID_ARGUMENT));
  EXPECT(expect("get_output", get_output(context, 0, buffer, end_of_memory()), INVALID_ARGUMENT));
}
