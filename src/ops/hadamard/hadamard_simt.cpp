#include <cmath>

#include "ops/hadamard/hadamard_impl.hpp"
#include "ops/kernels.hpp"
#include "ops/simt_kernel.hpp"

namespace fathom {
namespace {

jit::Source source(const OneForm&) {
  return simt_source({.name = "hadamard.simt",
                      .header = "simt/rows.cuh",
                      .function = "simt::hadamard",
                      .args = "HadamardKernel",
                      .args_bytes = sizeof(HadamardKernel)});
}

constexpr std::int64_t kMostElements = 16384;  // of a row: 64 KB of shared memory

}  // namespace

Verdict hadamard_simt_can_run(const HadamardProblem& problem, const Context&) {
  if (problem.dim <= kMostElements) return accept;
  return decline("needs a dim up to " + std::to_string(kMostElements) + ", got " +
                 std::to_string(problem.dim));
}

void hadamard_simt(const HadamardProblem& problem, const HadamardArgs& args, const Context& context) {
  if (problem.rows == 0) return;
  const HadamardKernel kernel{.x = simt_rows(args.x),
                              .out = simt_rows(args.out),
                              .rows = problem.rows,
                              .dim = problem.dim,
                              .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(problem.dim)))};
  const std::int64_t elements = std::max<std::int64_t>(problem.dim, kHadamardElements);
  launch_simt(source,
              {.grid = {simt_blocks(problem.rows, elements / problem.dim)},
               .block = {kRowThreads},
               .shared_bytes = elements * size_of(DType::f32)},
              context, kernel);
}

KernelSources hadamard_kernels;
std::vector<jit::Source> hadamard_kernels(std::string_view problem, const cuda::DeviceInfo&) {
  return one_source<HadamardProblem>(problem, source);
}

}  // namespace fathom
