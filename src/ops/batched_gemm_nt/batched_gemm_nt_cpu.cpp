#include <vector>

#include "cpu/gemm.hpp"
#include "ops/batched_gemm_nt/batched_gemm_nt_impl.hpp"

namespace fathom {
namespace {
void* element_address(const TensorView& tensor, std::int64_t index) {
  return tensor.as<std::byte>() + index * size_of(tensor.dtype);
}

/// The 128x128 scales of one group's weights; nothing where there are none.
cpu::GemmScale scale_of_group(TensorView scale, std::int64_t group) {
  if (!scale.given()) return {};
  scale.data = element_address(scale, group * scale.step(0));
  scale.rank = 2;
  scale.shape = {scale.size(1), scale.size(2)};
  scale.stride = {scale.step(1), scale.step(2)};
  return cpu::gemm_scale(scale, 128);
}
}  // namespace

void batched_gemm_nt_cpu(const BatchedGemmNtProblem& problem, const BatchedGemmNtArgs& args,
                         const Context& context) {
  // One product per group; the list is kept from call to call.
  thread_local std::vector<cpu::Gemm> products;
  products.clear();
  for (std::int64_t g = 0; g < problem.groups; ++g) {
    products.push_back({.m = problem.tokens,
                        .n = problem.n,
                        .k = problem.k,
                        .a = element_address(args.x, g * args.x.step(1)),
                        .a_dtype = problem.x,
                        .a_stride = args.x.step(0),
                        .b = element_address(args.w, g * args.w.step(0)),
                        .b_dtype = problem.w,
                        .b_stride = args.w.step(1),
                        .b_scale = scale_of_group(args.w_scale, g),
                        .out = element_address(args.out, g * args.out.step(1)),
                        .out_dtype = problem.out,
                        .out_stride = args.out.step(0)});
  }
  cpu::link_weights(products);
  cpu::gemm_all(products, context);
}

}  // namespace fathom
