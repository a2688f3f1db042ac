#include "cpu/gemm.hpp"
#include "ops/head_gate/head_gate_impl.hpp"

namespace fathom {

void head_gate_cpu(const HeadGateProblem& problem, const HeadGateArgs& args, const Context& context) {
  cpu::gemm(cpu::Gemm::of(args.x, args.w, args.out), context);
  const float scale = head_gate_factor(problem, args);
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    float* out = args.out.as<float>() + t * args.out.step(0);
    const float* q_scale = problem.q_scale ? args.q_scale.as<float>() + t * args.q_scale.step(0) : nullptr;
    for (std::int64_t h = 0; h < problem.heads; ++h) out[h] *= q_scale ? scale * q_scale[h] : scale;
  }
}

}  // namespace fathom
