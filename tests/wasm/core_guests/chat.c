// A chat for WasmEdge's wasi-nn, as its published examples are: argv[1] names the model, argv[2] is one question, without it lines
// of standard input are. Options come from the environment: STREAM=1 makes the reply token by token, CONFIG is the configuration
// in JSON, PLAIN=1 sends none.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NN(name) __attribute__((import_module("wasi_ephemeral_nn"), import_name(#name))) uint32_t name
typedef uint32_t handle;
typedef struct { const uint32_t *dimensions; uint32_t rank, type; const void *data; uint32_t size; } tensor;

NN(load_by_name)(const char *name, uint32_t length, handle *graph);
NN(load_by_name_with_config)(const char *name, uint32_t length, const char *config, uint32_t config_length, handle *graph);
NN(init_execution_context)(handle graph, handle *context);
NN(set_input)(handle context, uint32_t index, const tensor *);
NN(compute)(handle context);
NN(get_output)(handle context, uint32_t index, void *buffer, uint32_t room, uint32_t *written);
NN(compute_single)(handle context);
NN(get_output_single)(handle context, uint32_t index, void *buffer, uint32_t room, uint32_t *written);
NN(fini_single)(handle context);
NN(unload)(handle graph);

enum { U8 = 3, ROOM = 4096 * 6, END_OF_SEQUENCE = 100, CONTEXT_FULL = 101, PROMPT_TOO_LONG = 102 };

static void check(const char *what, uint32_t status) {
  if (status == 0) return;
  fprintf(stderr, "[ERROR] %s: %u\n", what, status);
  exit(1);
}

static void set(handle context, uint32_t index, const char *text) {
  static const uint32_t one[] = {1};
  tensor input = {one, 1, U8, text, strlen(text)};
  check("set_input", set_input(context, index, &input));
}

static void print_output(handle context, uint32_t index) {
  static char buffer[ROOM];
  uint32_t written = 0;
  check("get_output", get_output(context, index, buffer, ROOM, &written));
  fwrite(buffer, 1, written < ROOM ? written : ROOM, stdout);
}

static void stream(handle context) {
  char piece[256];
  uint32_t status, written;
  while ((status = compute_single(context)) == 0) {
    check("get_output_single", get_output_single(context, 0, piece, sizeof piece, &written));
    fwrite(piece, 1, written, stdout);
    fflush(stdout);
  }
  if (status == CONTEXT_FULL) printf("\n[INFO] context full");
  else if (status == PROMPT_TOO_LONG) printf("\n[INFO] prompt too long");
  else if (status != END_OF_SEQUENCE) check("compute_single", status);
  printf("\n");
  print_output(context, 1);
  check("fini_single", fini_single(context));
}

static void answer(handle context, const char *question) {
  char *prompt;
  asprintf(&prompt, "<|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n", question);
  set(context, 0, prompt);
  free(prompt);
  printf("[answer] ");
  fflush(stdout);
  if (getenv("STREAM")) stream(context);
  else {
    uint32_t status = compute(context);
    if (status != CONTEXT_FULL && status != PROMPT_TOO_LONG) check("compute", status);
    else printf("[INFO] %s ", status == CONTEXT_FULL ? "context full" : "prompt too long");
    print_output(context, 0);
  }
  printf("\n");
}

int main(int argc, char **argv) {
  const char *config = getenv("CONFIG") ? getenv("CONFIG") : "{\"temp\": 0, \"n-predict\": 64}";
  handle graph, context;
  if (getenv("PLAIN")) check("load_by_name", load_by_name(argv[1], strlen(argv[1]), &graph));
  else check("load_by_name_with_config", load_by_name_with_config(argv[1], strlen(argv[1]), config, strlen(config), &graph));
  check("init_execution_context", init_execution_context(graph, &context));
  if (argc > 2) {
    answer(context, argv[2]);
    check("unload", unload(graph));
    return 0;
  }
  for (;;) {  // the examples read on for ever
    static char line[1024];
    printf("[You] ");
    fflush(stdout);
    line[0] = 0;
    if (fgets(line, sizeof line, stdin)) line[strcspn(line, "\n")] = 0;
    else clearerr(stdin);
    if (*line) answer(context, line);
  }
}
