// m_grouped_linear_f32 on the CPU.
#include "ops/gemm_scales.hpp"
#include "ops/grouped_cpu.hpp"
#include "ops/m_grouped_linear_f32/m_grouped_linear_f32_impl.hpp"

namespace fathom {

void m_grouped_linear_f32_cpu(const MGroupedLinearF32Problem& problem, const MGroupedLinearF32Args& args,
                              const Context& context) {
  grouped_gemm(problem, args, context, [&](cpu::Gemm& gemm, std::size_t group, auto...) {
    if (!args.b_scale.empty()) gemm.b_scale = cpu::gemm_scale(args.b_scale[group], kScaleGroup);
  });
}

}  // namespace fathom
