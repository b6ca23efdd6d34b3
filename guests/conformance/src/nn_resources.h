// The calls of wasi:nn since it has resources: 06-25, 08-19, 10-28, phase 3, U2, U3. A build says which:
//   NN_VERSION              what comes after the interface's name, such as "@0.2.0-rc-2024-10-28"
//   NN_COALESCED            compute takes and returns all tensors (10-28, phase 3)
//   NN_BY_NAME              graphs are loaded by name only, with `load`, and have properties (phase 3)
//   NN_ERROR_ENUM           an error is an enum, without a text (U2)
//   NN_ERROR_CONSTRUCTOR    a guest can make errors (06-25, U3)
#pragma once

#include "nn.h"

#define NN(interface, name) IMPORT("wasi:nn/" interface NN_VERSION, name)

typedef int32_t tensor_handle;
typedef int32_t error_handle;

#ifdef NN_ERROR_ENUM
typedef uint8_t error;
#else
typedef error_handle error;
#endif

typedef struct { bool failed; union { int32_t handle; error error; }; } handle_result;
typedef struct { bool failed; error error; } empty_result;
typedef handle_result load_result;
typedef struct { const uint32_t *items; size_t count; } dimension_list;
typedef struct { string name; tensor_handle tensor; } named_handle;
typedef struct { bool failed; union { struct { named_handle *items; size_t count; }; error error; }; } outputs_result;
typedef struct { string *items; size_t count; } property_names;
typedef struct { bool present; string value; } property_result;

#ifdef NN_BY_NAME
NN("graph", "load") void graph_load_by_name(const char *name, size_t length, handle_result *);
NN("graph", "[method]graph.list-properties") void graph_list_properties(nn_graph, property_names *);
NN("graph", "[method]graph.get-property") void graph_get_property(nn_graph, const char *name, size_t length, property_result *);
NN("graph", "[method]graph.set-property")
void graph_set_property(nn_graph, const char *name, size_t length, const char *value, size_t size, empty_result *);
#else
NN("graph", "load-by-name") void graph_load_by_name(const char *name, size_t length, handle_result *);
NN("graph", "load") void graph_load(const string *builders, size_t count, uint32_t encoding, uint32_t target, handle_result *);
#endif
NN("graph", "[method]graph.init-execution-context") void graph_init(nn_graph, handle_result *);
NN("graph", "[resource-drop]graph") void graph_drop(nn_graph);

NN("tensor", "[constructor]tensor")
tensor_handle tensor_new(const uint32_t *dimensions, size_t rank, uint32_t type, const void *data, size_t size);
NN("tensor", "[method]tensor.dimensions") void tensor_dimensions(tensor_handle, dimension_list *);
NN("tensor", "[method]tensor.ty") uint32_t tensor_ty(tensor_handle);
NN("tensor", "[method]tensor.data") void tensor_data(tensor_handle, string *);
NN("tensor", "[resource-drop]tensor") void tensor_drop(tensor_handle);

#ifdef NN_COALESCED
NN("inference", "[method]graph-execution-context.compute")
void context_compute(nn_context, const named_handle *, size_t count, outputs_result *);
#else
NN("inference", "[method]graph-execution-context.set-input")
void context_set_input(nn_context, const char *name, size_t length, tensor_handle, empty_result *);
NN("inference", "[method]graph-execution-context.compute") void context_compute(nn_context, empty_result *);
NN("inference", "[method]graph-execution-context.get-output")
void context_get_output(nn_context, const char *name, size_t length, handle_result *);
#endif
NN("inference", "[resource-drop]graph-execution-context") void context_drop(nn_context);

#ifndef NN_ERROR_ENUM
NN("errors", "[method]error.code") uint32_t error_code(error_handle);
NN("errors", "[method]error.data") void error_data(error_handle, string *);
NN("errors", "[resource-drop]error") void error_drop(error_handle);
#ifdef NN_ERROR_CONSTRUCTOR
NN("errors", "[constructor]error") error_handle error_new(uint32_t code, const char *data, size_t length);
#endif
#endif

tensor_handle make_tensor(tensor);
tensor read_tensor(tensor_handle);

// The code of a call's error, which is dropped; SUCCESS if it did not fail.
enum code take_error(bool failed, error);
