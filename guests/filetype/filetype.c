// Says what kind each file of the command line is, with the model of Magika (https://github.com/google/magika) as a wasi:nn graph.
#include <ctype.h>
#include <stdio.h>

#include "files.h"
#include "tensors.h"

// The model looks at 1024 bytes from each end of a file, of what is left of 4096 without its outer spaces.
// See config.min.json beside the model, and `_extract_features_from_seekable` in magika/magika.py.
enum { BLOCK = 4096, SIDE = 1024, PADDING = 256, FEWEST = 8, MOST_LABELS = 1024 };

static const char *labels[MOST_LABELS];
static size_t label_count;

static _Noreturn void fail(const char *what, string why) {
  fprintf(stderr, "filetype: %s: %.*s\n", what, (int)why.length, why.data);
  exit(EXIT_FAILURE);
}

static _Noreturn void fail_nn(const char *what, nn_error error) {
  string sentence;
  nn_error_data(error, &sentence);
  fail(what, sentence);
}

#define TEXT(literal) ((string){literal, sizeof literal - 1})

// The labels are a list of plain strings in the model's settings.
static void read_labels(const char *path) {
  static char text[64 * 1024];
  descriptor file;
  uint64_t size;
  if (!open_file(path, &file, &size)) fail(path, TEXT("not found; grant the model's directory as /model"));
  int length = read_bytes(file, 0, (uint8_t *)text, sizeof text - 1);
  close_file(file);
  char *at = length > 0 ? strstr(text, "\"target_labels_space\"") : NULL;
  at = at ? strchr(at, '[') : NULL;
  if (!at) fail(path, TEXT("has no labels in it"));
  const char *end = strchr(at, ']');
  for (char *label = strtok(at, "[\", \n"); label && label < end && label_count < MOST_LABELS; label = strtok(NULL, "\", \n")) {
    labels[label_count++] = label;
  }
}

static nn_execution open_model(const char *name) {
  nn_load_result loaded;
  nn_load_by_name(name, strlen(name), &loaded);
  if (loaded.failed) fail_nn(name, loaded.error);
  nn_init_result opened;
  nn_init(loaded.graph, &opened);
  if (opened.failed) fail_nn(name, opened.error);
  return opened.execution;
}

// Fills in what the model wants to know of a file; false where there is too little in it.
static bool read_features(descriptor file, uint64_t size, int32_t features[2 * SIDE]) {
  uint8_t bytes[BLOCK];
  int32_t *head = features, *tail = features + SIDE;
  for (int i = 0; i < 2 * SIDE; i++) features[i] = PADDING;

  int start = 0, end = read_bytes(file, 0, bytes, BLOCK);
  while (start < end && isspace(bytes[start])) start++;
  for (int i = 0; i < SIDE && start + i < end; i++) head[i] = bytes[start + i];

  end = read_bytes(file, size > BLOCK ? size - BLOCK : 0, bytes, BLOCK);
  while (end > 0 && isspace(bytes[end - 1])) end--;
  for (int i = 1; i <= SIDE && i <= end; i++) tail[SIDE - i] = bytes[end - i];

  return head[FEWEST - 1] != PADDING;
}

static void classify(nn_execution model, const char *path, const int32_t features[2 * SIDE]) {
  const uint32_t dimensions[] = {1, 2 * SIDE};
  nn_named_tensor input = {
    TEXT("bytes"), nn_tensor_new(dimensions, 2, NN_I32, features, 2 * SIDE * sizeof *features)};
  nn_compute_result result;
  nn_compute(model, &input, 1, &result);
  if (result.failed) fail_nn(path, result.error);

  nn_bytes data;
  nn_tensor_data(result.outputs.items[0].tensor, &data);
  const float *scores = (const float *)data.bytes;
  size_t count = data.length / sizeof *scores, best = 0;
  if (count != label_count) fail(path, TEXT("the model and the labels do not belong together"));
  for (size_t i = 1; i < count; i++) {
    if (scores[i] > scores[best]) best = i;
  }
  printf("%s: %s (%.1f%%)\n", path, labels[best], 100 * scores[best]);
  for (size_t i = 0; i < result.outputs.count; i++) {
    nn_tensor_drop(result.outputs.items[i].tensor);
    free(result.outputs.items[i].name.data);
  }
  free(result.outputs.items);
  free(data.bytes);
}

int main(int argc, char **argv) {
  static int32_t features[2 * SIDE];
  const char *graph = getenv("GRAPH"), *settings = getenv("LABELS");
  if (argc < 2) fail("usage", TEXT("filetype FILE..."));
  read_labels(settings ? settings : "/model/config.min.json");
  nn_execution model = open_model(graph ? graph : "filetype");
  int status = EXIT_SUCCESS;
  for (char **path = argv + 1; *path; path++) {
    descriptor file;
    uint64_t size;
    if (!open_file(*path, &file, &size)) {
      fprintf(stderr, "filetype: %s: not a file of a granted directory\n", *path);
      status = EXIT_FAILURE;
      continue;
    }
    if (read_features(file, size, features)) classify(model, *path, features);
    else printf("%s: too short to tell\n", *path);
    close_file(file);
  }
  return status;
}
