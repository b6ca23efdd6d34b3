// The tensor resource: what it was made of is what it gives back.
#include "../nn_resources.h"

static bool expect_kept(tensor value) {
  tensor_handle handle = make_tensor(value);
  bool kept = expect_tensor("the tensor", read_tensor(handle), value);
  tensor_drop(handle);
  return kept;
}

static bool expect_type_kept(enum tensor_type type, size_t item_size) {
  return expect_kept((tensor){DIMENSIONS(2, 3), type, noise(6 * item_size, type), 6 * item_size});
}

CHECK(tensor_of_fp16, "tensor/type-fp16") { EXPECT(expect_type_kept(FP16, 2)); }
CHECK(tensor_of_fp32, "tensor/type-fp32") { EXPECT(expect_type_kept(FP32, 4)); }
CHECK(tensor_of_fp64, "tensor/type-fp64") { EXPECT(expect_type_kept(FP64, 8)); }
CHECK(tensor_of_bf16, "tensor/type-bf16") { EXPECT(expect_type_kept(BF16, 2)); }
CHECK(tensor_of_u8, "tensor/type-u8") { EXPECT(expect_type_kept(U8, 1)); }
CHECK(tensor_of_i32, "tensor/type-i32") { EXPECT(expect_type_kept(I32, 4)); }
CHECK(tensor_of_i64, "tensor/type-i64") { EXPECT(expect_type_kept(I64, 8)); }

CHECK(tensor_of_one_value, "tensor/one-value") {
  EXPECT(expect_kept((tensor){DIMENSIONS(1), FP32, noise(4, 1), 4}));
}

CHECK(tensor_of_rank_zero, "tensor/rank-zero") {
  EXPECT(expect_kept((tensor){SCALAR, FP32, noise(4, 1), 4}));
}

CHECK(tensor_without_values, "tensor/empty") {
  EXPECT(expect_kept((tensor){DIMENSIONS(0), U8, NULL, 0}));
  EXPECT(expect_kept((tensor){DIMENSIONS(2, 0, 3), FP64, NULL, 0}));
}

CHECK(tensor_of_many_dimensions, "tensor/rank-32") {
  uint32_t dimensions[32];
  for (size_t i = 0; i < LENGTH(dimensions); i++) dimensions[i] = i == 7 ? 5 : 1;
  EXPECT(expect_kept((tensor){{dimensions, LENGTH(dimensions)}, I32, noise(20, 1), 20}));
}

CHECK(tensor_of_every_byte, "tensor/every-byte") {
  uint8_t bytes[256];
  for (size_t i = 0; i < LENGTH(bytes); i++) bytes[i] = i;
  EXPECT(expect_kept((tensor){DIMENSIONS(256), U8, bytes, 256}));
}

CHECK(tensor_of_nan, "tensor/nan-payload") {
  static const uint32_t BITS[] = {0x7fc00000, 0xffc00001, 0x7f800001, 0x7fbfffff, 0x80000000, 0x00000001, 0x7f800000};
  EXPECT(expect_kept((tensor){DIMENSIONS(LENGTH(BITS)), FP32, BITS, sizeof BITS}));
}

CHECK(tensor_of_an_image, "tensor/large-600kb") {
  EXPECT(expect_kept((tensor){DIMENSIONS(1, 3, 224, 224), FP32, noise(602112, 1), 602112}));
}

CHECK(tensor_of_megabytes, "tensor/large-2mb") {
  EXPECT(expect_kept((tensor){DIMENSIONS(2, 1024, 1024), U8, noise(2 << 20, 2), 2 << 20}));
}

CHECK(tensor_of_wrong_length, "tensor/wrong-length") {
  EXPECT(expect_kept((tensor){DIMENSIONS(2, 2), FP32, noise(3, 1), 3}));
  EXPECT(expect_kept((tensor){DIMENSIONS(1), U8, "five!", 5}));
}

CHECK(tensor_of_huge_dimensions, "tensor/huge-dimensions") {
  EXPECT(expect_kept((tensor){DIMENSIONS(UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX), FP64, NULL, 0}));
}

CHECK(tensor_is_a_copy, "tensor/copied") {
  uint8_t bytes[] = "before";
  tensor_handle handle = make_tensor((tensor){DIMENSIONS(6), U8, bytes, 6});
  __builtin_memset(bytes, 0, sizeof bytes);
  EXPECT(expect_tensor("the tensor", read_tensor(handle), (tensor){DIMENSIONS(6), U8, "before", 6}));
}

CHECK(tensor_read_twice, "tensor/read-twice") {
  tensor value = {DIMENSIONS(3), U8, "abc", 3};
  tensor_handle handle = make_tensor(value);
  tensor first = read_tensor(handle);
  ((uint8_t *)first.data)[0] = 'z';
  EXPECT(expect_tensor("the tensor", read_tensor(handle), value));
}

CHECK(tensors_at_once, "tensor/100-at-once") {
  tensor_handle handles[100];
  for (size_t i = 0; i < LENGTH(handles); i++) handles[i] = make_tensor((tensor){DIMENSIONS(i), U8, noise(i, i), i});
  for (size_t i = 0; i < LENGTH(handles); i++) {
    EXPECT(expect_tensor("a tensor", read_tensor(handles[i]), (tensor){DIMENSIONS(i), U8, noise(i, i), i}));
  }
  for (size_t i = LENGTH(handles); i > 0; i--) tensor_drop(handles[i - 1]);
}

CHECK(tensors_in_a_row, "tensor/1000-in-a-row") {
  for (size_t i = 0; i < 1000; i++) EXPECT(expect_kept((tensor){DIMENSIONS(8), U8, "a tensor", 8}));
}
