// The general grouped product on CUDA, for the ops whose last entry it is. See kernels/simt/grouped_gemm.cuh.
#pragma once
#include <span>

#include "ops/grouped.hpp"
#include "ops/simt_gemm.hpp"

namespace fathom {

/// Validated tensors of a grouped product; scales of FP8 only.
struct GroupedTensors {
  TensorView a, a_scale;
  std::span<const TensorView> b, b_scale;
  GroupedRows rows;
  TensorView out;
  TensorView out_scale{};  // of what is activated and quantised
};

jit::Source simt_grouped_source(const SimtGemmPlan& plan);

/// All but the weights.
SimtGroupedArgs simt_grouped_args(GroupLayout layout, const GroupedTensors& tensors);

/// One launch for every SimtGroupedArgs::kMost groups: the place of each one's weights is an argument.
void run_simt_grouped(const SimtGemmPlan& plan, GroupLayout layout, const GroupedTensors& tensors,
                      const Context& context);

}  // namespace fathom
