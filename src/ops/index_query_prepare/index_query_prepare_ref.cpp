#include <vector>

#include "ops/head_gate/head_gate_impl.hpp"
#include "ops/index_query_prepare/index_query_prepare_impl.hpp"
#include "ops/row_pieces.hpp"

namespace fathom {
namespace {

/// [heads, dim] of token t.
TensorView heads_of(TensorView x, std::int64_t t) {
  x = x.rows(t, t + 1);
  x.rank = 2;
  x.shape = {x.size(1), x.size(2)};
  x.stride = {x.step(1), x.step(2)};
  return x;
}

/// Neighbouring rows as one.
TensorView one_row(TensorView x) {
  x.shape = {1, x.count()};
  x.stride = {x.count(), 1};
  return x;
}

}  // namespace

void index_query_chain(const IndexQuerySteps& steps, const IndexQueryPrepareProblem& problem,
                       const IndexQueryPrepareArgs& args, const Context& context, std::int64_t token,
                       float* scratch) {
  const std::int64_t heads = problem.heads;
  const std::int64_t dim = problem.dim;
  const bool quantised = problem.out == DType::f8e4m3;
  const TensorView from = heads_of(args.q, token);
  const TensorView out = heads_of(args.out, token);
  const TensorView q = quantised ? scratch_rows(scratch + heads, heads, dim) : out;
  if (from.data != q.data) {
    // Heads without gaps are one row: a copy of 32 KB in place of 64 small ones.
    const bool dense = from.step(0) == dim && q.step(0) == dim;
    const auto row = [&](const TensorView& x) { return dense ? one_row(x) : x; };
    steps.copy({.tokens = row(q).size(0), .dim = row(q).size(1), .x = problem.q},
               {.x = row(from), .rows = {}, .out = row(q)}, context);
  }
  TensorView token_heads = q;  // [1, heads, dim]
  token_heads.rank = 3;
  token_heads.shape = {1, heads, dim};
  token_heads.stride = {0, q.step(0), 1};
  steps.rope({.tokens = 1,
              .heads = heads,
              .dim = dim,
              .rope_dim = problem.rope_dim,
              .offset = problem.offset,
              .style = problem.style},
             {.x = token_heads,
              .positions = args.positions.rows(token, token + 1),
              .cos_sin = args.cos_sin,
              .offset = problem.offset,
              .style = problem.style},
             context);
  if (problem.hadamard) steps.hadamard({.rows = heads, .dim = dim}, {.x = q, .out = q}, context);
  const float* scales = scratch;
  if (quantised) {
    TensorView scale = scratch_rows(scratch, heads, 1);
    if (problem.scale) scale.data = args.scale.as<float>() + token * args.scale.step(0);
    const ScaleFormat format = problem.ue8m0 ? ScaleFormat::ue8m0 : ScaleFormat::f32;
    steps.quantize({.tokens = heads, .k = dim, .rule = QuantRule::indexer, .scale_format = format},
                   {.x = q, .q = out, .scale = scale, .rule = QuantRule::indexer, .scale_format = format},
                   context);
    scales = scale.as<float>();
  }
  if (!problem.gate) return;
  const float factor = head_gate_factor(args.softmax_scale, heads);
  float* gate = args.gate.as<float>() + token * args.gate.step(0);
  for (std::int64_t h = 0; h < heads; ++h) gate[h] *= quantised ? factor * scales[h] : factor;
}

void index_query_prepare_ref(const IndexQueryPrepareProblem& problem, const IndexQueryPrepareArgs& args,
                             const Context& context) {
  std::vector<float> scratch(static_cast<std::size_t>(problem.heads * (problem.dim + 1)));
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    index_query_chain({copy_rows_ref, rope_ref, hadamard_ref, quantize_groups_ref}, problem, args, context, t,
                      scratch.data());
  }
}

}  // namespace fathom
