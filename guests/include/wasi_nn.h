// wasi:nn@0.2.0-rc-phase-3: graphs by name and conversations with them (wit/wasi-nn-phase-3.wit).
#pragma once

#include "component.h"

#define NN(interface, name) IMPORT("wasi:nn/" interface "@0.2.0-rc-phase-3", name)

typedef int32_t nn_graph;
typedef int32_t nn_context;  // a conversation
typedef int32_t nn_error;

typedef struct { bool failed; union { nn_graph graph; nn_error error; }; } nn_load_result;
typedef struct { bool failed; union { nn_context context; string error; }; } nn_init_result;
typedef struct { bool failed; union { string reply; string error; }; } nn_compute_result;

NN("graph", "load") void nn_graph_load(const char *name, size_t length, nn_load_result *);
NN("graph", "[resource-drop]graph") void nn_graph_drop(nn_graph);

NN("prompt", "init") void nn_prompt_init(nn_graph, nn_init_result *);
NN("prompt", "[method]context.compute")
void nn_context_compute(nn_context, const char *prompt, size_t length, nn_compute_result *);
NN("prompt", "[resource-drop]context") void nn_context_drop(nn_context);

NN("errors", "[method]error.code") uint32_t nn_error_code(nn_error);
NN("errors", "[method]error.data") void nn_error_data(nn_error, string *sentence);
NN("errors", "[resource-drop]error") void nn_error_drop(nn_error);
