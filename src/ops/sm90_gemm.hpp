// Matrix products on Hopper's tensor cores, for the ops that have an "sm90:wgmma" entry: which kernel takes a
// problem, and its launch. See kernels/sm90/gemm_decode.cuh, gemm_few.cuh and gemm_prefill.cuh.
#pragma once
#include <cstdint>
#include <vector>

#include "cuda/driver.hpp"
#include "jit/jit.hpp"
#include "ops/simt_gemm.hpp"
#include "ops/sm90.hpp"

namespace fathom {

/// The general kernel for what these decline.
inline SimtGemmPlan simt_plan(bool fp8) { return {fp8 ? SimtElement::f8e4m3 : SimtElement::bf16}; }

/// Elements of a 128-byte block of k.
constexpr std::int64_t block_elements(bool fp8) { return fp8 ? 128 : 64; }

/// What is multiplied: out[m, n] = a[m, k] * b[n, k]^T. `decode` is the class that the caller gives: it fixes
/// the order of a sum, with n and k. Within a class a row of out does not depend on m.
struct Sm90GemmShape {
  bool fp8 = true;  // e4m3 with scales; false: bf16
  bool decode = false;
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  bool row_scales = false;  // FP8 with scales for every row of b, by the prefill kernel in both classes
};

enum class Sm90GemmKind : std::int32_t { prefill, decode, few };

/// What a kernel is compiled for; compared byte by byte.
struct Sm90GemmKernel {
  Sm90GemmKind kind;
  std::int32_t fp8;
  std::int32_t tile_m;
  std::int32_t tile_n;
  std::int32_t stages;
  std::int32_t groups;         // decode
  std::int32_t stage_blocks;   // decode
  std::int32_t most_segments;  // decode: its exchange has room for so many
  std::int32_t cluster_m;      // prefill
  std::int32_t cluster_n;
  std::int32_t row_scales;  // prefill
  std::int32_t shares;      // prefill: its last round
  std::int32_t pairs;       // decode and few: bf16 whose sums are the same in both
  bool operator==(const Sm90GemmKernel&) const = default;
};

struct Sm90GemmPlan {
  Sm90GemmKernel kernel;
  int segments;                // of k, each summed on its own by a block of a cluster
  GemmShare share = {};        // of a kernel that shares; its queue is the launch's
  bool weights_leave = false;  // L2 before anything else: of a prefill kernel, the others always let them
};

/// Segments of k in the class: 1 for prefill, and for decode as many as it takes to occupy the device when
/// there are few weights. A function of n and k alone, so that every device of the architecture gives the
/// same sums.
int sm90_gemm_segments(bool fp8, bool decode, std::int64_t n, std::int64_t k);

/// Pure; the fastest for the shape as measured on an H200 (docs/performance_hopper.md).
Sm90GemmPlan plan_sm90_gemm(const Sm90GemmShape& shape, const cuda::DeviceInfo& device);
jit::Source sm90_gemm_source(const Sm90GemmKernel& kernel);
/// Shared memory of a block.
int sm90_gemm_shared_bytes(const Sm90GemmKernel& kernel);

/// What a product of this shape may launch on the device: the kernel of cuda:simt, and the planned one on
/// Hopper.
std::vector<jit::Source> gemm_sources(const Sm90GemmShape& shape, const cuda::DeviceInfo& device);

/// Whether a call of the decode class runs in it: not if the context is invariant.
inline bool in_decode_class(bool decode, const Context& context) {
  return decode && !context.options().invariant;
}

/// How the kernels are told of a scale.
inline GemmScale scale_kind(const TensorView& scale) {
  return scale.dtype == DType::i32 ? GemmScale::packed : GemmScale::plain;
}

/// A matrix of rows that suit TMA, for boxes of 128 bytes x `rows`.
TensorMap sm90_operand_map(const TensorView& tensor, std::int64_t rows, const Context& context);

/// Lets the prefill kernel store a bf16 result through TMA, if that can: `spec` says where the result is and
/// its sizes and strides.
void map_result(GemmArgs& args, cuda::TensorMapSpec spec, const GemmPrefillConfig& config,
                const Context& context);

/// Whether TMA can address a tensor's rows: their distance and the first address are multiples of 16 bytes,
/// or they are empty.
bool rows_suit_tma(const TensorView& tensor);

/// Sizes, device and alignment; `aligned` says that rows_suit_tma(a) and (b).
Verdict sm90_gemm_verdict(const Sm90GemmShape& shape, bool aligned, const Context& context);

/// bf16 to f32 only: every sum times `factor`, and times scale[m, n] (f32) if there is one.
struct Sm90Gate {
  bool given = false;
  float factor = 1;
  TensorView scale;
};

struct Sm90GemmTensors {
  TensorView a, a_scale, b, b_scale, out;  // validated; scales of FP8 only
  bool accumulate = false;                 // into f32
  Sm90Gate gate;
};
void run_sm90_gemm(const Sm90GemmShape& shape, const Sm90GemmTensors& tensors, const Context& context);

}  // namespace fathom
