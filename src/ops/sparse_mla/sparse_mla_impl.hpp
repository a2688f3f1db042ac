// The implementations of sparse_mla.
#pragma once
#include <vector>

#include "cuda/driver.hpp"
#include "fathom/ops/sparse_mla.hpp"
#include "jit/jit.hpp"
#include "layout/sparse_mla.cuh"
#include "ops/dispatch.hpp"

namespace fathom {
/// How many indices of row t count.
inline std::int64_t sparse_mla_length(const SparseMlaArgs& args, std::int64_t t) {
  return args.lengths.given() ? args.lengths.as<const std::int32_t>()[t * args.lengths.step(0)]
                              : args.indices.size(1);
}
void sparse_mla_ref(const SparseMlaProblem& problem, const SparseMlaArgs& args, const Context& context);
void sparse_mla_cpu(const SparseMlaProblem& problem, const SparseMlaArgs& args, const Context& context);
Verdict sparse_mla_simt_can_run(const SparseMlaProblem& problem, const Context& context);
void sparse_mla_simt(const SparseMlaProblem& problem, const SparseMlaArgs& args, const Context& context);
Verdict sparse_mla_sm90_can_run(const SparseMlaProblem& problem, const Context& context);
void sparse_mla_sm90(const SparseMlaProblem& problem, const SparseMlaArgs& args, const Context& context);
/// None if it declines the problem.
std::vector<jit::Source> sparse_mla_sm90_kernels(const SparseMlaProblem& problem,
                                                 const cuda::DeviceInfo& device);
/// What both kernels take.
SparseMlaKernel sparse_mla_kernel(const SparseMlaProblem& problem, const SparseMlaArgs& args);
}  // namespace fathom
