// bf16 x bf16 -> f32 linear layer whose algorithm a Context names once.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

struct LinearBf16Fp32Problem {
  static constexpr std::string_view op = "linear_bf16_fp32";
  std::int64_t m = 1;
  std::int64_t n = 256;
  std::int64_t k = 7168;
  bool decode = false;  // the class of the call, see Args
  bool aligned = true;  // rows of both operands start at multiples of 16 bytes; always true on the host

  template <class V>
  void fields(V& visit) {
    visit("m", m);
    visit("n", n);
    visit("k", k);
    visit("decode", decode);
    visit("aligned", aligned);
  }
  bool operator==(const LinearBf16Fp32Problem&) const = default;
};

struct LinearBf16Fp32Args {
  TensorView x;         // [m, k]
  TensorView w;         // [n, k]
  TensorView out;       // [m, n], written
  bool decode = false;  // the forward mode's class on CUDA: how k is cut, see below
};

/// What ContextOptions::linear_algorithm may name. `automatic` takes the best for the tensors' device that
/// keeps the promises below. `cublaslt` is NVIDIA's library: its choice of kernel, and with it a row's last
/// bits, may change with m and with the library's version.
enum class LinearAlgorithm : std::uint8_t { automatic, native, cublaslt, cpu };
/// "auto", "native", "cublaslt", "cpu"
std::string_view to_string(LinearAlgorithm algorithm);
/// The inverse, which also knows the names other stacks use: deep_gemm (native) and cublas (cublaslt).
/// Throws InvalidArgument, listing what there is, for an unknown name, and NoImplementation for `aiter`,
/// which runs on a platform that Fathom does not.
LinearAlgorithm parse_linear_algorithm(std::string_view name);

/// A linear layer with bf16 operands and an f32 result that is never rounded to bf16.
///
///   out[i, j] = sum_k x[i, k] * w[j, k]
///
///   x    [m, k]  bf16
///   w    [n, k]  bf16
///   out  [m, n]  f32
///
/// On CUDA, `decode` cuts k into as many segments as occupy the device when the weights are few: faster for
/// few rows, and another order of the sum. Within a class a row's bytes depend on n and k alone, not on m.
/// The Context's linear_algorithm decides who computes it. Rows may be further apart than they are long. A
/// row's bytes depend neither on the other rows nor on the thread count. Throws InvalidArgument if a shape,
/// dtype or stride differs, NoImplementation if the named algorithm does not run on the tensors' device.
void linear_bf16_fp32(const LinearBf16Fp32Args& args, const Context& context);

}  // namespace fathom
