// The calls of the core ABI wasi_ephemeral_nn, and their numbers.
// https://github.com/WebAssembly/wasi-nn/blob/71320d95b8c6d43f9af7f44e18b1839db85d89b4/wasi-nn.witx
#pragma once

#include "nn.h"

#define NN(name) IMPORT("wasi_ephemeral_nn", name)

typedef struct {
  const uint32_t *dimensions;
  size_t rank;
  uint8_t type, padding[3];
  const void *data;
  size_t size;
} core_tensor;
_Static_assert(sizeof(core_tensor) == 20, "the layout of witx");

enum { CORE_FP16, CORE_FP32, CORE_FP64, CORE_U8, CORE_I32, CORE_I64 };
enum { CORE_AUTODETECT = 5 };
enum errno {
  ERRNO_SUCCESS, ERRNO_INVALID_ARGUMENT, ERRNO_INVALID_ENCODING, ERRNO_MISSING_MEMORY, ERRNO_BUSY, ERRNO_RUNTIME_ERROR,
  ERRNO_UNSUPPORTED_OPERATION, ERRNO_TOO_LARGE, ERRNO_NOT_FOUND
};

NN("load") uint32_t load(const string *builders, size_t count, uint32_t encoding, uint32_t target, uint32_t *graph);
NN("load_by_name") uint32_t load_by_name(const char *name, size_t length, uint32_t *graph);
NN("init_execution_context") uint32_t init_execution_context(uint32_t graph, uint32_t *context);
NN("set_input") uint32_t set_input(uint32_t context, uint32_t index, const core_tensor *);
NN("compute") uint32_t compute(uint32_t context);
NN("get_output") uint32_t get_output(uint32_t context, uint32_t index, void *buffer, size_t size, uint32_t *written);
