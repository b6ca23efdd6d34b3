// nn.h for U1, wasi:nn before it had resources: handles are numbers, a tensor is a record, inputs and outputs have indices.
#include "nn_records.h"

static enum code code_of(uint8_t error) {
  static const enum code CODES[] = {
      INVALID_ARGUMENT, INVALID_ENCODING, BUSY, RUNTIME_ERROR, UNSUPPORTED_OPERATION, TOO_LARGE, NOT_FOUND};
  return error < LENGTH(CODES) ? CODES[error] : OTHER_CODE;
}

static enum code take(number_result result, int32_t *number) {
  *number = result.number;
  return result.failed ? code_of(result.error) : SUCCESS;
}

static uint32_t index_of(string name) {
  uint32_t index = 0;
  for (size_t i = 0; i < name.length; i++) index = index * 10 + (name.data[i] - '0');
  return index;
}

enum code nn_load(string name, nn_graph *graph) {
  number_result result;
  graph_load_by_name(name.data, name.length, &result);
  return take(result, graph);
}

enum code nn_load_bytes(const string *builders, size_t count, enum encoding encoding, enum target target, nn_graph *graph) {
  number_result result;
  graph_load(builders, count, encoding == AUTODETECT ? U1_AUTODETECT : encoding, target, &result);
  return take(result, graph);
}

enum code nn_open(nn_graph graph, nn_context *context) {
  number_result result;
  inference_init(graph, &result);
  return take(result, context);
}

void nn_drop_graph(nn_graph graph) {}

void nn_drop_context(nn_context context) {}

enum code nn_set_input(nn_context context, string name, tensor value) {
  empty_result result;
  inference_set_input(
      context, index_of(name), value.dimensions.items, value.dimensions.rank, value.type, value.data, value.size, &result);
  return result.failed ? code_of(result.error) : SUCCESS;
}

enum code nn_compute(nn_context context) {
  empty_result result;
  inference_compute(context, &result);
  return result.failed ? code_of(result.error) : SUCCESS;
}

enum code nn_get_output(nn_context context, string name, tensor *value) {
  data_result result;
  inference_get_output(context, index_of(name), &result);
  if (result.failed) return code_of(result.error);
  *value = (tensor){{NULL, NOT_TOLD}, NOT_TOLD, result.data.data, result.data.length};
  return SUCCESS;
}
