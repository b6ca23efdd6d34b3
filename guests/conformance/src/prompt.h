// The calls of wasi:nn/prompt (https://github.com/WebAssembly/wasi-nn/pull/79), the same in all versions but for how a graph is passed:
// borrowed (as wit/ has it), given away (as the pull request has it; NN_PROMPT_OWNS), or as a number (U1).
#pragma once

#ifdef NN_RECORDS
#include "nn_records.h"
#else
#include "nn_resources.h"
#endif

typedef int32_t prompt_handle;
typedef struct { bool failed; union { prompt_handle context; string error; }; } prompt_init_result;
typedef struct { bool failed; string text; } prompt_compute_result;

NN("prompt", "init") void prompt_init(nn_graph, prompt_init_result *);
NN("prompt", "[method]context.compute") void prompt_compute(prompt_handle, const char *text, size_t length, prompt_compute_result *);
NN("prompt", "[resource-drop]context") void prompt_drop(prompt_handle);

// prompt.c: what the checks of prompts have in common.

bool open_prompt(nn_graph, prompt_handle *);
bool open_echo_prompt(prompt_handle *);  // on a graph of its own
bool expect_reply(prompt_handle, string prompt);
