#include "bench.hpp"
#include "fathom/ops/mla_absorb.hpp"

namespace fathom {

BenchCase mla_absorb_bench(std::string_view text, const Context& context) {
  const auto p = parse_problem<MlaAbsorbProblem>(text);
  const std::int64_t rows = p.heads * (p.nope + p.value);
  const auto kv_b = bench_normal(p.kv_b, {rows, p.lora});
  const auto scale = bench_normal(DType::f32, {(rows + 127) / 128, (p.lora + 127) / 128});
  const auto w_uk = bench_normal(p.out, {p.heads, p.lora, p.nope});
  const auto w_uv = bench_normal(p.out, {p.heads, p.value, p.lora});
  const auto uk_scale = bench_normal(DType::f32, {p.heads, (p.lora + 127) / 128, (p.nope + 127) / 128});
  return {.problem = problem_string(p),
          .bytes = static_cast<double>(kv_b->size() + scale->size() + w_uk->size() + w_uv->size()),
          .flops = 0,
          .run = [=, &context](std::int64_t) {
            MlaAbsorbArgs args{.kv_b = kv_b->view(p.kv_b, {rows, p.lora}),
                               .w_uk = w_uk->view(p.out, {p.heads, p.lora, p.nope})};
            if (p.out == DType::f8e4m3) {
              args.w_uk_scale = uk_scale->view(DType::f32, {p.heads, (p.lora + 127) / 128, p.nope / 128});
            } else {
              args.w_uv = w_uv->view(p.out, {p.heads, p.value, p.lora});
            }
            if (p.kv_b == DType::f8e4m3)
              args.kv_b_scale = scale->view(DType::f32, {(rows + 127) / 128, (p.lora + 127) / 128});
            mla_absorb(args, context);
          }};
}

}  // namespace fathom
