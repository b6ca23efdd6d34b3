// Graphs by name.
#include "../nn.h"

CHECK(load_echo_by_name, "graph/echo") {
  nn_graph graph;
  if (!load_echo(&graph)) bail_out();
}

static bool expect_not_found(string name) {
  nn_graph graph;
  return expect_code("load a graph that is not there", nn_load(name, &graph), NOT_FOUND);
}

CHECK(load_unknown_name, "graph/unknown") {
  EXPECT(expect_not_found(STRING("no-graph-has-this-name")));
}

CHECK(load_after_failure, "graph/echo-after-unknown") {
  nn_context context;
  EXPECT(expect_not_found(STRING("no-graph-has-this-name")));
  EXPECT(open_echo(&context));
}

CHECK(load_empty_name, "graph/name-empty") {
  EXPECT(expect_not_found(STRING("")));
}

CHECK(load_name_of_other_case, "graph/name-case") {
  EXPECT(expect_not_found(STRING("Echo")));
  EXPECT(expect_not_found(STRING("ECHO")));
}

CHECK(load_name_with_spaces, "graph/name-spaces") {
  EXPECT(expect_not_found(STRING(" echo")));
  EXPECT(expect_not_found(STRING("echo ")));
  EXPECT(expect_not_found(STRING("echo\n")));
}

CHECK(load_name_with_nul, "graph/name-nul") {
  EXPECT(expect_not_found(STRING("echo\0")));
  EXPECT(expect_not_found(STRING("echo\0x")));
  EXPECT(expect_not_found(STRING("\0echo")));
}

CHECK(load_part_of_name, "graph/name-part") {
  EXPECT(expect_not_found(STRING("ech")));
  EXPECT(expect_not_found(STRING("echoo")));
}

CHECK(load_name_in_unicode, "graph/name-unicode") {
  static const char *const NAMES[] = {
      "эхо", "回声", "echo\u0301", "\ufeffecho", "\u202eohce", "ｅｃｈｏ", "\U0001f99c", "\uffff", "\U0010ffff"};
  for (size_t i = 0; i < LENGTH(NAMES); i++) EXPECT(expect_not_found(text(NAMES[i])));
}

CHECK(load_long_name, "graph/name-long") {
  enum { SIZE = 65536 };
  char *name = allocate(SIZE, 1);
  __builtin_memset(name, 'e', SIZE);
  EXPECT(expect_not_found((string){name, SIZE}));
}

CHECK(load_name_that_is_a_path, "graph/name-path") {
  static const char *const NAMES[] = {"./echo", "../echo", "/echo", "echo/", "/etc/passwd", "/dev/zero", ".", "..", "C:\\echo", "~"};
  for (size_t i = 0; i < LENGTH(NAMES); i++) EXPECT(expect_not_found(text(NAMES[i])));
}

CHECK(load_name_that_is_a_reference, "graph/name-reference") {
  static const char *const NAMES[] = {
      "file:echo", "file:///etc/passwd", "http://localhost/echo", "hf.co/a/b", "preload:echo", "echo:latest", "echo=echo"};
  for (size_t i = 0; i < LENGTH(NAMES); i++) EXPECT(expect_not_found(text(NAMES[i])));
}

CHECK(load_twice, "graph/twice") {
  nn_graph first, second;
  nn_context one, other;
  tensor value = {DIMENSIONS(4), U8, "once", 4};
  EXPECT(load_echo(&first) && load_echo(&second));
  EXPECT(open_context(first, &one) && open_context(second, &other));
  EXPECT(expect_echo(one, &value, 1) && expect_echo(other, &value, 1));
}

CHECK(load_often, "graph/200-times") {
  for (size_t i = 0; i < 200; i++) {
    nn_graph graph;
    EXPECT(load_echo(&graph));
    nn_drop_graph(graph);
  }
}

CHECK(open_contexts_at_once, "graph/16-contexts") {
  nn_graph graph;
  nn_context contexts[16];
  EXPECT(load_echo(&graph));
  for (size_t i = 0; i < LENGTH(contexts); i++) EXPECT(open_context(graph, &contexts[i]));
  for (size_t i = 0; i < LENGTH(contexts); i++) {
    tensor value = {DIMENSIONS(32), U8, noise(32, i), 32};
    EXPECT(expect_echo(contexts[i], &value, 1));
  }
  for (size_t i = 0; i < LENGTH(contexts); i++) nn_drop_context(contexts[i]);
}
