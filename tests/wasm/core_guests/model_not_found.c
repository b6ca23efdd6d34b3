// As WasmEdge's example of that name: it imports one function, and expects the errno that says the model's file is not there.
#include <stdint.h>
#include <stdio.h>
#include <string.h>

__attribute__((import_module("wasi_ephemeral_nn"), import_name("load_by_name"))) uint32_t load_by_name(
    const char *name, uint32_t length, uint32_t *graph);

int main(int argc, char **argv) {
  uint32_t graph, status = load_by_name(argv[1], strlen(argv[1]), &graph);
  printf("%s %u\n", argv[0], status);
  return status == 103 ? 0 : 1;
}
