// wasi-nn as every version has it: graphs by name, contexts on them, tensors in and out. Checks of several versions use this, and one
// file for each family of versions puts it into calls: nn_resources.c, nn_records.c, nn_core.c. All calls return the error code or
// SUCCESS, and keep the error's text, if there is one, for `expect_code`.
#pragma once

#include "suite.h"

// The error codes of all versions. Up to UNKNOWN it is errors.error-code of wit/wasi-nn-2024-10-28.wit, plus one.
enum code {
  SUCCESS, INVALID_ARGUMENT, INVALID_ENCODING, TIMEOUT, RUNTIME_ERROR, UNSUPPORTED_OPERATION, TOO_LARGE, NOT_FOUND, SECURITY, UNKNOWN,
  BUSY, MISSING_MEMORY, OTHER_CODE
};

enum tensor_type { FP16, FP32, FP64, BF16, U8, I32, I64 };  // the order of the WIT; nn_core.c has the core ABI's numbers
enum { NOT_TOLD = -1 };  // type and rank of an output in versions that return its bytes only

enum encoding { OPENVINO, ONNX, TENSORFLOW, PYTORCH, TENSORFLOWLITE, GGML, AUTODETECT };
enum target { CPU, GPU, TPU };

typedef int32_t nn_graph;
typedef int32_t nn_context;

typedef struct { const uint32_t *items; int32_t rank; } dimensions;
typedef struct { dimensions dimensions; int8_t type; const void *data; size_t size; } tensor;
typedef struct { string name; tensor tensor; } named_tensor;

// DIMENSIONS(2, 3) is the shape of two rows of three.
#define DIMENSIONS(...) ((dimensions){(const uint32_t[]){__VA_ARGS__}, sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t)})
#define SCALAR ((dimensions){(const uint32_t *)8, 0})

enum code nn_load(string name, nn_graph *);
enum code nn_load_bytes(const string *builders, size_t count, enum encoding, enum target, nn_graph *);  // not of phase 3
enum code nn_open(nn_graph, nn_context *);

// Where a version has no such call, these do nothing.
void nn_drop_graph(nn_graph);
void nn_drop_context(nn_context);

// A whole inference. There are as many outputs as inputs, as an echo has it, in the inputs' order. Versions that ask for outputs by
// name ask for the names of the inputs. Names are decimal numbers where the version has indices.
enum code nn_infer(nn_context, const named_tensor *inputs, size_t count, named_tensor *outputs);

// The steps of it, in all versions but 10-28 and phase 3.
enum code nn_set_input(nn_context, string name, tensor);
enum code nn_compute(nn_context);
enum code nn_get_output(nn_context, string name, tensor *);

// nn.c: what checks have in common.

bool expect_code(const char *what, enum code got, enum code expected);
bool expect_failure(const char *what, enum code got, enum code expected, enum code or_this);
void set_error_text(string);

// Whether the tensor is as expected, in type and shape (where they are told) and every byte.
bool expect_tensor(const char *what, tensor got, tensor expected);

bool load_echo(nn_graph *);
bool open_context(nn_graph, nn_context *);
bool open_echo(nn_context *);  // a context on a graph of its own

// Runs the tensors, named "0", "1" and so on, through the context, and expects them back.
bool expect_echo(nn_context, const tensor *, size_t count);

string decimal(uint32_t number);
