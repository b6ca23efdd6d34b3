// What the checks of prompts have in common.
#include "prompt.h"

bool open_prompt(nn_graph graph, prompt_handle *prompt) {
  prompt_init_result result;
  prompt_init(graph, &result);
  *prompt = result.context;
  return !result.failed || fail("init: %t", result.error);
}

bool open_echo_prompt(prompt_handle *prompt) {
  nn_graph graph;
  return load_echo(&graph) && open_prompt(graph, prompt);
}

bool expect_reply(prompt_handle prompt, string said) {
  prompt_compute_result result;
  prompt_compute(prompt, said.data, said.length, &result);
  if (result.failed) return fail("compute: %t", result.text);
  return expect_bytes("the reply", result.text.data, result.text.length, said.data, said.length);
}
