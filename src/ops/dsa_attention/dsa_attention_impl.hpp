// The implementations of dsa_attention.
#pragma once
#include "fathom/ops/dsa_attention.hpp"
#include "ops/dispatch.hpp"
#include "ops/validate.hpp"

namespace fathom {

/// Where the parts of the workspace begin, in bytes.
struct DsaAttentionParts {
  explicit DsaAttentionParts(const DsaAttentionProblem& problem);

  std::int64_t columns;             // of down: q_lora of them, and, beginning at these,
  std::int64_t kv_column;           // lora + rope
  std::int64_t index_column;        // and index_dim
  std::int64_t x, x_scale, x_bf16;  // the input as products read it
  std::int64_t down;                // what q_a, kv_a and index_k make of it, beside one another
  std::int64_t q_latent, q_latent_scale, q_latent_bf16;
  std::int64_t q;
  std::int64_t indices;
  // of the indexer
  std::int64_t index_q, index_q_f8, index_q_scale, gate;
  std::int64_t keys, key_scales;  // gathered, in mode extend
  std::int64_t scores;
  std::int64_t score_rows, score_pitch;  // rows at a time; elements from one to the next
  // of attention, on the indexer's
  std::int64_t q_nope, query, attended, values, values_f8, values_scale, values_bf16;
  std::int64_t bytes;
};

/// The columns of one row of scores.
inline std::int64_t score_columns(const DsaAttentionProblem& p) {
  return p.mode == ForwardMode::extend ? p.keys : p.max_seqlen_k;
}

/// Whether keys and queries are prepared by one op each (index_key_prepare, index_query_prepare, mla_prepare)
/// instead of one for every step. On a device, which takes longer to start a kernel than to run one of these;
/// and where steps would round to bf16 in between, so that host and device round alike. Else both give the
/// same bytes, and the steps are faster on a host.
inline bool prepares_in_one(const DsaAttentionProblem& p, Device device) {
  return !on_host(device) || p.inner == DType::bf16;
}

void dsa_attention_ref(const DsaAttentionProblem& problem, const DsaAttentionArgs& args,
                       const Context& context);
void dsa_attention_chain(const DsaAttentionProblem& problem, const DsaAttentionArgs& args,
                         const Context& context);
Verdict dsa_attention_simt_can_run(const DsaAttentionProblem& problem, const Context& context);

}  // namespace fathom
