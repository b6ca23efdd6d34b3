// Inference on the echo graph: the outputs are the inputs.
#include "../nn.h"

static bool expect_echo_of(tensor value) {
  nn_context context;
  return open_echo(&context) && expect_echo(context, &value, 1);
}

static bool expect_echo_of_type(enum tensor_type type, size_t item_size) {
  return expect_echo_of((tensor){DIMENSIONS(2, 3), type, noise(6 * item_size, type), 6 * item_size});
}

CHECK(echo_fp16, "echo/type-fp16") { EXPECT(expect_echo_of_type(FP16, 2)); }
CHECK(echo_fp32, "echo/type-fp32") { EXPECT(expect_echo_of_type(FP32, 4)); }
CHECK(echo_fp64, "echo/type-fp64") { EXPECT(expect_echo_of_type(FP64, 8)); }
#ifndef NN_WITHOUT_BF16
CHECK(echo_bf16, "echo/type-bf16") { EXPECT(expect_echo_of_type(BF16, 2)); }
#endif
CHECK(echo_u8, "echo/type-u8") { EXPECT(expect_echo_of_type(U8, 1)); }
CHECK(echo_i32, "echo/type-i32") { EXPECT(expect_echo_of_type(I32, 4)); }
CHECK(echo_i64, "echo/type-i64") { EXPECT(expect_echo_of_type(I64, 8)); }

CHECK(echo_one_value, "echo/one-value") {
  EXPECT(expect_echo_of((tensor){DIMENSIONS(1), FP32, noise(4, 1), 4}));
}

CHECK(echo_rank_zero, "echo/rank-zero") {
  EXPECT(expect_echo_of((tensor){SCALAR, FP32, noise(4, 1), 4}));
}

CHECK(echo_no_values, "echo/empty") {
  EXPECT(expect_echo_of((tensor){DIMENSIONS(0), U8, NULL, 0}));
  EXPECT(expect_echo_of((tensor){DIMENSIONS(2, 0, 3), FP32, NULL, 0}));
}

CHECK(echo_many_dimensions, "echo/rank-32") {
  uint32_t dimensions[32];
  for (size_t i = 0; i < LENGTH(dimensions); i++) dimensions[i] = i == 7 ? 5 : 1;
  EXPECT(expect_echo_of((tensor){{dimensions, LENGTH(dimensions)}, I32, noise(20, 1), 20}));
}

CHECK(echo_every_byte, "echo/every-byte") {
  uint8_t bytes[256];
  for (size_t i = 0; i < LENGTH(bytes); i++) bytes[i] = i;
  EXPECT(expect_echo_of((tensor){DIMENSIONS(256), U8, bytes, 256}));
}

CHECK(echo_nan, "echo/nan-payload") {
  static const uint32_t BITS[] = {0x7fc00000, 0xffc00001, 0x7f800001, 0x7fbfffff, 0x80000000, 0x00000001, 0x7f800000};
  EXPECT(expect_echo_of((tensor){DIMENSIONS(LENGTH(BITS)), FP32, BITS, sizeof BITS}));
}

CHECK(echo_image, "echo/large-600kb") {
  EXPECT(expect_echo_of((tensor){DIMENSIONS(1, 3, 224, 224), FP32, noise(602112, 1), 602112}));
}

CHECK(echo_megabytes, "echo/large-2mb") {
  EXPECT(expect_echo_of((tensor){DIMENSIONS(2, 1024, 1024), U8, noise(2 << 20, 2), 2 << 20}));
}

CHECK(echo_two_tensors, "echo/two-tensors") {
  nn_context context;
  tensor values[] = {{DIMENSIONS(3), U8, "one", 3}, {DIMENSIONS(3), U8, "two", 3}};
  EXPECT(open_echo(&context) && expect_echo(context, values, 2));
}

CHECK(echo_many_tensors, "echo/16-tensors") {
  static const size_t SIZES[] = {[FP16] = 2, [FP32] = 4, [FP64] = 8, [U8] = 1, [I32] = 4, [I64] = 8};
  static const enum tensor_type KINDS[] = {FP16, FP32, FP64, U8, I32, I64};
  nn_context context;
  tensor values[16];
  uint32_t dimensions[16];
  for (size_t i = 0; i < LENGTH(values); i++) {
    enum tensor_type type = KINDS[i % LENGTH(KINDS)];
    dimensions[i] = i;
    values[i] = (tensor){{&dimensions[i], 1}, type, noise(i * SIZES[type], i), i * SIZES[type]};
  }
  EXPECT(open_echo(&context) && expect_echo(context, values, LENGTH(values)));
}

CHECK(echo_text_of_any_length, "echo/u8-any-length") {
  EXPECT(expect_echo_of((tensor){DIMENSIONS(1), U8, "a prompt", 8}));
  EXPECT(expect_echo_of((tensor){SCALAR, U8, "a prompt", 8}));
}

static bool expect_refused(nn_context context, tensor value) {
  named_tensor input = {STRING("0"), value}, output;
  return expect_code("compute with data of the wrong length", nn_infer(context, &input, 1, &output), INVALID_ARGUMENT);
}

static bool expect_refused_of(tensor value) {
  nn_context context;
  return open_echo(&context) && expect_refused(context, value);
}

CHECK(echo_too_little_data, "echo/data-too-short") {
  EXPECT(expect_refused_of((tensor){DIMENSIONS(2, 2), FP32, noise(15, 1), 15}));
  EXPECT(expect_refused_of((tensor){DIMENSIONS(2, 2), FP32, NULL, 0}));
}

CHECK(echo_too_much_data, "echo/data-too-long") {
  EXPECT(expect_refused_of((tensor){DIMENSIONS(2, 2), FP32, noise(20, 1), 20}));
  EXPECT(expect_refused_of((tensor){DIMENSIONS(0), I64, noise(8, 1), 8}));
}

CHECK(echo_huge_dimensions, "echo/dimensions-overflow") {
  EXPECT(expect_refused_of((tensor){DIMENSIONS(65536, 65536), FP32, NULL, 0}));  // 2^32 elements
  EXPECT(expect_refused_of((tensor){DIMENSIONS(65536, 65536, 65536, 65536), FP32, NULL, 0}));  // 2^64
  EXPECT(expect_refused_of((tensor){DIMENSIONS(1u << 30, 1), I32, NULL, 0}));  // 2^32 bytes
}

CHECK(echo_after_error, "echo/after-error") {
  nn_context context;
  tensor value = {DIMENSIONS(2), U8, "ok", 2};
  EXPECT(open_echo(&context));
  EXPECT(expect_echo(context, &value, 1));
  EXPECT(expect_refused(context, (tensor){DIMENSIONS(2), FP32, noise(3, 1), 3}));
  EXPECT(expect_echo(context, &value, 1));
}

CHECK(echo_again, "echo/compute-again") {
  nn_context context;
  tensor first = {DIMENSIONS(5), U8, "first", 5}, second = {DIMENSIONS(2, 3), U8, "second", 6};
  EXPECT(open_echo(&context));
  EXPECT(expect_echo(context, &first, 1) && expect_echo(context, &second, 1) && expect_echo(context, &first, 1));
}

CHECK(echo_often, "echo/200-times") {
  nn_context context;
  EXPECT(open_echo(&context));
  for (size_t i = 0; i < 200; i++) {
    tensor value = {DIMENSIONS(16), U8, noise(16, i), 16};
    EXPECT(expect_echo(context, &value, 1));
  }
}

CHECK(echo_in_two_contexts, "echo/two-contexts") {
  nn_graph graph;
  nn_context left, right;
  tensor values[] = {{DIMENSIONS(4), U8, "left", 4}, {DIMENSIONS(5), U8, "right", 5}};
  EXPECT(load_echo(&graph) && open_context(graph, &left) && open_context(graph, &right));
  for (size_t i = 0; i < 3; i++) EXPECT(expect_echo(left, &values[0], 1) && expect_echo(right, &values[1], 1));
}
