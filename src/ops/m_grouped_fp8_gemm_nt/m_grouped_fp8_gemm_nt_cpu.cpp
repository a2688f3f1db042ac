// m_grouped_fp8_gemm_nt on the CPU.
#include "ops/gemm_scales.hpp"
#include "ops/grouped_cpu.hpp"
#include "ops/m_grouped_fp8_gemm_nt/m_grouped_fp8_gemm_nt_impl.hpp"

namespace fathom {

void m_grouped_fp8_gemm_nt_cpu(const MGroupedFp8GemmNtProblem& problem, const MGroupedFp8GemmNtArgs& args,
                               const Context& context) {
  grouped_gemm(
      problem, args, context,
      [&](cpu::Gemm& gemm, std::size_t group, std::int64_t block, std::int64_t begin, std::int64_t end) {
        gemm.a_scale = cpu::gemm_scale(row_block(args.a_scale, block, begin, end), 1);
        gemm.b_scale = cpu::gemm_scale(args.b_scale[group], kScaleGroup);
      });
}

}  // namespace fathom
