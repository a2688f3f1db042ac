#include <cmath>

#include "layout/prepare.cuh"
#include "ops/head_gate/head_gate_impl.hpp"
#include "ops/index_query_prepare/index_query_prepare_impl.hpp"
#include "ops/kernels.hpp"
#include "ops/prepare_kernels.hpp"

namespace fathom {
namespace {

jit::Source source(const PreparePlan& plan) {
  return prepare_source("index_query_prepare", "IndexQueryPrepareKernel", sizeof(IndexQueryPrepareKernel),
                        plan);
}

}  // namespace

Verdict index_query_prepare_simt_can_run(const IndexQueryPrepareProblem& problem, const Context& context) {
  return prepare_can_run(problem, context);
}

void index_query_prepare_simt(const IndexQueryPrepareProblem& problem, const IndexQueryPrepareArgs& args,
                              const Context& context) {
  if (problem.tokens == 0) return;
  const IndexQueryPrepareKernel kernel{
      .q = simt_rows(args.q),
      .rotation = simt_rotation(args.positions, args.cos_sin, problem.offset,
                                problem.style == RopeStyle::interleaved),
      .out = args.out.data,
      .out_row = args.out.step(0),
      .out_head = args.out.step(1),
      .scale = args.scale.as<float>(),
      .gate = args.gate.as<float>(),
      .scale_row = problem.scale ? args.scale.step(0) : 0,
      .gate_row = problem.gate ? args.gate.step(0) : 0,
      .tokens = problem.tokens,
      .heads = problem.heads,
      .dim = static_cast<int>(problem.dim),
      .quantised = problem.out == DType::f8e4m3,
      .hadamard = problem.hadamard,
      .ue8m0 = problem.ue8m0,
      .gate_factor = head_gate_factor(args.softmax_scale, problem.heads),
      .hadamard_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(problem.dim)))};
  const PreparePlan plan = prepare_plan(problem.dim);
  const std::int64_t each = query_heads_of_a_warp(plan.each);
  const std::int64_t tasks = problem.tokens * ((problem.heads + each - 1) / each);
  jit::launch(jit::kernel(context, source, plan),
              {.grid = {simt_blocks(tasks, kRowWarps)}, .block = {kRowThreads}}, context, kernel);
}

KernelSources index_query_prepare_kernels;
std::vector<jit::Source> index_query_prepare_kernels(std::string_view text, const cuda::DeviceInfo&) {
  const auto problem = parse_problem<IndexQueryPrepareProblem>(text);
  if (problem.dim < 1 || problem.dim > kMostPrepared) return {};
  return {source(prepare_plan(problem.dim))};
}

}  // namespace fathom
