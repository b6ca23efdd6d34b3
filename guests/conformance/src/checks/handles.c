// Handles that are none: the canonical ABI stops a guest that passes one. Where a handle of another kind is passed, nothing of the
// right kind is alive, so that it is wrong whether the host numbers all handles together or each kind by itself.
#include "../nn_resources.h"

enum { NEVER_GIVEN = 12345 };

static nn_graph echo(void) {
  nn_graph graph = 0;
  load_echo(&graph);
  return graph;
}

static nn_context context_on(nn_graph graph) {
  nn_context context = 0;
  open_context(graph, &context);
  return context;
}

static tensor_handle some_tensor(void) {
  return make_tensor((tensor){DIMENSIONS(1), U8, "t", 1});
}

static void use_graph(nn_graph graph) {
  handle_result result;
  graph_init(graph, &result);
}

// Gives a tensor to a context, and drops what comes back: it may have the number of the tensor that went.
static void give(nn_context context, tensor_handle handle) {
#ifdef NN_COALESCED
  named_handle input = {STRING("0"), handle};
  outputs_result result;
  context_compute(context, &input, 1, &result);
  for (size_t i = 0; !result.failed && i < result.count; i++) tensor_drop(result.items[i].tensor);
#else
  empty_result result;
  context_set_input(context, "0", 1, handle, &result);
#endif
}

TRAPS(graph_zero, "handles/graph-zero") { use_graph(0); }
TRAPS(graph_unknown, "handles/graph-unknown") { use_graph(NEVER_GIVEN); }
TRAPS(graph_negative, "handles/graph-negative") { use_graph(-1); }
TRAPS(graph_of_other_kind, "handles/graph-of-other-kind") { use_graph(some_tensor()); }

TRAPS(graph_dropped, "handles/graph-dropped") {
  nn_graph graph = echo();
  graph_drop(graph);
  use_graph(graph);
}

TRAPS(graph_dropped_twice, "handles/graph-dropped-twice") {
  nn_graph graph = echo();
  graph_drop(graph);
  graph_drop(graph);
}

TRAPS(context_unknown, "handles/context-unknown") { give(NEVER_GIVEN, some_tensor()); }
TRAPS(context_of_other_kind, "handles/context-of-other-kind") { give(echo(), some_tensor()); }

TRAPS(context_dropped, "handles/context-dropped") {
  nn_context context = context_on(echo());
  context_drop(context);
  give(context, some_tensor());
}

TRAPS(context_dropped_twice, "handles/context-dropped-twice") {
  nn_context context = context_on(echo());
  context_drop(context);
  context_drop(context);
}

TRAPS(tensor_zero, "handles/tensor-zero") { tensor_ty(0); }
TRAPS(tensor_unknown, "handles/tensor-unknown") { tensor_ty(NEVER_GIVEN); }
TRAPS(tensor_of_other_kind, "handles/tensor-of-other-kind") { tensor_ty(echo()); }
TRAPS(tensor_unknown_given, "handles/tensor-unknown-given") { give(context_on(echo()), NEVER_GIVEN); }

TRAPS(tensor_dropped, "handles/tensor-dropped") {
  tensor_handle handle = some_tensor();
  tensor_drop(handle);
  tensor_ty(handle);
}

TRAPS(tensor_dropped_twice, "handles/tensor-dropped-twice") {
  tensor_handle handle = some_tensor();
  tensor_drop(handle);
  tensor_drop(handle);
}

TRAPS(tensor_given_away, "handles/tensor-given-away") {
  tensor_handle handle = some_tensor();
  give(context_on(echo()), handle);
  tensor_ty(handle);
}

TRAPS(tensor_given_twice, "handles/tensor-given-twice") {
  nn_context context = context_on(echo());
  tensor_handle handle = some_tensor();
#ifdef NN_COALESCED
  named_handle inputs[] = {{STRING("0"), handle}, {STRING("1"), handle}};
  outputs_result result;
  context_compute(context, inputs, 2, &result);
#else
  give(context, handle);
  give(context, handle);
#endif
}

// Also a call that fails has taken what it was given.
TRAPS(tensor_given_in_vain, "handles/tensor-given-in-vain") {
  nn_context context = context_on(echo());
  tensor_handle handle = make_tensor((tensor){DIMENSIONS(2, 2), FP32, "short", 5});
  give(context, handle);
  tensor_ty(handle);
}

#ifndef NN_ERROR_ENUM
static error_handle some_error(void) {
  handle_result result;
  graph_load_by_name("no-graph-has-this-name", 22, &result);
  if (!result.failed) fail("a graph that is not there was loaded");
  return result.handle;
}

TRAPS(error_unknown, "handles/error-unknown") { error_code(NEVER_GIVEN); }
TRAPS(error_of_other_kind, "handles/error-of-other-kind") { error_code(echo()); }

TRAPS(error_dropped, "handles/error-dropped") {
  error_handle error = some_error();
  error_drop(error);
  error_code(error);
}

TRAPS(error_dropped_twice, "handles/error-dropped-twice") {
  error_handle error = some_error();
  error_drop(error);
  error_drop(error);
}
#endif
