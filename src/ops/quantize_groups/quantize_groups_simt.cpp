#include <fmt/format.h>

#include "jit/kernel_cache.hpp"
#include "ops/kernels.hpp"
#include "ops/quantize_groups/quantize_groups_impl.hpp"
#include "ops/simt_quant.hpp"

namespace fathom {
namespace {

struct Plan {
  DType x;
  QuantRule rule;
  ScaleFormat format;
  bool vector;  // rows of x and q on 16 bytes, k a multiple of 16
};

jit::Source source(const Plan& plan) {
  const bool f32 = plan.x == DType::f32;
  const bool ue8m0 = plan.format == ScaleFormat::ue8m0;
  return {fmt::format("quantize_groups.simt_{}_{}_{}{}", f32 ? "f32" : "bf16", to_string(plan.rule),
                      to_string(plan.format), plan.vector ? "" : "_any"),
          fmt::format("#include \"simt/group_quant.cuh\"\n"
                      "extern \"C\" __global__ void __launch_bounds__(fathom::kQuantThreads)\n"
                      "fathom_kernel(const __grid_constant__ fathom::QuantizeKernelArgs args) {{\n"
                      "  static_assert(sizeof(fathom::QuantizeKernelArgs) == {});\n"
                      "  fathom::simt::quantize_groups<{}, {}, {}, {}>(args);\n}}\n",
                      sizeof(QuantizeKernelArgs), f32 ? "float" : "unsigned short",
                      static_cast<int>(plan.rule), ue8m0, plan.vector)};
}

}  // namespace

void quantize_groups_simt(const QuantizeGroupsProblem& problem, const QuantizeGroupsArgs& args,
                          const Context& context) {
  const std::int64_t groups = scale_groups(problem.k);
  if (problem.tokens == 0) return;
  const Plan plan{problem.x, problem.rule, problem.scale_format,
                  problem.k % kQuantEach == 0 && rows_on_16_bytes(args.x) && rows_on_16_bytes(args.q)};
  const QuantizeKernelArgs kernel{.x = args.x.data,
                                  .q = args.q.data,
                                  .x_row = args.x.step(0),
                                  .q_row = args.q.step(0),
                                  .rows = problem.tokens,
                                  .k = problem.k,
                                  .scale = scale_target(args.scale, problem.scale_layout, groups)};
  jit::launch(jit::kernel(context, source, plan),
              {.grid = {grid_for(problem.tokens * groups, kQuantTeams)}, .block = {kQuantThreads}}, context,
              kernel);
}

KernelSources quantize_groups_kernels;
std::vector<jit::Source> quantize_groups_kernels(std::string_view text, const cuda::DeviceInfo&) {
  const auto problem = parse_problem<QuantizeGroupsProblem>(text);
  std::vector<jit::Source> sources{source({problem.x, problem.rule, problem.scale_format, false})};
  if (problem.k % kQuantEach == 0)
    sources.push_back(source({problem.x, problem.rule, problem.scale_format, true}));
  return sources;
}

}  // namespace fathom
