// dsa_attention on CUDA: the chain of dsa_attention_cpu.cpp, whose ops launch device code there.
#include "fathom/ops/batched_gemm_nt.hpp"
#include "fathom/ops/bf16_gemm_nt.hpp"
#include "fathom/ops/copy_rows.hpp"
#include "fathom/ops/fp8_gemm_nt.hpp"
#include "fathom/ops/head_gate.hpp"
#include "fathom/ops/index_key_gather.hpp"
#include "fathom/ops/index_key_prepare.hpp"
#include "fathom/ops/index_query_prepare.hpp"
#include "fathom/ops/linear_bf16_fp32.hpp"
#include "fathom/ops/mla_prepare.hpp"
#include "fathom/ops/mqa_logits.hpp"
#include "fathom/ops/paged_mqa_logits.hpp"
#include "fathom/ops/quantize_groups.hpp"
#include "fathom/ops/rms_norm.hpp"
#include "fathom/ops/rope.hpp"
#include "fathom/ops/sparse_mla.hpp"
#include "fathom/ops/top_k.hpp"
#include "ops/dsa_attention/dsa_attention_impl.hpp"
#include "ops/kernels.hpp"
#include "ops/prepare_kernels.hpp"

namespace fathom {
namespace {

/// The problems of the chain's calls.
class Calls {
 public:
  explicit Calls(const DsaAttentionProblem& p) : p_(p), parts_(p), decode_(p.mode != ForwardMode::extend) {}

  std::vector<std::string> list() {
    const std::int64_t kv = p_.lora + p_.rope;
    if (p_.weight == DType::f8e4m3) quantised(p_.x, p_.hidden);
    if (p_.joined == 3) product(parts_.columns, p_.hidden);
    if (p_.joined == 2) product(p_.q_lora + kv, p_.hidden);
    if (p_.joined == 1) product(p_.q_lora, p_.hidden), product(kv, p_.hidden);
    if (p_.joined < 3) product(p_.index_dim, p_.hidden);
    add(IndexKeyPrepareProblem{.tokens = p_.rows,
                               .dim = p_.index_dim,
                               .rope_dim = p_.rope,
                               .hadamard = p_.index == DType::u8,
                               .k = p_.inner,
                               .cache = p_.index,
                               .ue8m0 = p_.ue8m0,
                               .page = p_.page});
    add(MlaPrepareProblem{.tokens = p_.rows,
                          .lora = p_.lora,
                          .rope_dim = p_.rope,
                          .heads = p_.store_only ? 0 : p_.heads,
                          .kv = p_.inner,
                          .cache = p_.kv,
                          .q = p_.inner,
                          .q_out = query()});
    if (p_.store_only) return std::move(problems_);
    add(RmsNormProblem{.tokens = p_.rows, .dim = p_.q_lora, .x = p_.inner, .out = p_.inner});
    if (p_.weight == DType::f8e4m3) quantised(p_.inner, p_.q_lora);
    product(p_.heads * (p_.nope + p_.rope), p_.q_lora);
    if (p_.sparse()) indexer();
    for (const std::int64_t rows : at_a_time()) {
      add(TopKProblem{.rows = rows,
                      .n = p_.sparse() ? score_columns(p_) : 0,
                      .k = p_.top_k(),
                      .transform = TopKTransform::paged,
                      .page = p_.page});
    }
    attention();
    return std::move(problems_);
  }

 private:
  template <class Problem>
  void add(const Problem& problem) {
    problems_.push_back(problem_string(problem));
  }
  void quantised(DType x, std::int64_t k) { add(QuantizeGroupsProblem{.tokens = p_.rows, .k = k, .x = x}); }
  void product(std::int64_t n, std::int64_t k) { product(n, k, p_.inner, false); }
  void product(std::int64_t n, std::int64_t k, DType out, bool accumulate) {
    if (p_.weight == DType::f8e4m3) {
      add(Fp8GemmNtProblem{
          .m = p_.rows, .n = n, .k = k, .out = out, .accumulate = accumulate, .decode = decode_});
    } else if (out == DType::f32 && !accumulate) {
      add(LinearBf16Fp32Problem{.m = p_.rows, .n = n, .k = k, .decode = decode_});
    } else {
      add(Bf16GemmNtProblem{
          .m = p_.rows, .n = n, .k = k, .out = out, .accumulate = accumulate, .decode = decode_});
    }
  }
  DType query() const { return p_.kv == DType::f32 ? DType::f32 : p_.compute; }
  // Rows that are scored and chosen for in one, and those that are left for the last time.
  std::vector<std::int64_t> at_a_time() const {
    const std::int64_t most = p_.sparse() ? std::min(p_.rows, parts_.score_rows) : p_.rows;
    if (most == 0 || p_.rows % most == 0) return {most};
    return {most, p_.rows % most};
  }

  void indexer() {
    const std::int64_t heads = p_.index_heads;
    const bool f8 = p_.index == DType::u8;
    const DType key = f8 ? DType::f8e4m3 : DType::f32;
    product(heads * p_.index_dim, p_.q_lora);
    if (f8) {
      add(IndexQueryPrepareProblem{.tokens = p_.rows,
                                   .heads = heads,
                                   .dim = p_.index_dim,
                                   .rope_dim = p_.rope,
                                   .q = p_.inner,
                                   .ue8m0 = p_.ue8m0});
    } else {
      add(RopeProblem{.tokens = p_.rows,
                      .heads = heads,
                      .dim = p_.index_dim,
                      .rope_dim = p_.rope,
                      .style = RopeStyle::half_split,
                      .x = p_.inner});
    }
    add(HeadGateProblem{
        .tokens = p_.rows, .heads = heads, .hidden = p_.hidden, .q_scale = f8, .decode = decode_});
    if (p_.mode == ForwardMode::extend) {
      add(IndexKeyGatherProblem{
          .batch = p_.batch, .keys = p_.keys, .dim = p_.index_dim, .cache = p_.index, .page = p_.page});
      for (const std::int64_t rows : at_a_time())
        add(MqaLogitsProblem{
            .tokens = rows, .keys = p_.keys, .heads = heads, .head_dim = p_.index_dim, .q = key});
    } else {
      const std::int64_t next_n = p_.packed ? 1 : std::max<std::int64_t>(p_.rows / p_.batch, 1);
      for (const std::int64_t rows : at_a_time())
        add(PagedMqaLogitsProblem{.batch = rows / next_n,
                                  .next_n = next_n,
                                  .heads = heads,
                                  .head_dim = p_.index_dim,
                                  .max_len = p_.max_seqlen_k,
                                  .q = key,
                                  .page = p_.page});
    }
  }

  void attention() {
    const auto absorbed = [&](std::int64_t n, std::int64_t k, DType out) {
      add(BatchedGemmNtProblem{.tokens = p_.rows,
                               .groups = p_.heads,
                               .n = n,
                               .k = k,
                               .x = p_.compute,
                               .w = p_.absorbed,
                               .out = out});
    };
    if (p_.compute != p_.inner) {
      add(CopyRowsProblem{
          .tokens = p_.rows, .heads = p_.heads, .dim = p_.nope, .x = p_.inner, .out = p_.compute});
    }
    absorbed(p_.lora, p_.nope, query());
    add(SparseMlaProblem{.tokens = p_.rows,
                         .heads = p_.heads,
                         .lora = p_.lora,
                         .rope_dim = p_.rope,
                         .top_k = p_.top_k(),
                         .q = query(),
                         .cache = p_.kv,
                         .out = p_.compute,
                         .decode = decode_});
    absorbed(p_.value, p_.lora, p_.inner);
    if (p_.weight == DType::f8e4m3) quantised(p_.inner, p_.heads * p_.value);
    product(p_.hidden, p_.heads * p_.value, p_.out, p_.accumulate);
  }

  const DsaAttentionProblem& p_;
  DsaAttentionParts parts_;
  bool decode_;
  std::vector<std::string> problems_;
};

}  // namespace

Verdict dsa_attention_simt_can_run(const DsaAttentionProblem& problem, const Context&) {
  if (problem.compute != DType::bf16) return decline("needs compute=bf16, got f32");
  if (problem.weight == DType::f32) return decline("needs weights in f8e4m3 or bf16, got f32");
  if (problem.index_dim > kMostPrepared) {
    return decline("needs an index_dim up to " + std::to_string(kMostPrepared) + ", got " +
                   std::to_string(problem.index_dim));
  }
  return accept;
}

KernelSources dsa_attention_kernels;
std::vector<jit::Source> dsa_attention_kernels(std::string_view text, const cuda::DeviceInfo& device) {
  const auto problem = parse_problem<DsaAttentionProblem>(text);
  return kernel_sources(Calls(problem).list(), device);
}

}  // namespace fathom
