// nn.h for the versions that have resources.
#include "nn_resources.h"

tensor_handle make_tensor(tensor value) {
  return tensor_new(value.dimensions.items, value.dimensions.rank, value.type, value.data, value.size);
}

tensor read_tensor(tensor_handle handle) {
  dimension_list shape;
  string data;
  tensor_dimensions(handle, &shape);
  tensor_data(handle, &data);
  return (tensor){{shape.items, shape.count}, tensor_ty(handle), data.data, data.length};
}

enum code take_error(bool failed, error error) {
  set_error_text((string){NULL, 0});
  if (!failed) return SUCCESS;
#ifdef NN_ERROR_ENUM
  return error <= NOT_FOUND - 1 ? error + 1 : OTHER_CODE;
#else
  uint32_t code = error_code(error);
  string text;
  error_data(error, &text);
  set_error_text(text);
  error_drop(error);
  return code <= UNKNOWN - 1 ? code + 1 : OTHER_CODE;
#endif
}

enum code nn_load(string name, nn_graph *graph) {
  handle_result result;
  graph_load_by_name(name.data, name.length, &result);
  *graph = result.handle;
  return take_error(result.failed, result.error);
}

#ifndef NN_BY_NAME
enum code nn_load_bytes(const string *builders, size_t count, enum encoding encoding, enum target target, nn_graph *graph) {
  handle_result result;
  graph_load(builders, count, encoding, target, &result);
  *graph = result.handle;
  return take_error(result.failed, result.error);
}
#endif

enum code nn_open(nn_graph graph, nn_context *context) {
  handle_result result;
  graph_init(graph, &result);
  *context = result.handle;
  return take_error(result.failed, result.error);
}

void nn_drop_graph(nn_graph graph) {
  graph_drop(graph);
}

void nn_drop_context(nn_context context) {
  context_drop(context);
}

#ifdef NN_COALESCED

// The output named so, or the one in that place where the graph has names of its own.
static named_handle output_of(outputs_result result, string name, size_t place) {
  for (size_t i = 0; i < result.count; i++) {
    if (same(result.items[i].name, name)) return result.items[i];
  }
  return result.items[place];
}

enum code nn_infer(nn_context context, const named_tensor *inputs, size_t count, named_tensor *outputs) {
  named_handle *handles = NEW(named_handle, count);
  for (size_t i = 0; i < count; i++) handles[i] = (named_handle){inputs[i].name, make_tensor(inputs[i].tensor)};
  outputs_result result;
  context_compute(context, handles, count, &result);
  if (result.failed) return take_error(true, result.error);
  if (!expect_equal("the number of outputs", result.count, count)) return OTHER_CODE;
  for (size_t i = 0; i < count; i++) {
    named_handle output = output_of(result, inputs[i].name, i);
    outputs[i] = (named_tensor){output.name, read_tensor(output.tensor)};
  }
  for (size_t i = 0; i < count; i++) tensor_drop(result.items[i].tensor);
  return SUCCESS;
}

#else

enum code nn_set_input(nn_context context, string name, tensor value) {
  empty_result result;
  context_set_input(context, name.data, name.length, make_tensor(value), &result);
  return take_error(result.failed, result.error);
}

enum code nn_compute(nn_context context) {
  empty_result result;
  context_compute(context, &result);
  return take_error(result.failed, result.error);
}

enum code nn_get_output(nn_context context, string name, tensor *value) {
  handle_result result;
  context_get_output(context, name.data, name.length, &result);
  if (!result.failed) {
    *value = read_tensor(result.handle);
    tensor_drop(result.handle);
  }
  return take_error(result.failed, result.error);
}

#endif
