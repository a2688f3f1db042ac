// Norms, rotations and copies of rows on a device: the bytes of the CPU ops.
#include "fathom/ops/copy_rows.hpp"
#include "fathom/ops/hadamard.hpp"
#include "fathom/ops/layer_norm.hpp"
#include "fathom/ops/rms_norm.hpp"
#include "fathom/ops/rope.hpp"
#include "twin.hpp"

namespace fathom {
namespace {

constexpr DType kFloats[] = {DType::f32, DType::bf16};

// The norms add in the order of 16 lanes with fused products.
bool cpu_adds_in_16_lanes() { return cpu_target().starts_with("avx512"); }

template <class Args>
void check_norm(void (*op)(const Args&, const Context&), std::int64_t rows, std::int64_t dim, DType x_dtype,
                DType weight_dtype, DType out_dtype) {
  SCOPED_TRACE(testing::Message() << rows << " " << dim << " " << to_string(x_dtype) << " "
                                  << to_string(weight_dtype) << " " << to_string(out_dtype));
  Random random(rows + dim);
  const Twin x(random.normal(x_dtype, {rows, dim + 3}, 4), columns(dim));
  const Twin weight(random.uniform(weight_dtype, {dim}, 0.5, 2));
  const Twin bias(random.normal(weight_dtype, {dim}));
  const Twin out(poisoned(out_dtype, {rows, dim + 1}), columns(dim));
  const auto args = [&](bool device) {
    const auto view = [device](const Twin& twin) { return device ? twin.device() : twin.host(); };
    Args result{};
    result.x = view(x);
    result.weight = view(weight);
    if constexpr (requires { result.bias; }) result.bias = view(bias);
    result.out = view(out);
    return result;
  };
  op(args(true), device_context("cuda:simt"));
  op(args(false), test_context());
  if (cpu_adds_in_16_lanes()) return out.expect_same();
  const Strided got = out.download();
  expect_close(shaped(got.buffer.view(), {rows, dim}, {dim + 1, 1}), out.host(),
               {out_dtype == DType::bf16 ? 0x1p-7 : 1e-5, 1e-5});
}

TEST(NormsOnDevice, HaveTheBytesOfTheCpu) {
  for (const auto& [rows, dim] : {std::pair{1, 7168}, {3, 1}, {5, 128}, {2, 1536}, {2, 8193}, {70, 512}}) {
    for (const DType x : kFloats) {
      for (const DType out : kFloats) {
        check_norm(rms_norm, rows, dim, x, DType::bf16, out);
        check_norm(layer_norm, rows, dim, x, rows % 2 == 0 ? DType::f32 : DType::bf16, out);
      }
    }
  }
}

TEST(RopeOnDevice, HasTheBytesOfTheCpu) {
  for (const DType dtype : kFloats) {
    for (const RopeStyle style : {RopeStyle::interleaved, RopeStyle::half_split}) {
      for (const auto& [tokens, heads, rope_dim] : {std::tuple{1, 1, 64}, {5, 3, 64}, {4, 2, 70}}) {
        Random random(tokens);
        const std::int64_t dim = rope_dim + 20;
        const Twin x(random.normal(dtype, {tokens, heads * dim + 5}), [&](const TensorView& all) {
          return shaped(all, {tokens, heads, dim}, {all.step(0), dim, 1});
        });
        Tensor where(tokens == 1 ? DType::i64 : DType::i32, {tokens});
        for (std::int64_t t = 0; t < tokens; ++t) where.set(t, static_cast<double>(random.integer(0, 99)));
        const Twin positions(std::move(where));
        const Twin table(random.normal(DType::f32, {100, rope_dim}));
        rope({x.device(), positions.device(), table.device(), 7, style}, device_context("cuda:simt"));
        rope({x.host(), positions.host(), table.host(), 7, style}, test_context());
        x.expect_same();
      }
    }
  }
}

// A padded row has whatever position: it stays as it is.
TEST(RopeOnDevice, PassesOverPositionsOutsideOfTheTable) {
  const Twin x(Random(1).normal(DType::f32, {3, 64}), [](const TensorView& all) {
    return shaped(all, {3, 1, 64}, {64, 64, 1});
  });
  const Twin positions(tensor_of<int>(DType::i32, {3}, {-1, 8, 1 << 30}));
  const Twin table(Random(2).normal(DType::f32, {8, 64}));
  rope({x.device(), positions.device(), table.device()}, device_context("cuda:simt"));
  x.expect_same();
}

TEST(HadamardOnDevice, HasTheBytesOfTheCpu) {
  for (const auto& [rows, dim] : {std::pair{1, 128}, {200, 128}, {5, 1}, {3, 16}, {2, 16384}, {4, 4096}}) {
    for (const DType dtype : kFloats) {
      const Twin x(Random(dim).normal(dtype, {rows, dim + 3}), columns(dim));
      const Twin out(poisoned(dtype == DType::f32 ? DType::bf16 : DType::f32, {rows, dim + 1}), columns(dim));
      hadamard({x.device(), out.device()}, device_context("cuda:simt"));
      hadamard({x.host(), out.host()}, test_context());
      out.expect_same();
      hadamard({x.device(), x.device()}, device_context("cuda:simt"));
      hadamard({x.host(), x.host()}, test_context());
      x.expect_same();
    }
  }
  const Twin long_row(poisoned(DType::f32, {1, 32768}));
  EXPECT_ERROR(NoImplementation, "cuda:simt: needs a dim up to 16384, got 32768",
               hadamard({long_row.device(), long_row.device()}, device_context()));
}

TEST(CopyRowsOnDevice, HasTheBytesOfTheCpu) {
  for (const DType x_dtype : kFloats) {
    for (const DType out_dtype : kFloats) {
      for (const auto& [tokens, heads, dim] : {std::tuple{1, 1, 7168}, {6, 3, 65}, {9, 1, 1025}}) {
        for (const bool accumulate : {false, true}) {
          if (accumulate && out_dtype != DType::f32) continue;
          Random random(tokens);
          const auto shape = [heads = heads, dim = dim](const TensorView& all) {
            return shaped(all, {all.size(0), heads, dim}, {all.step(0), dim, 1});
          };
          const Twin x(random.normal(x_dtype, {20, heads * dim + 2}), shape);
          const Twin out(random.normal(out_dtype, {tokens, heads * dim + 1}), shape);
          Tensor rows(DType::i32, {tokens});
          for (std::int64_t t = 0; t < tokens; ++t) rows.set(t, static_cast<double>(random.integer(0, 19)));
          const Twin chosen(std::move(rows));
          copy_rows({x.device(), chosen.device(), out.device(), accumulate}, device_context("cuda:simt"));
          copy_rows({x.host(), chosen.host(), out.host(), accumulate}, test_context());
          out.expect_same();
          copy_rows({x.device().rows(0, tokens), {}, out.device(), accumulate}, device_context("cuda:simt"));
          copy_rows({x.host().rows(0, tokens), {}, out.host(), accumulate}, test_context());
          out.expect_same();
        }
      }
    }
  }
}

TEST(CopyRowsOnDevice, PassesOverRowsThatAreNoneOfX) {
  const Twin x(Random(1).normal(DType::f32, {3, 8}));
  const Twin out(poisoned(DType::f32, {3, 8}));
  const Twin rows(tensor_of<int>(DType::i32, {3}, {-1, 3, 1 << 30}));
  copy_rows({x.device(), rows.device(), out.device()}, device_context("cuda:simt"));
  out.expect_same();
}

}  // namespace
}  // namespace fathom
