// wasi:nn@0.2.0-rc-2024-10-28: tensors in, tensors out (wit/wasi-nn-2024-10-28.wit).
#pragma once

#include "component.h"

#define NN(interface, name) IMPORT("wasi:nn/" interface "@0.2.0-rc-2024-10-28", name)

typedef int32_t nn_graph;
typedef int32_t nn_execution;  // a graph-execution-context
typedef int32_t nn_tensor;
typedef int32_t nn_error;

enum nn_tensor_type { NN_FP16, NN_FP32, NN_FP64, NN_BF16, NN_U8, NN_I32, NN_I64 };

typedef struct { string name; nn_tensor tensor; } nn_named_tensor;
typedef struct { uint8_t *bytes; size_t length; } nn_bytes;

typedef struct { bool failed; union { nn_graph graph; nn_error error; }; } nn_load_result;
typedef struct { bool failed; union { nn_execution execution; nn_error error; }; } nn_init_result;
typedef struct { bool failed; union { struct { nn_named_tensor *items; size_t count; } outputs; nn_error error; }; } nn_compute_result;

NN("graph", "load-by-name") void nn_load_by_name(const char *name, size_t length, nn_load_result *);
NN("graph", "[method]graph.init-execution-context") void nn_init(nn_graph, nn_init_result *);

NN("tensor", "[constructor]tensor") nn_tensor nn_tensor_new(
    const uint32_t *dimensions, size_t rank, int32_t type, const void *data, size_t length);
NN("tensor", "[method]tensor.data") void nn_tensor_data(nn_tensor, nn_bytes *);
NN("tensor", "[resource-drop]tensor") void nn_tensor_drop(nn_tensor);

// Takes the inputs' tensors away from the guest.
NN("inference", "[method]graph-execution-context.compute") void nn_compute(
    nn_execution, const nn_named_tensor *inputs, size_t count, nn_compute_result *);

NN("errors", "[method]error.data") void nn_error_data(nn_error, string *sentence);
