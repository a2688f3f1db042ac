// Grouped matrix products on Hopper's tensor cores, for the ops that have an "sm90:wgmma" entry: which kernel
// takes a problem, and its launch. See kernels/sm90/grouped_walk.cuh.
#pragma once
#include "ops/simt_grouped.hpp"
#include "ops/sm90_gemm.hpp"

namespace fathom {

/// What is multiplied. The kernel depends on no count: these are read on the device.
struct Sm90GroupedShape {
  bool fp8 = true;  // e4m3 with scales; false: bf16
  bool masked = false;
  std::int64_t groups = 0;
  std::int64_t rows = 0;  // of all groups; masked: max_m
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t expected_m =
      0;               // rows of a group, where the caller knows; 0: as if all groups were full and alike
  bool by_id = false;  // every row names its group
};

/// Of an MGroupedFp8GemmNtProblem or an MGroupedBf16GemmNtProblem.
template <class Problem>
Sm90GroupedShape sm90_grouped_shape(const Problem& problem, bool fp8) {
  return {.fp8 = fp8,
          .masked = problem.layout == GroupLayout::masked,
          .groups = problem.groups,
          .rows = problem.rows,
          .n = problem.n,
          .k = problem.k,
          .expected_m = problem.expected_m,
          .by_id = problem.layout == GroupLayout::contiguous};
}

/// What a kernel is compiled for; compared byte by byte.
struct Sm90GroupedKernel {
  std::int32_t swapped;  // for few rows: weights take the place of tokens in the products
  std::int32_t fp8;
  std::int32_t tile_m;  // rows
  std::int32_t tile_n;  // weights
  std::int32_t stages;
  std::int32_t cluster_n;      // blocks that share a tile of rows
  std::int32_t activates = 0;  // 128 gates and 128 ups a tile, of which silu(gate) * up leaves, quantised
  bool operator==(const Sm90GroupedKernel&) const = default;
};

/// Pure. Every kernel gives the same bits: k is one segment, as in the class prefill of dense products.
Sm90GroupedKernel plan_sm90_grouped(const Sm90GroupedShape& shape, const cuda::DeviceInfo& device);
/// For gates and ups, which n counts together, with an out of f8e4m3 and out_scale.
Sm90GroupedKernel plan_sm90_activated(const Sm90GroupedShape& shape);
/// Whether that was measured to be faster than the product by itself and an activation of its own.
bool better_activated(const Sm90GroupedShape& shape, const cuda::DeviceInfo& device);
GemmPrefillConfig sm90_grouped_config(const Sm90GroupedKernel& kernel);
jit::Source sm90_grouped_source(const Sm90GroupedKernel& kernel);

/// What a problem may launch on the device: the kernel of cuda:simt, and on Hopper the planned ones.
std::vector<jit::Source> grouped_sources(const Sm90GroupedShape& shape, const cuda::DeviceInfo& device);

/// Whether TMA can address rows of a and b, and b and b_scale are stacks.
bool grouped_suits_tma(const GroupedTensors& tensors);
/// The same of the weights alone.
bool grouped_weights_suit_tma(std::span<const TensorView> b, std::span<const TensorView> b_scale);

Verdict sm90_grouped_verdict(const Sm90GroupedShape& shape, bool aligned, const Context& context);
/// The product by a kernel of the caller's choice; any kernel takes any problem. k is not 0, nor rows, nor n.
void launch_sm90_grouped(const Sm90GroupedKernel& plan, const Sm90GroupedShape& shape, GroupLayout layout,
                         const GroupedTensors& tensors, const Context& context);
void run_sm90_grouped(const Sm90GroupedShape& shape, GroupLayout layout, const GroupedTensors& tensors,
                      const Context& context);

}  // namespace fathom
