// The implementations of mla_prepare.
#pragma once
#include "fathom/ops/mla_prepare.hpp"
#include "ops/copy_rows/copy_rows_impl.hpp"
#include "ops/mla_cache_store/mla_cache_store_impl.hpp"
#include "ops/rms_norm/rms_norm_impl.hpp"
#include "ops/rope/rope_impl.hpp"

namespace fathom {

/// One implementation of each op that this one stands for.
struct MlaSteps {
  decltype(&rms_norm_ref) rms_norm;
  decltype(&copy_rows_ref) copy;
  decltype(&rope_ref) rope;
  decltype(&mla_cache_store_ref) store;
};
/// These steps for tokens [first, last); scratch has room for lora + rope_dim floats each.
void mla_key_chain(const MlaSteps& steps, const MlaPrepareProblem& problem, const MlaPrepareArgs& args,
                   const Context& context, std::int64_t first, std::int64_t last, float* scratch);
/// The queries of tokens [first, last); scratch has room for heads * rope_dim floats each.
void mla_query_chain(const MlaSteps& steps, const MlaPrepareProblem& problem, const MlaPrepareArgs& args,
                     const Context& context, std::int64_t first, std::int64_t last, float* scratch);

void mla_prepare_ref(const MlaPrepareProblem& problem, const MlaPrepareArgs& args, const Context& context);
void mla_prepare_cpu(const MlaPrepareProblem& problem, const MlaPrepareArgs& args, const Context& context);
void mla_prepare_simt(const MlaPrepareProblem& problem, const MlaPrepareArgs& args, const Context& context);
}  // namespace fathom
