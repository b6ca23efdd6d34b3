// What only the core ABI can get wrong: numbers that are no handles, numbers of no enum, places that are not in memory, buffers that
// are too small.
#include "../nn_core.h"

enum { NEVER_GIVEN = 12345 };

static const uint32_t FOUR = 4;
static const core_tensor WORD = {&FOUR, 1, CORE_U8, {0}, "word", 4};

static bool expect_errno(const char *what, uint32_t got, enum errno expected) {
  return got == expected || fail("%s: errno %u and should be %u", what, got, expected);
}

static bool expect_invalid(const char *what, uint32_t got) {
  return expect_errno(what, got, ERRNO_INVALID_ARGUMENT);
}

static void *end_of_memory(void) {
  return (void *)memory_size();
}

static uint32_t *odd(void) {
  static uint32_t words[8];
  return (uint32_t *)((char *)words + 1);
}

// A context that has computed the echo of `input`.
static bool compute_echo(uint32_t *context, const core_tensor *input) {
  return open_echo((nn_context *)context) && expect_errno("set_input", set_input(*context, 0, input), ERRNO_SUCCESS) &&
         expect_errno("compute", compute(*context), ERRNO_SUCCESS);
}

// Handles

CHECK(graph_unknown, "core/graph-unknown") {
  uint32_t context;
  EXPECT(expect_invalid("init_execution_context", init_execution_context(NEVER_GIVEN, &context)));
  EXPECT(expect_invalid("init_execution_context", init_execution_context(-1, &context)));
}

CHECK(context_unknown_to_set_input, "core/set-input-of-unknown-context") {
  EXPECT(expect_invalid("set_input", set_input(NEVER_GIVEN, 0, &WORD)) && expect_invalid("set_input", set_input(-1, 0, &WORD)));
}

CHECK(context_unknown_to_compute, "core/compute-of-unknown-context") {
  EXPECT(expect_invalid("compute", compute(NEVER_GIVEN)) && expect_invalid("compute", compute(-1)));
}

CHECK(context_unknown_to_get_output, "core/get-output-of-unknown-context") {
  uint8_t buffer[8];
  uint32_t written;
  EXPECT(expect_invalid("get_output", get_output(NEVER_GIVEN, 0, buffer, sizeof buffer, &written)));
}

CHECK(contexts_distinct, "core/contexts-distinct") {
  nn_graph graph;
  nn_context contexts[8];
  EXPECT(load_echo(&graph));
  for (size_t i = 0; i < LENGTH(contexts); i++) {
    EXPECT(open_context(graph, &contexts[i]));
    for (size_t j = 0; j < i; j++) EXPECT_THAT(contexts[i] != contexts[j], "contexts %u and %u have the same handle", j, i);
  }
}

// Numbers of enums

static uint32_t load_garbage(uint32_t encoding, uint32_t target) {
  uint32_t graph;
  return load(&STRING("the bytes of no model"), 1, encoding, target, &graph);
}

CHECK(encoding_out_of_range, "core/encoding-out-of-range") {
  static const uint32_t NUMBERS[] = {99, 255, 256, INT32_MAX, UINT32_MAX};
  for (size_t i = 0; i < LENGTH(NUMBERS); i++) EXPECT(expect_errno("load", load_garbage(NUMBERS[i], CPU), ERRNO_INVALID_ENCODING));
}

CHECK(encoding_of_ggml, "core/encoding-5-and-6") {
  EXPECT(expect_errno("load with encoding 5", load_garbage(5, CPU), ERRNO_INVALID_ENCODING));
  EXPECT(expect_errno("load with encoding 6", load_garbage(6, CPU), ERRNO_INVALID_ENCODING));
}

CHECK(target_auto, "core/target-auto") {
  EXPECT(expect_errno("load for target 3", load_garbage(CORE_AUTODETECT, 3), ERRNO_INVALID_ENCODING));
}

CHECK(target_out_of_range, "core/target-out-of-range") {
  EXPECT(expect_invalid("load for target 4", load_garbage(CORE_AUTODETECT, 4)));
  EXPECT(expect_invalid("load for target -1", load_garbage(CORE_AUTODETECT, -1)));
}

// `set_input` may refuse an input at once, or leave that to `compute`.
static bool expect_input_refused(const core_tensor *tensor) {
  nn_context context;
  if (!open_echo(&context)) return false;
  uint32_t errno = set_input(context, 0, tensor);
  return expect_invalid("set_input and compute", errno ? errno : compute(context));
}

CHECK(type_out_of_range, "core/type-out-of-range") {
  static const uint8_t TYPES[] = {6, 7, 128, 255};
  for (size_t i = 0; i < LENGTH(TYPES); i++) EXPECT(expect_input_refused(&(core_tensor){&FOUR, 1, TYPES[i], {0}, "word", 4}));
}

CHECK(type_padding, "core/type-padding") {
  uint32_t context, written;
  uint8_t buffer[4];
  EXPECT(compute_echo(&context, &(core_tensor){&FOUR, 1, CORE_U8, {0xff, 0xee, 0xdd}, "word", 4}));
  EXPECT(expect_errno("get_output", get_output(context, 0, buffer, sizeof buffer, &written), ERRNO_SUCCESS));
  EXPECT(expect_bytes("the output", buffer, written, "word", 4));
}

// Places in memory

CHECK(name_out_of_bounds, "core/name-out-of-bounds") {
  uint32_t graph;
  EXPECT(expect_invalid("load_by_name", load_by_name(end_of_memory(), 4, &graph)));
  EXPECT(expect_invalid("load_by_name", load_by_name((char *)end_of_memory() - 2, 4, &graph)));
}

CHECK(name_length_overflow, "core/name-length-overflow") {
  uint32_t graph;
  EXPECT(expect_invalid("load_by_name", load_by_name("echo", UINT32_MAX, &graph)));
  EXPECT(expect_invalid("load_by_name", load_by_name((char *)-4, 4, &graph)));
  EXPECT(expect_invalid("load_by_name", load_by_name((char *)-4, 8, &graph)));
}

CHECK(name_not_utf8, "core/name-not-utf8") {
  static const char *const NAMES[] = {"\xff", "\xed\xa0\x80", "\xc1\xa5" "cho", "\xe2\x82", "\xf4\x90\x80\x80", "echo\x80"};
  for (size_t i = 0; i < LENGTH(NAMES); i++) {
    nn_graph graph;
    EXPECT(expect_code("load_by_name", nn_load(text(NAMES[i]), &graph), INVALID_ARGUMENT));
  }
}

CHECK(graph_pointer_out_of_bounds, "core/graph-pointer-out-of-bounds") {
  EXPECT(expect_invalid("load_by_name", load_by_name("echo", 4, end_of_memory())));
  EXPECT(expect_invalid("load_by_name", load_by_name("echo", 4, (uint32_t *)-4)));
}

CHECK(graph_pointer_misaligned, "core/graph-pointer-misaligned") {
  EXPECT(expect_invalid("load_by_name", load_by_name("echo", 4, odd())));
}

CHECK(context_pointer_out_of_bounds, "core/context-pointer-out-of-bounds") {
  nn_graph graph;
  EXPECT(load_echo(&graph));
  EXPECT(expect_invalid("init_execution_context", init_execution_context(graph, end_of_memory())));
}

CHECK(builders_out_of_bounds, "core/builders-out-of-bounds") {
  uint32_t graph;
  EXPECT(expect_invalid("load", load(end_of_memory(), 1, ONNX, CPU, &graph)));
  EXPECT(expect_invalid("load", load(&STRING("x"), 0x20000000, ONNX, CPU, &graph)));  // times 8 bytes is 2^32
  EXPECT(expect_invalid("load", load(&STRING("x"), UINT32_MAX, ONNX, CPU, &graph)));
}

CHECK(builders_misaligned, "core/builders-misaligned") {
  uint32_t graph;
  EXPECT(expect_invalid("load", load((string *)odd(), 1, ONNX, CPU, &graph)));
}

CHECK(builder_out_of_bounds, "core/builder-out-of-bounds") {
  uint32_t graph;
  EXPECT(expect_invalid("load", load(&(string){end_of_memory(), 1}, 1, ONNX, CPU, &graph)));
  EXPECT(expect_invalid("load", load(&(string){(char *)8, UINT32_MAX}, 1, ONNX, CPU, &graph)));
}

CHECK(tensor_out_of_bounds, "core/tensor-out-of-bounds") {
  EXPECT(expect_input_refused(end_of_memory()));
  EXPECT(expect_input_refused((core_tensor *)((char *)end_of_memory() - 16)));
}

CHECK(tensor_misaligned, "core/tensor-misaligned") {
  EXPECT(expect_input_refused((core_tensor *)odd()));
}

CHECK(dimensions_out_of_bounds, "core/dimensions-out-of-bounds") {
  EXPECT(expect_input_refused(&(core_tensor){end_of_memory(), 1, CORE_U8, {0}, "word", 4}));
  EXPECT(expect_input_refused(&(core_tensor){&FOUR, 0x40000001, CORE_U8, {0}, "word", 4}));  // times 4 bytes is 2^32 + 4
  EXPECT(expect_input_refused(&(core_tensor){&FOUR, UINT32_MAX, CORE_U8, {0}, "word", 4}));
}

CHECK(data_out_of_bounds, "core/data-out-of-bounds") {
  EXPECT(expect_input_refused(&(core_tensor){&FOUR, 1, CORE_U8, {0}, end_of_memory(), 4}));
  EXPECT(expect_input_refused(&(core_tensor){&FOUR, 1, CORE_U8, {0}, (char *)end_of_memory() - 2, 4}));
  EXPECT(expect_input_refused(&(core_tensor){&FOUR, 1, CORE_U8, {0}, "word", UINT32_MAX}));
}

CHECK(input_kept_after_bad_one, "core/input-kept-after-bad-pointer") {
  uint32_t context, written;
  uint8_t buffer[4];
  EXPECT(open_echo((nn_context *)&context) && expect_errno("set_input", set_input(context, 0, &WORD), ERRNO_SUCCESS));
  EXPECT(expect_invalid("set_input", set_input(context, 0, end_of_memory())));
  EXPECT(expect_errno("compute", compute(context), ERRNO_SUCCESS));
  EXPECT(expect_errno("get_output", get_output(context, 0, buffer, sizeof buffer, &written), ERRNO_SUCCESS));
  EXPECT(expect_bytes("the output", buffer, written, "word", 4));
}

CHECK(memory_grown, "core/memory-grown") {
  enum { SIZE = 8 << 20 };
  uint32_t context, *written;
  uint8_t *large = noise(SIZE, 1);
  uint32_t dimension = SIZE;
  EXPECT(compute_echo(&context, &(core_tensor){&dimension, 1, CORE_U8, {0}, large, SIZE}));
  size_t grown = __builtin_wasm_memory_grow(0, SIZE / 65536 + 1);
  EXPECT_THAT(grown != (size_t)-1, "the host gave no more memory");
  uint8_t *buffer = (uint8_t *)(grown * 65536);
  written = (uint32_t *)(buffer + SIZE);
  EXPECT(expect_errno("get_output", get_output(context, 0, buffer, SIZE, written), ERRNO_SUCCESS));
  EXPECT(expect_bytes("the output", buffer, *written, large, SIZE));
}

// Outputs

CHECK(output_buffer_exact, "core/output-buffer-exact") {
  uint32_t context, written = 0;
  uint8_t buffer[] = "....untouched";
  EXPECT(compute_echo(&context, &WORD));
  EXPECT(expect_errno("get_output", get_output(context, 0, buffer, 4, &written), ERRNO_SUCCESS));
  EXPECT(expect_equal("the number of bytes written", written, 4));
  EXPECT(expect_bytes("the buffer", buffer, sizeof buffer, "worduntouched", sizeof buffer));
}

CHECK(output_buffer_larger, "core/output-buffer-larger") {
  uint32_t context, written = 0;
  uint8_t buffer[] = "....untouched";
  EXPECT(compute_echo(&context, &WORD));
  EXPECT(expect_errno("get_output", get_output(context, 0, buffer, sizeof buffer, &written), ERRNO_SUCCESS));
  EXPECT(expect_equal("the number of bytes written", written, 4));
  EXPECT(expect_bytes("the buffer", buffer, sizeof buffer, "worduntouched", sizeof buffer));
}

CHECK(output_buffer_too_small, "core/output-buffer-too-small") {
  uint32_t context, written;
  uint8_t buffer[] = "untouched";
  EXPECT(compute_echo(&context, &WORD));
  EXPECT(expect_errno("get_output into 3 bytes", get_output(context, 0, buffer, 3, &written), ERRNO_TOO_LARGE));
  EXPECT(expect_bytes("the buffer", buffer, sizeof buffer, "untouched", sizeof buffer));
}

CHECK(output_size_needed, "core/output-size-needed") {
  uint32_t context, written = 0;
  uint8_t buffer[4];
  EXPECT(compute_echo(&context, &WORD));
  EXPECT(expect_errno("get_output into 3 bytes", get_output(context, 0, buffer, 3, &written), ERRNO_TOO_LARGE));
  EXPECT(expect_equal("the number of bytes that are needed", written, 4));
  EXPECT(expect_errno("get_output into 4 bytes", get_output(context, 0, buffer, written, &written), ERRNO_SUCCESS));
  EXPECT(expect_bytes("the output", buffer, written, "word", 4));
}

CHECK(output_empty, "core/output-empty") {
  static const uint32_t ZERO = 0;
  uint32_t context, written = 99;
  uint8_t buffer[] = "untouched";
  EXPECT(compute_echo(&context, &(core_tensor){&ZERO, 1, CORE_U8, {0}, NULL, 0}));
  EXPECT(expect_errno("get_output", get_output(context, 0, buffer, sizeof buffer, &written), ERRNO_SUCCESS));
  EXPECT(expect_equal("the number of bytes written", written, 0));
  EXPECT(expect_bytes("the buffer", buffer, sizeof buffer, "untouched", sizeof buffer));
}

CHECK(output_buffer_out_of_bounds, "core/output-buffer-out-of-bounds") {
  uint32_t context, written;
  EXPECT(compute_echo(&context, &WORD));
  EXPECT(expect_invalid("get_output", get_output(context, 0, end_of_memory(), 4, &written)));
  EXPECT(expect_invalid("get_output", get_output(context, 0, (char *)end_of_memory() - 2, 4, &written)));
}

CHECK(output_size_pointer_out_of_bounds, "core/output-size-pointer-out-of-bounds") {
  uint32_t context;
  uint8_t buffer[4];
  EXPECT(compute_echo(&context, &WORD));
  EXPECT(expect_invalid("get_output", get_output(context, 0, buffer, sizeof buffer, end_of_memory())));
}

CHECK(output_after_bad_pointer, "core/output-after-bad-pointer") {
  uint32_t context, written;
  uint8_t buffer[4];
  EXPECT(compute_echo(&context, &WORD));
  EXPECT(expect_invalid("get_output", get_output(context, 0, end_of_memory(), 4, &written)));
  EXPECT(expect_errno("get_output", get_output(context, 0, buffer, sizeof buffer, &written), ERRNO_SUCCESS));
  EXPECT(expect_bytes("the output", buffer, written, "word", 4));
}

// Indices

CHECK(index_far, "core/index-far") {
  static const uint32_t INDICES[] = {2, 7, 1000, INT32_MAX, UINT32_MAX};
  for (size_t i = 0; i < LENGTH(INDICES); i++) {
    uint32_t context, written;
    uint8_t buffer[4];
    EXPECT(open_echo((nn_context *)&context));
    EXPECT(expect_errno("set_input", set_input(context, INDICES[i], &WORD), ERRNO_SUCCESS));
    EXPECT(expect_errno("compute", compute(context), ERRNO_SUCCESS));
    EXPECT(expect_errno("get_output", get_output(context, INDICES[i], buffer, sizeof buffer, &written), ERRNO_SUCCESS));
    EXPECT(expect_bytes("the output", buffer, written, "word", 4));
  }
}
