#include "fathom/ops/transform_scale_ue8m0.hpp"

#include <bit>
#include <cmath>
#include <limits>

#include "ops/op_test.hpp"

namespace fathom {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

int exponent_of(float power) { return static_cast<int>(std::bit_cast<std::uint32_t>(power) >> 23); }

// Powers of two of random exponents.
Tensor random_powers(Random& random, std::initializer_list<std::int64_t> shape) {
  Tensor sf(DType::f32, shape);
  for (std::int64_t i = 0; i < sf.count(); ++i) {
    sf.set(i, std::exp2(static_cast<double>(random.integer(-127, 127))));
  }
  return sf;
}

TEST(TransformScaleUe8m0, RoundingVectors) {
  struct Row {
    float value;
    int ceil;
    int cast;
  };
  for (const Row& row :
       {Row{1.0f, 127, 127}, Row{1.0000001f, 128, 128}, Row{0.75f, 127, 127}, Row{1.0f / 448, 119, 119},
        Row{1e-4f / 448, 105, 105}, Row{1e-10f / 448, 85, 85}, Row{0.0f, 1, 0}, Row{0x1p-149f, 1, 0},
        Row{0x1.8p-127f, 1, 1}, Row{3e38f, 254, 254}, Row{0x1p-127f, 1, 0}, Row{-3.0f, 129, 129},
        Row{kInfinity, 254, 255}, Row{kNan, 254, 255}}) {
    EXPECT_EQ(exponent_of(ceil_to_ue8m0(row.value)), row.ceil) << row.value;
    EXPECT_EQ(round_up_to_e8m0(row.value), row.cast) << row.value;
  }
  for (int byte = 0; byte < 255; ++byte) {
    const float value = ue8m0_to_float(static_cast<std::uint8_t>(byte));
    EXPECT_EQ(static_cast<double>(value), std::exp2(byte - 127));
    EXPECT_EQ(round_up_to_e8m0(value), byte);
  }
  EXPECT_TRUE(std::isnan(ue8m0_to_float(255)));
}

TEST(TransformScaleUe8m0, PackingVector) {
  const Tensor sf = tensor_of<float>(DType::f32, {1, 4}, {1.0f, 0.5f, 3.0f, 1.0f / 448});
  const Tensor storage = poisoned(DType::i32, {4});
  const TensorView out = scale_view(storage.view().data, ScaleLayout::packed_ue8m0, 1, 4);
  transform_scale_ue8m0({.sf = sf, .out = out, .rows_per_scale = 1, .round_up = true}, test_context());
  EXPECT_EQ(storage.as<std::uint32_t>()[0], 0x77817e7fu);
  for (int r = 1; r < 4; ++r) EXPECT_EQ(storage.as<std::uint32_t>()[r], 0u);  // padding rows
  EXPECT_ERROR(InvalidArgument, "transform_scale_ue8m0: 'sf[0,2]' must be a power of two, got 3",
               transform_scale_ue8m0({.sf = sf, .out = out, .rows_per_scale = 1}, test_context()));
}

TEST(TransformScaleUe8m0, RoundTrip) {
  Random random(3);
  for (const std::int64_t batch : {0, 3}) {
    for (const std::int64_t mn : {1, 3, 4, 5, 127, 128, 129}) {
      for (const std::int64_t groups : {1, 2, 4, 5, 8}) {
        for (const std::int64_t rows_per_scale : {1, 128}) {
          TransformScaleUe8m0Problem problem{
              .batch = batch, .mn = mn, .groups = groups, .rows_per_scale = rows_per_scale};
          SCOPED_TRACE(problem_string(problem));
          const std::int64_t matrices = std::max<std::int64_t>(batch, 1);
          const std::int64_t rows = (mn + rows_per_scale - 1) / rows_per_scale;
          const std::int64_t aligned = (mn + 3) / 4 * 4;
          const std::int64_t words = (groups + 3) / 4;
          const Tensor sf = random_powers(random, {matrices, rows, groups});
          const Tensor storage = poisoned(DType::i32, {matrices, words, aligned});
          void* data = storage.view().data;
          TransformScaleUe8m0Args args{.sf = sf, .rows_per_scale = rows_per_scale};
          if (batch == 0) {
            args.sf = sf.view();
            args.sf.rank = 2;
            args.sf.shape = {rows, groups};
            args.sf.stride = {groups, 1};
          }
          args.out = batch == 0 ? scale_view(data, ScaleLayout::packed_ue8m0, mn, groups)
                                : scale_view(data, ScaleLayout::packed_ue8m0, batch, mn, groups);
          // DLPack writes stride 1 for an axis of size 1: the op neither minds nor passes it on.
          if (words == 1) args.out.stride[static_cast<std::size_t>(args.out.rank - 1)] = 1;
          const TensorView out = transform_scale_ue8m0(args, test_context());
          EXPECT_EQ(out.step(out.rank - 1), aligned);
          EXPECT_EQ(out.step(out.rank - 2), 1);
          for (std::int64_t i = 0; i < storage.count(); ++i) {
            const std::int64_t r = i % aligned;
            const std::int64_t matrix = i / aligned / words;
            for (std::int64_t j = 0; j < 4; ++j) {
              const std::int64_t g = i / aligned % words * 4 + j;
              const int expected =
                  r < mn && g < groups
                      ? exponent_of(sf.as<float>()[(matrix * rows + r / rows_per_scale) * groups + g])
                      : 0;
              ASSERT_EQ(storage.as<std::uint8_t>()[4 * i + j], expected);
            }
          }
          if (batch > 0) continue;
          const Tensor back = poisoned(DType::f32, {rows, groups});
          unpack_scale_ue8m0(out, rows_per_scale, back);
          expect_same_bytes(back, args.sf);
        }
      }
    }
  }
}

TEST(TransformScaleUe8m0, UnpackFindsRowsThatDiffer) {
  const Tensor sf = tensor_of<float>(DType::f32, {2, 2}, {1, 2, 4, 8});
  const Tensor storage = poisoned(DType::i32, {200});
  const TensorView packed = scale_view(storage.view().data, ScaleLayout::packed_ue8m0, 200, 2);
  transform_scale_ue8m0({.sf = sf, .out = packed}, test_context());
  storage.as<std::uint8_t>()[4 * 150 + 1] += 1;
  EXPECT_ERROR(InvalidArgument,
               "unpack_scale_ue8m0: 'packed[150]' must equal row 128, got another exponent in group 1",
               unpack_scale_ue8m0(packed, 128, sf));
}

TEST(TransformScaleUe8m0, ViewsKeepTheAlignedStride) {
  float data[64];
  for (const std::int64_t rows : {1, 4, 6}) {
    TensorView view = scale_view(data, ScaleLayout::aligned_column_major, rows, 1);
    EXPECT_EQ(view.step(1), (rows + 3) / 4 * 4);
    view.stride[1] = 1;
    EXPECT_EQ(with_aligned_stride(view).step(1), (rows + 3) / 4 * 4);
  }
  const TensorView two = scale_view(data, ScaleLayout::column_major, 6, 2);
  EXPECT_EQ(with_aligned_stride(two).step(1), 6);
  EXPECT_EQ(scale_bytes(ScaleLayout::row_major, 5, 3), 60);
  EXPECT_EQ(scale_bytes(ScaleLayout::aligned_column_major, 5, 3), 96);
  EXPECT_EQ(scale_bytes(ScaleLayout::packed_ue8m0, 5, 3), 32);
  EXPECT_EQ(scale_bytes(ScaleLayout::packed_ue8m0, 0, 3), 0);
}

TEST(TransformScaleUe8m0, RejectsBadArguments) {
  const Tensor sf = tensor_of<float>(DType::f32, {2, 2}, {1, 2, kNan, 8});
  const Tensor storage = poisoned(DType::i32, {400});
  const TensorView out = scale_view(storage.view().data, ScaleLayout::packed_ue8m0, 200, 2);
  const auto expect_error = [](const std::string& text, const TransformScaleUe8m0Args& args) {
    EXPECT_ERROR(InvalidArgument, "transform_scale_ue8m0: " + text,
                 transform_scale_ue8m0(args, test_context()));
  };
  expect_error("'sf[1,0]' must be a power of two, got nan", {.sf = sf, .out = out});
  expect_error("'sf' must have shape [200,2], got [2,2]", {.sf = sf, .out = out, .rows_per_scale = 1});
  expect_error("'rows_per_scale' must be at least 1, got 0", {.sf = sf, .out = out, .rows_per_scale = 0});
  TensorView rows = out;
  rows.stride[0] = 2;
  expect_error("'out' must have row stride 1 (packed_ue8m0), got 2", {.sf = sf, .out = rows});
}

}  // namespace
}  // namespace fathom
