// A chat through wasi:nn/prompt. The words of the command line are one turn; without any, each line of stdin is a turn.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "turns.h"
#include "wasi_nn.h"

static _Noreturn void fail(string sentence) {
  fprintf(stderr, "%.*s\n", (int)sentence.length, sentence.data);
  exit(EXIT_FAILURE);
}

static nn_context open_chat(const char *name) {
  nn_load_result loaded;
  nn_graph_load(name, strlen(name), &loaded);
  if (loaded.failed) {
    string sentence;
    nn_error_data(loaded.error, &sentence);
    fail(sentence);
  }
  nn_init_result opened;
  nn_prompt_init(loaded.graph, &opened);
  if (opened.failed) fail(opened.error);
  return opened.context;
}

static void turn(nn_context chat, const char *prompt) {
  nn_compute_result answer;
  nn_context_compute(chat, prompt, strlen(prompt), &answer);
  if (answer.failed) fail(answer.error);
  printf("%.*s\n", (int)answer.reply.length, answer.reply.data);
  fflush(stdout);
  free(answer.reply.data);
}

int main(int argc, char **argv) {
  const char *graph = getenv("GRAPH");
  nn_context chat = open_chat(graph ? graph : "chat");
  if (argc > 1) {
    turn(chat, join_words(argv + 1));
    return EXIT_SUCCESS;
  }
  for (char *line; (line = read_line());) {
    if (*line) turn(chat, line);
  }
  return EXIT_SUCCESS;
}
