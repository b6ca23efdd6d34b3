// Handles of prompt contexts that are none, and text that is not UTF-8.
#include "../prompt.h"

enum { NEVER_GIVEN = 12345 };

static void say(prompt_handle prompt, const char *text, size_t length) {
  prompt_compute_result result;
  prompt_compute(prompt, text, length, &result);
}

static void say_to_echo(const char *text, size_t length) {
  prompt_handle prompt;
  if (open_echo_prompt(&prompt)) say(prompt, text, length);
}

TRAPS(context_zero, "prompt-handles/context-zero") { say(0, "?", 1); }
TRAPS(context_unknown, "prompt-handles/context-unknown") { say(NEVER_GIVEN, "?", 1); }

TRAPS(context_dropped, "prompt-handles/context-dropped") {
  prompt_handle prompt;
  EXPECT(open_echo_prompt(&prompt));
  prompt_drop(prompt);
  say(prompt, "?", 1);
}

TRAPS(context_dropped_twice, "prompt-handles/context-dropped-twice") {
  prompt_handle prompt;
  EXPECT(open_echo_prompt(&prompt));
  prompt_drop(prompt);
  prompt_drop(prompt);
}

#ifndef NN_RECORDS
TRAPS(context_of_other_kind, "prompt-handles/context-of-other-kind") {
  nn_graph graph;
  if (load_echo(&graph)) say(graph, "?", 1);
}

TRAPS(graph_unknown, "prompt-handles/graph-unknown") {
  prompt_handle prompt;
  open_prompt(NEVER_GIVEN, &prompt);
}

TRAPS(graph_dropped, "prompt-handles/graph-dropped") {
  nn_graph graph;
  prompt_handle prompt;
  EXPECT(load_echo(&graph));
  graph_drop(graph);
  open_prompt(graph, &prompt);
}
#endif

TRAPS(text_not_utf8, "prompt-values/not-utf8") { say_to_echo("\xff", 1); }
TRAPS(text_with_surrogate, "prompt-values/surrogate") { say_to_echo("\xed\xa0\x80", 3); }
TRAPS(text_overlong, "prompt-values/overlong") { say_to_echo("\xc0\xaf", 2); }
TRAPS(text_cut, "prompt-values/cut") { say_to_echo("dog \xf0\x9f\x90", 7); }
TRAPS(text_beyond_unicode, "prompt-values/beyond-unicode") { say_to_echo("\xf4\x90\x80\x80", 4); }
TRAPS(text_out_of_bounds, "prompt-values/out-of-bounds") { say_to_echo((char *)memory_size() - 1, 2); }
TRAPS(text_of_all_memory, "prompt-values/length-overflow") { say_to_echo("?", UINT32_MAX); }
