// One small matrix product per group (head): the absorbed projections of MLA.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

struct BatchedGemmNtProblem {
  static constexpr std::string_view op = "batched_gemm_nt";
  std::int64_t tokens = 1;
  std::int64_t groups = 128;
  std::int64_t n = 512;
  std::int64_t k = 128;
  DType x = DType::bf16;
  DType w = DType::bf16;
  DType out = DType::bf16;
  bool aligned = true;  // x and w, to 16 bytes on a device; no part of the problem string

  template <class V>
  void fields(V& visit) {
    visit("tokens", tokens);
    visit("groups", groups);
    visit("n", n);
    visit("k", k);
    visit("x", x);
    visit("w", w);
    visit("out", out);
  }
  bool operator==(const BatchedGemmNtProblem&) const = default;
};

struct BatchedGemmNtArgs {
  TensorView x;          // [tokens, groups, k]
  TensorView w;          // [groups, n, k]
  TensorView out;        // [tokens, groups, n], written
  TensorView w_scale{};  // [groups, ceil(n / 128), ceil(k / 128)], given exactly if w is f8e4m3
};

/// Every group's rows times that group's weights.
///
///   out[t, g, j] = sum_k x[t, g, k] * w[g, j, k] * w_scale[g, j / 128, k / 128]     (the scale only with
///   f8e4m3)
///
///   x        [tokens, groups, k]                           bf16, or f32
///   w        [groups, n, k]                                bf16 or f8e4m3; f32, too, where x is f32
///   w_scale  [groups, ceil(n / 128), ceil(k / 128)]        f32, any strides
///   out      [tokens, groups, n]                           f32 or bf16; f32 where x is f32
///
/// The last axis of x, w and out is contiguous, the others have any stride. Any size may be 0; k = 0 gives
/// zeros. A token's bytes depend neither on the other tokens nor on the thread count. Throws InvalidArgument
/// if a shape, dtype or stride differs.
void batched_gemm_nt(const BatchedGemmNtArgs& args, const Context& context);

}  // namespace fathom
