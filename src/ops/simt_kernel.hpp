// General kernels that have one form: their source, their launch, and the views of tensors that they take.
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"
#include "jit/jit.hpp"
#include "jit/kernel_cache.hpp"
#include "layout/rows.cuh"

namespace fathom {

/// A __device__ function of kernels/ that takes one struct. `name` is the kernel's: "rms_norm.simt".
struct SimtKernel {
  std::string name;
  std::string header;    // "simt/norm.cuh"
  std::string function;  // "simt::rms_norm"
  std::string args;      // "NormKernel"
  std::size_t args_bytes = 0;
  int threads = kRowThreads;
  int blocks = 1024 / threads;  // that share a multiprocessor at least: 64 registers a thread. Left to itself
                                // the compiler spills a few words to fit more.
};
jit::Source simt_source(const SimtKernel& kernel);

/// The plan of a kernel that has one form.
struct OneForm {
  std::int32_t form = 0;
};
using OneFormSource = jit::Source(const OneForm&);

/// The list of KernelSources for it. Throws InvalidArgument if the text is no problem of the op.
template <class Problem>
std::vector<jit::Source> one_source(std::string_view problem, OneFormSource* source) {
  (void)parse_problem<Problem>(problem);
  return {source({})};
}

/// Blocks for `tasks` of `per_block` each, as many as keep a device busy; kernels go round for the rest.
inline constexpr std::int64_t kGridAxis = 1024;  // blocks along the second and third axis
inline unsigned simt_blocks(std::int64_t tasks, std::int64_t per_block = 1, std::int64_t most = 1 << 16) {
  return static_cast<unsigned>(std::clamp<std::int64_t>((tasks + per_block - 1) / per_block, 1, most));
}
inline constexpr std::int64_t kRowWarps = kRowThreads / 32;

template <class Args>
void launch_simt(OneFormSource* source, const cuda::LaunchConfig& config, const Context& context,
                 const Args& args) {
  jit::launch(jit::kernel(context, source, OneForm{}), config, context, args);
}

/// [rows, dim], [rows, heads, dim] or [dim].
inline SimtRows simt_rows(const TensorView& tensor) {
  return {.data = tensor.data,
          .row = tensor.rank > 1 ? tensor.step(0) : 0,
          .head = tensor.rank > 2 ? tensor.step(1) : 0,
          .bf16 = tensor.dtype == DType::bf16};
}
/// One axis of i32 or i64, or nothing.
inline SimtIntegers simt_integers(const TensorView& tensor) {
  return {.data = tensor.data, .step = tensor.step(0), .wide = tensor.dtype == DType::i64};
}
/// positions and cos_sin of an op that rotates.
inline SimtRotation simt_rotation(const TensorView& positions, const TensorView& cos_sin, std::int64_t offset,
                                  bool interleaved) {
  return {.positions = simt_integers(positions),
          .cos_sin = cos_sin.as<const float>(),
          .cos_sin_row = cos_sin.step(0),
          .max_positions = cos_sin.size(0),
          .half = cos_sin.size(1) / 2,
          .offset = offset,
          .interleaved = interleaved};
}

}  // namespace fathom
