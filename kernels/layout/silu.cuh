// SiLU as a fixed sequence of f32 operations, so that every implementation on host and device gives the same bytes:
// see ADR 0020. And what the host and the kernels of the gated activation agree on. Compiled by both, so it includes
// nothing but its like.
#pragma once
#include "layout/group_quant.cuh"

namespace fathom {

// exp(t) = 2^n * exp(r) with n = round(t / ln 2) and exp(r) = 1 + r + r^2 * p(r); p interpolates at the Chebyshev nodes
// of [-ln2/2, ln2/2] and its own relative error is 1e-8. Every product and sum below rounds to f32; none is fused. The
// result is within 2 ulp of the true exponential (tested).
struct ExpConstants {
  static constexpr float kLeast = -80.0f;     // 1 + exp(t) is 1 below -17; the bound keeps n above -127
  static constexpr float kMost = 89.0f;       // exp(t) is infinite above 88.73
  static constexpr float kRound = 0x1.8p23f;  // adding it rounds to an integer, kept in the low bits
  static constexpr float kLog2E = 1.44269504f;
  static constexpr float kLn2High = 0x1.63p-1f;  // 9 bits, so that n * kLn2High is exact
  static constexpr float kLn2Low = -2.12194440e-4f;
  static constexpr float kP0 = 0.5f;
  static constexpr float kP1 = 0x1.5554dep-3f;
  static constexpr float kP2 = 0x1.55551ap-5f;
  static constexpr float kP3 = 0x1.120b62p-7f;
  static constexpr float kP4 = 0x1.6d10fcp-10f;
};

/// exp(t) for the sum 1 + exp(t): below -80 it gives exp(-80). NaN gives any number; +infinity gives infinity.
inline float exp_for_sigmoid(float t) {
  using C = ExpConstants;
  t = t > C::kLeast ? t : C::kLeast;  // also NaN
  t = t < C::kMost ? t : C::kMost;
  const float shifted = t * C::kLog2E + C::kRound;
  const float n = shifted - C::kRound;
  const float r = (t - n * C::kLn2High) - n * C::kLn2Low;
  const float p = (((C::kP4 * r + C::kP3) * r + C::kP2) * r + C::kP1) * r + C::kP0;
  const float y = ((r * r) * p + r) + 1.0f;
  // 2^(n-1), then doubled: n reaches 128, which has no f32.
  const float power = __builtin_bit_cast(float, (__builtin_bit_cast(unsigned, shifted) + 126u) << 23);
  return (y * power) * 2.0f;
}

/// g / (1 + exp(-g)). NaN stays NaN; -infinity gives NaN, as the formula does.
inline float silu(float g) { return g / (1.0f + exp_for_sigmoid(-g)); }

/// The clamp before the product: the gate from above only, up on both sides. NaN stays NaN.
inline float clamp_gate(float gate, float limit) { return gate > limit ? limit : gate; }
inline float clamp_up(float up, float limit) { return up > limit ? limit : up < -limit ? -limit : up; }

/// Rows of gates and ups, f32 or bf16 as the kernel says, to rows of f32 or bf16.
struct SiluMulKernelArgs {
  const void* gate_up;
  void* out;
  long long gate_up_row, out_row;  // elements between neighbouring rows
  long long rows, dim;             // dim: of out
  float limit;
};
inline constexpr int kSiluThreads = 256;
inline constexpr int kSiluEach = 8;  // outputs of a thread

/// The same, quantised to f8e4m3. Masked: `experts` matrices, of which the first masked_m[e] rows count.
struct SiluMulQuantKernelArgs {
  const void* gate_up;
  void* q;
  const int* masked_m;  // null: one matrix of `rows` rows
  long long masked_m_step;
  long long experts, rows, dim;
  long long gate_up_matrix, gate_up_row, q_matrix, q_row;  // elements between neighbours
  ScaleTarget scale;
  float limit;
};
/// Whose rows a kernel works on: those of one matrix, of the expert that is blockIdx.y, or of all experts, 32 at a time.
enum class SiluRows : unsigned char { matrix, one, each };
/// That registers leave room for.
inline constexpr int silu_quant_blocks_per_sm(bool bf16) { return bf16 ? 6 : 4; }

}  // namespace fathom
