// The implementations of index_key_prepare.
#pragma once
#include "fathom/ops/index_key_prepare.hpp"
#include "ops/dispatch.hpp"
#include "ops/hadamard/hadamard_impl.hpp"
#include "ops/index_key_store/index_key_store_impl.hpp"
#include "ops/layer_norm/layer_norm_impl.hpp"
#include "ops/rope/rope_impl.hpp"

namespace fathom {

/// One implementation of each op that this one stands for.
struct IndexKeySteps {
  decltype(&layer_norm_ref) layer_norm;
  decltype(&rope_ref) rope;
  decltype(&hadamard_ref) hadamard;
  decltype(&index_key_store_ref) store;
};
/// These steps for tokens [first, last); scratch has room for dim floats each.
void index_key_chain(const IndexKeySteps& steps, const IndexKeyPrepareProblem& problem,
                     const IndexKeyPrepareArgs& args, const Context& context, std::int64_t first,
                     std::int64_t last, float* scratch);

void index_key_prepare_ref(const IndexKeyPrepareProblem& problem, const IndexKeyPrepareArgs& args,
                           const Context& context);
void index_key_prepare_cpu(const IndexKeyPrepareProblem& problem, const IndexKeyPrepareArgs& args,
                           const Context& context);
Verdict index_key_prepare_simt_can_run(const IndexKeyPrepareProblem& problem, const Context& context);
void index_key_prepare_simt(const IndexKeyPrepareProblem& problem, const IndexKeyPrepareArgs& args,
                            const Context& context);
}  // namespace fathom
