#include "fathom/ops/index_key_gather.hpp"

#include <cmath>
#include <cstring>

#include "ops/op_test.hpp"

namespace fathom {
namespace {

// Stores tokens of several requests on shuffled pages, gathers them, and compares with a store in order.
TEST(IndexKeyGather, ReturnsWhatWasStored) {
  const std::vector<std::int64_t> lens{0, 1, 63, 64, 65, 200};
  const std::vector<std::int64_t> tables{11, 10, 3, 0, 7, 5, 9, 2, 1, 8, 6, 4,
                                         0,  0,  0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  for (const DType type : {DType::u8, DType::f32}) {
    const bool quantised = type == DType::u8;
    const std::int64_t total = 393;
    Random random(4);
    const Tensor k = random.normal(DType::f32, {total, 128});
    Tensor table(DType::i32, {6, 4});
    std::int64_t next = 0;
    Tensor slots(DType::i32, {total});
    std::int64_t row = 0;
    for (std::size_t b = 0; b < lens.size(); ++b) {
      for (std::int64_t i = 0; i < 4; ++i) {  // unused entries are no pages at all
        table.set(static_cast<std::int64_t>(b) * 4 + i,
                  i * 64 < lens[b] ? static_cast<double>(tables[static_cast<std::size_t>(next++)]) : -9);
      }
      for (std::int64_t i = 0; i < lens[b]; ++i)
        slots.set(row++, table[static_cast<std::int64_t>(b) * 4 + i / 64] * 64 + static_cast<double>(i % 64));
    }
    const Tensor cache = quantised ? poisoned(type, {12, 8448}) : poisoned(type, {12, 64, 128});
    index_key_store({.k = k, .slots = slots, .cache = cache}, test_context());
    const Tensor keys = poisoned(quantised ? DType::f8e4m3 : DType::f32, {total, 128});
    const Tensor scales = poisoned(DType::f32, {total});
    index_key_gather({.cache = cache,
                      .block_table = table,
                      .lens = tensor_of<std::int64_t>(DType::i32, {6}, lens),
                      .keys = keys,
                      .scales = quantised ? scales.view() : TensorView{}},
                     test_context());
    if (!quantised) {
      expect_same_bytes(keys, k);
      continue;
    }
    const Tensor straight = poisoned(DType::u8, {7, 8448});
    for (std::int64_t t = 0; t < total; ++t) slots.set(t, static_cast<double>(t));
    index_key_store({.k = k, .slots = slots, .cache = straight}, test_context());
    for (std::int64_t t = 0; t < total; ++t) {
      const auto* page = straight.as<std::uint8_t>() + t / 64 * 8448;
      ASSERT_EQ(std::memcmp(keys.as<std::uint8_t>() + t * 128, page + t % 64 * 128, 128), 0) << t;
      ASSERT_EQ(std::memcmp(scales.as<float>() + t, page + 8192 + t % 64 * 4, 4), 0) << t;
    }
  }
}

// Pages may lie apart, at any alignment, and keys may go to wider rows.
TEST(IndexKeyGather, StridedPages) {
  Random random(6);
  const Tensor k = random.normal(DType::f32, {128, 128});
  Tensor slots(DType::i32, {128});
  for (std::int64_t t = 0; t < 128; ++t) slots.set(t, static_cast<double>(127 - t));
  const Tensor plain = poisoned(DType::u8, {2, kIndexKeyPageBytes});
  const Tensor wide = poisoned(DType::u8, {2, kIndexKeyPageBytes + 5});
  TensorView strided = wide;
  strided.shape[1] = kIndexKeyPageBytes;
  const auto gather = [&](const TensorView& cache, const TensorView& keys, const TensorView& scales) {
    index_key_store({.k = k, .slots = slots, .cache = cache}, test_context());
    index_key_gather({.cache = cache,
                      .block_table = tensor_of<int>(DType::i32, {1, 2}, {1, 0}),
                      .lens = tensor_of<int>(DType::i32, {1}, {100}),
                      .keys = keys,
                      .scales = scales},
                     test_context());
  };
  const Tensor keys = poisoned(DType::f8e4m3, {100, 128}), scales = poisoned(DType::f32, {100});
  gather(plain, keys, scales);
  const Tensor wide_keys = poisoned(DType::f8e4m3, {100, 130}), other_scales = poisoned(DType::f32, {100});
  TensorView strided_keys = wide_keys;
  strided_keys.shape[1] = 128;
  gather(strided, strided_keys, other_scales);
  expect_same_bytes(strided_keys, keys);
  expect_same_bytes(other_scales, scales);
  EXPECT_EQ(wide.as<std::uint8_t>()[kIndexKeyPageBytes], 0x7b);
}

// Pages and keys of other sizes; a page -1 has zeros.
TEST(IndexKeyGather, AnyPage) {
  for (const std::int64_t page : {16, 32, 128}) {
    for (const std::int64_t dim : {32, 64, 128}) {
      Random random(page + dim);
      const Tensor k = random.normal(DType::f32, {2 * page, dim});
      Tensor slots(DType::i32, {2 * page});
      for (std::int64_t t = 0; t < 2 * page; ++t) slots.set(t, static_cast<double>((t + page) % (2 * page)));
      const Tensor cache = poisoned(DType::u8, {2, page * (dim + 4)});
      index_key_store({.k = k, .slots = slots, .cache = cache}, test_context());
      const std::int64_t len = 3 * page - 5;
      const Tensor keys = poisoned(DType::f8e4m3, {len, dim}), scales = poisoned(DType::f32, {len});
      index_key_gather({.cache = cache,
                        .block_table = tensor_of<int>(DType::i32, {1, 3}, {1, -1, 0}),
                        .lens = tensor_of<std::int64_t>(DType::i32, {1}, {len}),
                        .keys = keys,
                        .scales = scales},
                       test_context());
      for (std::int64_t j = 0; j < len; ++j) {
        const bool none = j / page == 1;
        const std::int64_t token = j < page ? j : j - page;
        EXPECT_EQ(scales[j] == 0, none) << j;
        for (std::int64_t d = 0; d < dim; ++d) {
          const double value = k.as<float>()[token * dim + d];
          ASSERT_NEAR(keys[j * dim + d] * scales[j], none ? 0 : value,
                      none ? 0 : 0.07 * std::abs(value) + 1e-3);
        }
      }
    }
  }
}

TEST(IndexKeyGather, RejectsBadArguments) {
  const Tensor cache = poisoned(DType::f32, {2, 64, 8});
  const Tensor table = tensor_of<int>(DType::i32, {1, 2}, {1, 2});
  const auto gather = [&](int len, std::int64_t rows) {
    index_key_gather({.cache = cache,
                      .block_table = table,
                      .lens = tensor_of<int>(DType::i32, {1}, {len}),
                      .keys = poisoned(DType::f32, {rows, 8})},
                     test_context());
  };
  gather(64, 64);
  EXPECT_ERROR(InvalidArgument,
               "index_key_gather: 'block_table' must hold pages from 0 to 1 or -1, got 2 at [0,1]",
               gather(65, 65));
  EXPECT_ERROR(InvalidArgument, "'keys' must have 64 rows, the sum of lens, got [63,8]", gather(64, 63));
  EXPECT_ERROR(InvalidArgument, "'lens' must be at least 0, got -1", gather(-1, 0));
  EXPECT_ERROR(InvalidArgument, "'lens' must be at most 64 * max_pages = 128, got 129 at [0]",
               gather(129, 129));
}

}  // namespace
}  // namespace fathom
