// Values that are none: enum cases that do not exist, text that is not UTF-8, places that are not in the guest's memory. The canonical
// ABI stops a guest that passes one.
#ifdef NN_RECORDS
#include "../nn_records.h"
#else
#include "../nn_resources.h"
#endif

static void *end_of_memory(void) {
  return (void *)memory_size();
}

static void load_name(const char *name, size_t length) {
  load_result result;
  graph_load_by_name(name, length, &result);
}

TRAPS(name_not_utf8, "values/name-not-utf8") { load_name("\xff", 1); }
TRAPS(name_with_surrogate, "values/name-surrogate") { load_name("\xed\xa0\x80", 3); }
TRAPS(name_overlong, "values/name-overlong") { load_name("\xc1\xa5" "cho", 5); }
TRAPS(name_cut, "values/name-cut") { load_name("\xe2\x82", 2); }
TRAPS(name_beyond_unicode, "values/name-beyond-unicode") { load_name("\xf4\x90\x80\x80", 4); }
TRAPS(name_out_of_bounds, "values/name-out-of-bounds") { load_name(end_of_memory(), 4); }
TRAPS(name_over_the_end, "values/name-over-the-end") { load_name((char *)end_of_memory() - 2, 4); }
TRAPS(name_of_all_memory, "values/name-length-overflow") { load_name("echo", UINT32_MAX); }
TRAPS(result_out_of_bounds, "values/result-out-of-bounds") { graph_load_by_name("echo", 4, end_of_memory()); }

TRAPS(result_misaligned, "values/result-misaligned") {
  static load_result results[2];
  graph_load_by_name("echo", 4, (load_result *)((char *)results + 1));
}

#ifndef NN_BY_NAME
static void load_builders(const string *builders, size_t count, uint32_t encoding, uint32_t target) {
  load_result result;
  graph_load(builders, count, encoding, target, &result);
}

TRAPS(encoding_out_of_range, "values/encoding-out-of-range") { load_builders(&STRING("bytes"), 1, 7, CPU); }
TRAPS(target_out_of_range, "values/target-out-of-range") { load_builders(&STRING("bytes"), 1, ONNX, 3); }
TRAPS(builders_out_of_bounds, "values/builders-out-of-bounds") { load_builders(end_of_memory(), 1, ONNX, CPU); }
TRAPS(builder_out_of_bounds, "values/builder-out-of-bounds") { load_builders(&(string){end_of_memory(), 1}, 1, ONNX, CPU); }

TRAPS(builders_misaligned, "values/builders-misaligned") {
  static string builders[2];
  load_builders((string *)((char *)builders + 2), 1, ONNX, CPU);
}
#endif

// Makes a tensor, or passes one to a context.
static void pass_tensor(const uint32_t *dimensions, size_t rank, uint32_t type, const void *data, size_t size) {
#ifdef NN_RECORDS
  nn_context context;
  empty_result result;
  if (open_echo(&context)) inference_set_input(context, 0, dimensions, rank, type, data, size, &result);
#else
  tensor_new(dimensions, rank, type, data, size);
#endif
}

static const uint32_t ONE = 1;

TRAPS(type_out_of_range, "values/type-out-of-range") { pass_tensor(&ONE, 1, 7, "x", 1); }
TRAPS(type_far_out_of_range, "values/type-256") { pass_tensor(&ONE, 1, 256, "x", 1); }
TRAPS(dimensions_out_of_bounds, "values/dimensions-out-of-bounds") { pass_tensor(end_of_memory(), 1, U8, "x", 1); }
TRAPS(data_out_of_bounds, "values/data-out-of-bounds") { pass_tensor(&ONE, 1, U8, end_of_memory(), 1); }
TRAPS(data_of_all_memory, "values/data-length-overflow") { pass_tensor(&ONE, 1, U8, "x", UINT32_MAX); }

TRAPS(dimensions_misaligned, "values/dimensions-misaligned") {
  static const uint32_t dimensions[2];
  pass_tensor((const uint32_t *)((const char *)dimensions + 2), 1, U8, NULL, 0);
}

#ifdef NN_COALESCED
TRAPS(inputs_out_of_bounds, "values/inputs-out-of-bounds") {
  nn_context context;
  outputs_result result;
  if (open_echo(&context)) context_compute(context, end_of_memory(), 1, &result);
}

TRAPS(inputs_misaligned, "values/inputs-misaligned") {
  static named_handle inputs[2];
  nn_context context;
  outputs_result result;
  if (open_echo(&context)) context_compute(context, (named_handle *)((char *)inputs + 1), 1, &result);
}
#endif

#ifndef NN_RECORDS
TRAPS(input_name_not_utf8, "values/input-name-not-utf8") {
  nn_context context;
  tensor_handle tensor = tensor_new(&ONE, 1, U8, "x", 1);
  if (!open_echo(&context)) return;
#ifdef NN_COALESCED
  outputs_result result;
  context_compute(context, &(named_handle){STRING("\xff"), tensor}, 1, &result);
#else
  empty_result result;
  context_set_input(context, "\xff", 1, tensor, &result);
#endif
}
#endif
