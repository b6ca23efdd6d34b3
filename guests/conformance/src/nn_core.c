// nn.h for the core ABI: handles are numbers, inputs and outputs have indices, an error is a number.
#include "nn_core.h"

static size_t output_size;  // bytes of the largest input since a graph was loaded, and so of the largest output of an echo

static enum code code_of(uint32_t errno) {
  static const enum code CODES[] = {
      SUCCESS, INVALID_ARGUMENT, INVALID_ENCODING, MISSING_MEMORY, BUSY, RUNTIME_ERROR, UNSUPPORTED_OPERATION, TOO_LARGE, NOT_FOUND};
  return errno < LENGTH(CODES) ? CODES[errno] : OTHER_CODE;
}

static uint8_t type_number(int8_t type) {
  static const uint8_t NUMBERS[] = {[FP16] = CORE_FP16, [FP32] = CORE_FP32, [FP64] = CORE_FP64, [U8] = CORE_U8, [I32] = CORE_I32,
                                    [I64] = CORE_I64};
  return NUMBERS[type];
}

static uint32_t index_of(string name) {
  uint32_t index = 0;
  for (size_t i = 0; i < name.length; i++) index = index * 10 + (name.data[i] - '0');
  return index;
}

enum code nn_load(string name, nn_graph *graph) {
  output_size = 0;
  return code_of(load_by_name(name.data, name.length, (uint32_t *)graph));
}

enum code nn_load_bytes(const string *builders, size_t count, enum encoding encoding, enum target target, nn_graph *graph) {
  return code_of(load(builders, count, encoding == AUTODETECT ? CORE_AUTODETECT : encoding, target, (uint32_t *)graph));
}

enum code nn_open(nn_graph graph, nn_context *context) {
  return code_of(init_execution_context(graph, (uint32_t *)context));
}

void nn_drop_graph(nn_graph graph) {}

void nn_drop_context(nn_context context) {}

enum code nn_set_input(nn_context context, string name, tensor value) {
  if (output_size < value.size) output_size = value.size;
  core_tensor record = {
      value.dimensions.items, value.dimensions.rank, type_number(value.type), {0}, value.data, value.size};
  return code_of(set_input(context, index_of(name), &record));
}

enum code nn_compute(nn_context context) {
  return code_of(compute(context));
}

enum code nn_get_output(nn_context context, string name, tensor *value) {
  uint8_t *buffer = allocate(output_size + 8, 8);
  uint32_t written = 0;
  enum code code = code_of(get_output(context, index_of(name), buffer, output_size + 8, &written));
  *value = (tensor){{NULL, NOT_TOLD}, NOT_TOLD, buffer, written};
  return code;
}
