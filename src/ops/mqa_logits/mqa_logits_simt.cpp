#include "ops/kernels.hpp"
#include "ops/mqa_kernels.hpp"
#include "ops/mqa_logits/mqa_logits_impl.hpp"
#include "ops/simt_kernel.hpp"

namespace fathom {
namespace {

struct Plan {
  std::int32_t f32;
};

jit::Source source(const Plan& plan) {
  const std::string element = plan.f32 ? "F32" : "F8";
  return simt_source({.name = plan.f32 ? "mqa_logits.simt_f32" : "mqa_logits.simt_f8",
                      .header = "simt/mqa.cuh",
                      .function = "simt::mqa_logits<fathom::simt::Mqa" + element + ">",
                      .args = "MqaLogitsKernel",
                      .args_bytes = sizeof(MqaLogitsKernel),
                      .blocks = 3});
}

Plan plan_of(const MqaLogitsProblem& problem) { return {problem.q == DType::f32}; }

}  // namespace

void mqa_logits_simt(const MqaLogitsProblem& problem, const MqaLogitsArgs& args, const Context& context) {
  if (problem.tokens == 0 || problem.keys == 0) return;
  const auto tiles = static_cast<unsigned>((problem.keys + kMqaKeys - 1) / kMqaKeys);
  jit::launch(jit::kernel(context, source, plan_of(problem)),
              {.grid = {tiles, simt_blocks(problem.tokens, 1, kGridAxis)}, .block = {kRowThreads}}, context,
              mqa_logits_kernel(problem, args));
}

KernelSources mqa_logits_kernels;
std::vector<jit::Source> mqa_logits_kernels(std::string_view text, const cuda::DeviceInfo& device) {
  const auto problem = parse_problem<MqaLogitsProblem>(text);
  std::vector<jit::Source> sources = mqa_logits_sm90_kernels(problem, device);
  sources.push_back(source(plan_of(problem)));
  return sources;
}

}  // namespace fathom
