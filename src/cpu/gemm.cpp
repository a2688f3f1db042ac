// Splits matrix products into pieces for the threads and chooses the instruction-set version.
#include "cpu/gemm.hpp"

#include <algorithm>

#include "core/cpu_target.hpp"
#include "cpu/gemm_impl.hpp"
#include "fathom/core/buffer.hpp"

namespace fathom::cpu {

GemmScale gemm_scale(const TensorView& scale, std::int64_t rows) {
  if (!scale.given()) return {};
  return {scale.data, scale.dtype == DType::i32, scale.step(0), scale.step(1), rows};
}

Gemm Gemm::of(const TensorView& a, const TensorView& b, const TensorView& out) {
  return {.m = a.size(0),
          .n = b.size(0),
          .k = a.size(1),
          .a = a.data,
          .a_dtype = a.dtype,
          .a_stride = a.step(0),
          .b = b.data,
          .b_dtype = b.dtype,
          .b_stride = b.step(0),
          .out = out.data,
          .out_dtype = out.dtype,
          .out_stride = out.step(0)};
}

std::byte* gemm_scratch(std::int64_t bytes) {
  thread_local Buffer buffer;
  if (buffer.size() < bytes) buffer = Buffer(bytes + bytes / 2);
  return buffer.data();
}

void gemm_columns(const Gemm& gemm, std::int64_t begin, std::int64_t end) {
  if (gemm.a_dtype != DType::f32 && has_avx512_bf16()) return gemm_columns_avx512_bf16(gemm, begin, end);
  gemm_columns_simd(gemm, begin, end);
}

namespace {
constexpr std::int64_t kColumns = 64;  // of one piece

// Rough nanoseconds of one piece of 64 columns on one core: the weights' way from memory, or the arithmetic.
double piece_cost(const Gemm& p) {
  const double weights = static_cast<double>(kColumns * p.k * size_of(p.b_dtype)) / 20;
  const double products = static_cast<double>(p.m) * static_cast<double>(kColumns * p.k) / 150;
  return weights + products;
}
}  // namespace

void gemm_all(std::span<const Gemm> products, const Context& context) {
  std::int64_t pieces = 0;
  double cost = 0;
  for (const Gemm& p : products) {
    if (p.m == 0) continue;
    const std::int64_t count = (p.n + kColumns - 1) / kColumns;
    pieces += count;
    cost += static_cast<double>(count) * piece_cost(p);
  }
  if (pieces == 0) return;
  // Waking a thread costs some microseconds: a task is worth at least as much.
  constexpr double kTaskCost = 8000;
  const auto grain = static_cast<std::int64_t>(kTaskCost / (cost / static_cast<double>(pieces))) + 1;
  context.parallel_for(pieces, grain, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t first = 0;  // piece number of the product's first piece
    for (const Gemm& p : products) {
      if (p.m == 0) continue;
      const std::int64_t last = first + (p.n + kColumns - 1) / kColumns;
      const std::int64_t from = std::max(begin, first);
      const std::int64_t to = std::min(end, last);
      if (from < to) gemm_columns(p, (from - first) * kColumns, std::min(p.n, (to - first) * kColumns));
      first = last;
      if (first >= end) break;
    }
  });
}

}  // namespace fathom::cpu
