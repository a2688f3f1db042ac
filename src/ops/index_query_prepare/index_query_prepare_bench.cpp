#include "bench.hpp"
#include "fathom/ops/index_query_prepare.hpp"
#include "ops/prepare_bench.hpp"

namespace fathom {

BenchCase index_query_prepare_bench(std::string_view text, const Context& context) {
  const auto problem = parse_problem<IndexQueryPrepareProblem>(text);
  const std::int64_t tokens = problem.tokens;
  const std::int64_t heads = problem.heads;
  const std::int64_t dim = problem.dim;
  const auto q = bench_normal(problem.q, {tokens, heads, dim});
  const auto positions = bench_ascending(tokens);
  const auto table = bench_rope_table(problem.rope_dim, tokens);
  const auto out = bench_zeros(tokens * heads * dim * size_of(problem.out));
  const auto scale = bench_zeros(tokens * heads * size_of(DType::f32));
  const auto gate = bench_zeros(tokens * heads * size_of(DType::f32));  // zeros stay zeros
  const auto optional = [=](bool given, const std::shared_ptr<BenchBuffer>& buffer) {
    return given ? buffer->view(DType::f32, {tokens, heads}) : TensorView{};
  };
  const auto factors = static_cast<double>(scale->size()) * (problem.scale + 2 * problem.gate);
  return {.problem = problem_string(problem),
          .bytes = static_cast<double>(q->size() + table->size() + out->size()) + factors,
          .run = [=, &context](std::int64_t) {
            index_query_prepare({.q = q->view(problem.q, {tokens, heads, dim}),
                                 .positions = positions->view(DType::i32, {tokens}),
                                 .cos_sin = table->view(DType::f32, {tokens, problem.rope_dim}),
                                 .out = out->view(problem.out, {tokens, heads, dim}),
                                 .scale = optional(problem.scale, scale),
                                 .gate = optional(problem.gate, gate),
                                 .offset = problem.offset,
                                 .style = problem.style,
                                 .hadamard = problem.hadamard,
                                 .ue8m0 = problem.ue8m0},
                                context);
          }};
}

}  // namespace fathom
