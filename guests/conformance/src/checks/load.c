// Graphs as bytes. An echo graph has no bytes, so what can be checked is how bytes of no model are refused.
#include "../nn.h"

static const string GARBAGE = {(char *)"These are not the bytes of any model, in any encoding there is.", 63};

static bool expect_refused(const string *builders, size_t count, enum encoding encoding, enum target target) {
  nn_graph graph;
  return expect_code("load bytes", nn_load_bytes(builders, count, encoding, target, &graph), INVALID_ENCODING);
}

CHECK(load_openvino, "load/garbage-openvino") {
  EXPECT(expect_refused(&GARBAGE, 1, OPENVINO, CPU));
}

CHECK(load_onnx, "load/garbage-onnx") {
  EXPECT(expect_refused(&GARBAGE, 1, ONNX, CPU));
}

CHECK(load_tensorflow, "load/garbage-tensorflow") {
  EXPECT(expect_refused(&GARBAGE, 1, TENSORFLOW, CPU));
}

CHECK(load_pytorch, "load/garbage-pytorch") {
  EXPECT(expect_refused(&GARBAGE, 1, PYTORCH, CPU));
}

CHECK(load_tensorflowlite, "load/garbage-tensorflowlite") {
  EXPECT(expect_refused(&GARBAGE, 1, TENSORFLOWLITE, CPU));
}

#ifndef NN_WITHOUT_GGML
CHECK(load_ggml, "load/garbage-ggml") {
  EXPECT(expect_refused(&GARBAGE, 1, GGML, CPU));
}

CHECK(load_header_only, "load/cut-gguf") {
  string builder = STRING("GGUF\3\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0");
  EXPECT(expect_refused(&builder, 1, GGML, CPU));
  EXPECT(expect_refused(&builder, 1, AUTODETECT, CPU));
}
#endif

CHECK(load_autodetect, "load/garbage-autodetect") {
  EXPECT(expect_refused(&GARBAGE, 1, AUTODETECT, CPU));
}

CHECK(load_for_other_targets, "load/targets") {
  EXPECT(expect_refused(&GARBAGE, 1, AUTODETECT, GPU));
  EXPECT(expect_refused(&GARBAGE, 1, AUTODETECT, TPU));
}

static bool expect_either(const string *builders, size_t count, enum encoding encoding) {
  nn_graph graph;
  enum code code = nn_load_bytes(builders, count, encoding, CPU, &graph);
  return expect_failure("load bytes", code, INVALID_ENCODING, INVALID_ARGUMENT);
}

CHECK(load_no_builders, "load/no-builders") {
  EXPECT(expect_either(NULL, 0, ONNX));
  EXPECT(expect_either(NULL, 0, AUTODETECT));
}

CHECK(load_empty_builders, "load/empty-builders") {
  string builders[3] = {STRING(""), STRING(""), STRING("")};
  EXPECT(expect_either(builders, 1, ONNX));
  EXPECT(expect_either(builders, 1, AUTODETECT));
  EXPECT(expect_either(builders, 3, AUTODETECT));
}

CHECK(load_many_builders, "load/64-builders") {
  string builders[64];
  for (size_t i = 0; i < LENGTH(builders); i++) builders[i] = GARBAGE;
  EXPECT(expect_either(builders, LENGTH(builders), AUTODETECT));
}

CHECK(load_many_bytes, "load/garbage-1mb") {
  string builder = {(char *)noise(1 << 20, 1), 1 << 20};
  EXPECT(expect_refused(&builder, 1, AUTODETECT, CPU));
}

CHECK(load_name_as_bytes, "load/name-as-bytes") {
  EXPECT(expect_either(&STRING("echo"), 1, AUTODETECT));
  EXPECT(expect_either(&STRING("/etc/passwd"), 1, AUTODETECT));
  EXPECT(expect_either(&STRING("preload:/etc/passwd"), 1, AUTODETECT));
}

CHECK(load_echo_after_garbage, "load/echo-after-garbage") {
  nn_context context;
  tensor value = {DIMENSIONS(2), U8, "ok", 2};
  EXPECT(expect_refused(&GARBAGE, 1, AUTODETECT, CPU));
  EXPECT(open_echo(&context) && expect_echo(context, &value, 1));
}
