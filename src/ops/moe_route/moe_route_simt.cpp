// moe_route on CUDA: see kernels/simt/moe_route.cuh.
#include "jit/kernel_cache.hpp"
#include "layout/moe.cuh"
#include "ops/kernels.hpp"
#include "ops/moe_route/moe_route_impl.hpp"
#include "ops/simt_quant.hpp"

namespace fathom {
namespace {

constexpr std::int64_t kMostExperts = 4096;
constexpr std::int64_t kMostShared = 48 << 10;  // bytes that every architecture has

struct Plan {
  RouterScoring scoring;
};

jit::Source source(const Plan& plan) {
  const bool softmax = plan.scoring == RouterScoring::softmax;
  return {"moe_route.simt_" + std::string(to_string(plan.scoring)),
          "#include \"simt/moe_route.cuh\"\n"
          "extern \"C\" __global__ void __launch_bounds__(32 * fathom::kRouteMostWarps)\n"
          "fathom_kernel(const __grid_constant__ fathom::MoeRouteKernelArgs args) {\n"
          "  static_assert(sizeof(fathom::MoeRouteKernelArgs) == " +
              std::to_string(sizeof(MoeRouteKernelArgs)) +
              ");\n  extern __shared__ unsigned shared[];\n  fathom::simt::moe_route<" +
              (softmax ? "true" : "false") + ">(args, shared);\n}\n"};
}

}  // namespace

Verdict moe_route_simt_can_run(const MoeRouteProblem& problem, const Context&) {
  if (problem.experts <= kMostExperts) return accept;
  return decline("needs at most " + std::to_string(kMostExperts) + " experts, got " +
                 std::to_string(problem.experts));
}

void moe_route_simt(const MoeRouteProblem& problem, const MoeRouteArgs& args, const Context& context) {
  if (problem.tokens == 0) return;
  const MoeRouteKernelArgs kernel{
      .logits = args.logits.as<const float>(),
      .bias = problem.bias ? args.correction_bias.as<const float>() : nullptr,
      .ids = args.ids.as<int>(),
      .weights = args.weights.as<float>(),
      .logits_row = args.logits.step(0),
      .ids_row = args.ids.step(0),
      .weights_row = args.weights.step(0),
      .tokens = problem.tokens,
      .experts = static_cast<int>(problem.experts),
      .n_group = static_cast<int>(problem.n_group),
      .topk_group = static_cast<int>(problem.topk_group),
      .top_k = static_cast<int>(problem.top_k),
      .renormalize = problem.renormalize,
      .scaling = args.routed_scaling,
  };
  const std::int64_t bytes = route_shared_bytes(kernel.experts, kernel.n_group, kernel.top_k);
  const std::int64_t warps = std::clamp<std::int64_t>(kMostShared / bytes, 1, kRouteMostWarps);
  jit::launch(jit::kernel(context, source, Plan{problem.scoring}),
              {.grid = {grid_for(problem.tokens, warps)},
               .block = {static_cast<unsigned>(32 * warps)},
               .shared_bytes = warps * bytes},
              context, kernel);
}

KernelSources moe_route_kernels;
std::vector<jit::Source> moe_route_kernels(std::string_view text, const cuda::DeviceInfo&) {
  return {source({parse_problem<MoeRouteProblem>(text).scoring})};
}

}  // namespace fathom
