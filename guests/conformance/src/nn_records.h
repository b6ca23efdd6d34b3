// The calls of U1 (wit/wasi-nn-unversioned-u1.wit).
#pragma once

#include "nn.h"

#define NN(interface, name) IMPORT("wasi:nn/" interface, name)

enum { U1_AUTODETECT = 5 };  // there is no ggml before it

typedef struct { bool failed; union { int32_t number; uint8_t error; }; } number_result;
typedef number_result load_result;
typedef struct { bool failed; uint8_t error; } empty_result;
typedef struct { bool failed; union { string data; uint8_t error; }; } data_result;

NN("graph", "load-by-name") void graph_load_by_name(const char *name, size_t length, number_result *);
NN("graph", "load") void graph_load(const string *builders, size_t count, uint32_t encoding, uint32_t target, number_result *);
NN("inference", "init-execution-context") void inference_init(uint32_t graph, number_result *);
NN("inference", "set-input") void inference_set_input(
    uint32_t context, uint32_t index, const uint32_t *dimensions, size_t rank, uint32_t type, const void *data, size_t size, empty_result *);
NN("inference", "compute") void inference_compute(uint32_t context, empty_result *);
NN("inference", "get-output") void inference_get_output(uint32_t context, uint32_t index, data_result *);
